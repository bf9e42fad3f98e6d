"""Wheel and sdist hold the package, and the wheel works without the source folder."""

import json
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest

import oyer
from tests.packaging.environments import Distributions, Environment, tracked_files
from tests.support.paths import ROOT

pytestmark = pytest.mark.package

SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = {"oyer", *(f for n, f in SETUPTOOLS["package-dir"].items() if n.count(".") == 1)}


def packaged() -> set[str]:
    """Return the files that belong into the package, as their paths in a wheel."""
    files = [name for name in tracked_files() if name.partition("/")[0] in FOLDERS]
    return {name if name.startswith("oyer/") else f"oyer/{name}" for name in files}


def test_the_wheel_holds_every_file_of_the_package_and_no_other(
    distributions: Distributions,
) -> None:
    with zipfile.ZipFile(distributions.wheel) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == packaged()
    kinds = {name.rpartition(".")[2] for name in held}
    assert kinds >= {"py", "lua", "md", "html", "css", "js", "typed", "jsonl", "mako"}


def test_the_sdist_holds_what_the_wheel_is_built_from(distributions: Distributions) -> None:
    with tarfile.open(distributions.sdist) as sdist:
        held = {name.partition("/")[2] for name in sdist.getnames()}
    assert held >= {name for name in tracked_files() if name.partition("/")[0] in FOLDERS}
    assert held >= {"pyproject.toml", "README.md", "LICENSE"}


def test_a_type_checker_finds_the_types_of_the_wheel(trainer: Environment) -> None:
    program = trainer.folder / "program.py"
    program.write_text("from oyer.manager import Rollout\nRollout(prompt=3, response='r')\n")
    python = str(trainer.path / "bin" / "python")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", "--python-executable", python, program],
        cwd=trainer.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    (error, summary) = done.stdout.splitlines()
    assert error.startswith('program.py:2: error: Argument "prompt" to "Rollout"'), done.stdout
    assert summary.startswith("Found 1 error")


def test_the_program_and_an_embedded_backend_work(everything: Environment) -> None:
    version = everything.run("oyer", "--version")
    assert (version.stdout, version.stderr) == (f"oyer {oyer.__version__}\n", "")
    demo = everything.run("oyer", "demo", "--rollouts", "16", "--json")
    assert demo.returncode == 0, demo.stderr
    assert json.loads(demo.stdout)["rollouts"] == 16
    record = f"sqlite:///{everything.folder / 'oyer-demo.db'}"
    current = everything.run("oyer", "db", "current", "--url", record)
    assert current.returncode == 0, current.stderr
    page = everything.run("oyer", "view", "--url", record, "--export", "demo", "page.html")
    assert page.returncode == 0, page.stderr
