"""What `import oyer` gives: public names, the version, and which `oyer` it is; tests/packaging builds it."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import oyer
import oyer.manager
from oyer.local.worker_commands import worker_argv
from tests.support.paths import ROOT


def python(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def shadowed(tmp_path: Path) -> Path:
    """A working folder with `./oyer` and `./redis`, packages that end the process that imports them."""
    for name in ("oyer", "redis"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('./{name} was imported')")
    return tmp_path


@pytest.mark.parametrize("name", oyer.manager.__all__)
def test_each_public_name_comes_from_the_package(name: str) -> None:
    assert getattr(oyer, name) is getattr(oyer.manager, name)
    assert name in dir(oyer)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'oyer' has no attribute 'Supervisor'"):
        oyer.Supervisor  # noqa: B018 - the look-up is what is tested


def test_the_version_is_that_of_the_distribution(tmp_path: Path) -> None:
    assert oyer.__version__ == metadata.version("oyer")
    assert python("-m", "oyer", "--version", cwd=tmp_path).stdout == f"oyer {oyer.__version__}\n"


def test_importing_the_package_loads_no_subpackage(tmp_path: Path) -> None:
    code = "import oyer, sys; print([m for m in sys.modules if m.startswith('oyer.')])"
    assert python("-c", code, cwd=tmp_path).stdout == "[]\n"


def test_a_folder_without_init_called_oyer_shadows_nothing(tmp_path: Path) -> None:
    """As where a clone lies in the working folder."""
    (tmp_path / "oyer" / "tasks").mkdir(parents=True)
    (tmp_path / "oyer" / "tasks" / "__init__.py").write_text("raise SystemExit('shadowed')")
    # The folder of links is on the path like a wheel's; an editable install has a hook instead.
    code = "import oyer.tasks; print(oyer.__version__)"
    done = python("-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT / "typings"))
    assert (done.stdout, done.returncode) == (f"{oyer.__version__}\n", 0)


@pytest.mark.parametrize("kind", ["judge", "length", "combine"])
def test_a_worker_imports_nothing_from_its_working_folder(shadowed: Path, kind: str) -> None:
    argv = [*worker_argv(kind, name=kind)[1:], "--help"]
    done = python(*argv, cwd=shadowed, OYER_BROKER__URL="redis://127.0.0.1:1/0")
    assert "was imported" not in done.stderr
    assert done.returncode == 0
    assert "Start worker instance" in done.stdout


def test_import_paths_of_earlier_releases_name_the_same_objects() -> None:
    from oyer.config import loading
    from oyer.protocol import errors
    from oyer.tasks import errors as earlier_errors
    from oyer.tasks import settings as earlier_settings

    assert earlier_errors.InvalidConfig is errors.InvalidConfig
    assert earlier_errors.BatchCancelled is errors.BatchCancelled
    assert earlier_settings.load_config is loading.load_config
