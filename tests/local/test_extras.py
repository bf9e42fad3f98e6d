"""Missing packages of an extra are named with the extra that installs them."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest

from oyer.local.extras import WORKER_PACKAGES, of_worker, require
from oyer.protocol.errors import BackendUnavailable, MissingExtra
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]

NOT_BY_NAME = {"oyer", "backports", "compression", "opentelemetry", "redis"}
"""Ours, namespaces, Python 3.14's own, and what `celery[redis]` declares."""


def names_of(requirements: list[str]) -> set[str]:
    """Give the packages of requirements, with underscores."""
    return {re.split(r"[\[>=<; ]", line)[0].replace("-", "_") for line in requirements}


def test_the_workers_modules_are_those_of_the_extra() -> None:
    assert names_of(EXTRAS["worker"]) == set(WORKER_PACKAGES)


def test_the_packages_that_worker_code_imports_are_declared() -> None:
    """Not only brought by others: a missing one is then named with its extra."""
    declared = names_of(
        [*PROJECT["dependencies"], *(one for row in EXTRAS.values() for one in row)]
    )
    packages = packages_distributions()
    found = set()
    for room in ("protocol", "telemetry", "config", "tasks", "models", "migrations", "local"):
        for file in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    found |= {one.name.partition(".")[0] for one in node.names}
                elif isinstance(node, ast.ImportFrom):
                    found.add(str(node.module).partition(".")[0])
    others = found - sys.stdlib_module_names - NOT_BY_NAME
    assert "httpx2" in others
    undeclared = [
        name
        for name in others
        if declared.isdisjoint(one.replace("-", "_").lower() for one in packages.get(name, [name]))
    ]
    assert undeclared == []


def test_a_module_that_is_missing_is_named_with_its_extra() -> None:
    require("this", "worker", "json", "numpy")
    with pytest.raises(MissingExtra, match=r"^`oyer x` needs no_such_module: pip install 'oyer\["):
        require("`oyer x`", "worker", "json", "no_such_module")
    assert issubclass(MissingExtra, BackendUnavailable)


@pytest.mark.parametrize(
    ("module", "found"),
    [("sqlalchemy.orm", "sqlalchemy"), ("gevent", "gevent"), ("numpy", None), (None, None)],
)
def test_a_failed_import_is_one_of_the_extra_or_another(
    module: str | None, found: str | None
) -> None:
    assert of_worker(ModuleNotFoundError("gone", name=module)) == found
