"""The packages that are installed are the folders that hold code."""

import tomllib
from pathlib import Path

from tests.support.paths import ROOT

NOT_INSTALLED = {"tests", "benchmarks", "typings", "build", "dist"}


def test_the_list_of_packages_is_the_folders_with_an_init() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = settings["tool"]["setuptools"]["packages"]
    folders = [init.parent.relative_to(ROOT) for init in ROOT.glob("[!.]*/**/__init__.py")]
    folders = [f for f in folders if f.parts[0] not in NOT_INSTALLED]
    found = {"oyer" if f == Path("oyer") else ".".join(("oyer", *f.parts)) for f in folders}
    assert found == set(listed)
    assert len(listed) == len(set(listed))


def test_the_first_page_names_every_extra() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = settings["project"]["optional-dependencies"].keys() - {"dev"}
    page = (ROOT / "docs" / "start.md").read_text()
    assert {extra for extra in extras if f"\n| `{extra}` |" not in page} == set()
