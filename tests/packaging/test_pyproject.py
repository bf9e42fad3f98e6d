"""pyproject.toml lists the folders that hold code, and the extras that code and documentation name."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from oyer.local.extras import WORKER_PACKAGES
from tests.support.paths import ROOT

NOT_INSTALLED = {"tests", "benchmarks", "typings", "build", "dist"}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES: list[str] = PYPROJECT["tool"]["setuptools"]["packages"]
EXTRAS: dict[str, list[str]] = PYPROJECT["project"]["optional-dependencies"]
FOLDERS = sorted({name.split(".")[1] for name in PACKAGES if "." in name})
SOURCES = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]


def modules_of(extra: str) -> set[str]:
    """Return the top-level modules of an extra's own packages and of the extras that it includes."""
    found: set[str] = set()
    for line in EXTRAS[extra]:
        name, _, included = re.split(r"[>=<;]", line)[0].strip().partition("[")
        if name == "oyer":
            found |= set().union(*map(modules_of, included.rstrip("]").split(",")))
        else:
            found.add(name.replace("-", "_"))
    return found


def calls() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Find each call of `require` and `missing`: file, extra, and modules."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            if node.func.id == "require":
                extra, given = node.args[1], node.args[2:]
            elif node.func.id == "missing" and len(node.args) == 3:
                extra, given = node.args[2], [node.args[1]]
            else:
                continue
            if isinstance(extra, ast.Constant):
                named = {one.value for one in given if isinstance(one, ast.Constant)}
                if any(isinstance(one, ast.Starred) for one in given):
                    named |= set(WORKER_PACKAGES)
                # A module that is a variable is one of `of_worker`.
                place = str(path.relative_to(ROOT))
                yield place, str(extra.value), tuple(sorted(map(str, named)))


CALLS = sorted(calls())


def test_the_list_of_packages_is_the_folders_with_an_init() -> None:
    folders = [init.parent.relative_to(ROOT) for init in ROOT.glob("[!.]*/**/__init__.py")]
    folders = [f for f in folders if f.parts[0] not in NOT_INSTALLED]
    found = {"oyer" if f == Path("oyer") else ".".join(("oyer", *f.parts)) for f in folders}
    assert found == set(PACKAGES)
    assert len(PACKAGES) == len(set(PACKAGES))


def test_the_first_page_names_every_extra() -> None:
    page = (ROOT / "docs" / "start.md").read_text()
    assert {extra for extra in EXTRAS if extra != "dev" and f"\n| `{extra}` |" not in page} == set()


def test_all_includes_every_other_extra() -> None:
    (line,) = EXTRAS["all"]
    assert line == f"oyer[{','.join(extra for extra in EXTRAS if extra != 'all')}]"


def test_every_extra_that_runs_workers_or_reads_the_record_includes_their_packages() -> None:
    without = {extra for extra, lines in EXTRAS.items() if "oyer[worker]" not in lines}
    assert without == {"worker", "signing", "otel", "dev", "all"}


def test_an_embedded_backend_includes_what_a_server_of_the_page_and_of_metrics_needs() -> None:
    """`oyer up --view` and `oyer demo --view` serve the page."""
    assert modules_of("server") - modules_of("embedded") == {"fastapi"}


@pytest.mark.parametrize(("place", "extra", "modules"), CALLS, ids=str)
def test_a_module_that_is_checked_for_is_one_of_the_extra_that_the_error_names(
    place: str, extra: str, modules: tuple[str, ...]
) -> None:
    assert set(modules) - modules_of(extra) == set(), place


def test_the_calls_are_found() -> None:
    assert {extra for _, extra, _ in CALLS} == {"worker", "embedded", "server", "plot", "export"}


def test_every_extra_that_code_and_documentation_name_exists() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*")]
    named = {
        extra
        for path in [*SOURCES, *(page for page in pages if page.is_file())]
        for extras in re.findall(r"\boyer\[([a-z,]+)\]", path.read_text())
        for extra in extras.split(",")
    }
    assert named - EXTRAS.keys() == set()
    assert named >= {"worker", "embedded", "server", "gpu", "export", "otel", "signing"}
