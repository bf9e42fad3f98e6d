"""The generated pages are those of the code, and the site lists every page."""

import ast
import inspect
import re
from pathlib import Path

import pytest
import yaml

import oyer.manager
from docs_site import reference
from docs_site.lengths import NOT_PLOTTED
from oyer.config.length_methods.catalogue import METHODS
from oyer.protocol import errors
from oyer.protocol.status import Status
from tests.support.doc_pages import blocks
from tests.support.paths import ROOT
from tests.test_examples import named

DOCS = ROOT / "docs"


@pytest.mark.parametrize("file", list(reference.pages()), ids=lambda file: file.name)
def test_a_generated_page_is_that_of_the_code(file: Path) -> None:
    assert file.read_text() == reference.pages()[file], "run `make docs`"


def test_each_method_that_can_be_plotted_has_a_plot_and_no_other_has() -> None:
    plots = {file.stem for file in (DOCS / "images" / "lengths").glob("*.png")}
    assert plots == {name for name, method in METHODS.items() if method.kind not in NOT_PLOTTED}


def test_the_python_reference_has_every_public_name_and_no_other() -> None:
    text = (DOCS / "reference" / "python.md").read_text()
    listed = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    public = {f"oyer.manager.{name}" for name in oyer.manager.__all__}
    assert public <= set(listed)
    assert [name for name in listed if not named(name)] == []


def test_the_python_reference_has_each_function_that_a_snippet_imports() -> None:
    listed = (DOCS / "reference" / "python.md").read_text()
    imported = {
        f"{node.module}.{one.name}"
        for block in blocks("python")
        for node in ast.walk(ast.parse(block.text))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("oyer.")
        for one in node.names
        if not inspect.ismodule(named(f"{node.module}.{one.name}"))
    }
    assert len(imported) > 5
    assert [name for name in imported if f"::: {name}\n" not in listed] == []


def test_every_status_has_a_row_with_what_to_do() -> None:
    text = (DOCS / "troubleshooting.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| .+ \| .+ \|$", text, re.MULTILINE)
    assert {status.value for status in Status} <= set(rows)


def test_every_error_has_a_row() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    assert kinds - {"Any", "OyerError", "InvalidInput"} <= set(rows)


def test_each_log_line_of_the_page_is_one_of_the_code() -> None:
    text = (DOCS / "troubleshooting.md").read_text()
    tables = re.findall(r"^\| line contains .*?\n\n", text, re.DOTALL | re.MULTILINE)
    cells = [row.split(" | ")[0] for table in tables for row in table.splitlines()[2:]]
    lines = [line for cell in cells for line in re.findall(r"`([^`]+)`", cell)]
    code = "\n".join(
        file.read_text()
        for room in ("tasks", "manager", "protocol")
        for file in (ROOT / room).rglob("*.py")
    )
    assert len(lines) > 15
    assert [line for line in lines if line not in code] == []


def test_each_page_has_a_place_on_the_site() -> None:
    listed = set(re.findall(r"([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    pages = {str(file.relative_to(DOCS)) for file in DOCS.rglob("*.md")}
    assert listed - {"CONTRIBUTING.md", "CHANGELOG.md"} == pages


def test_the_site_loads_nothing_from_other_hosts() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text().replace("!ENV", ""))
    assert settings["theme"]["font"] is False
    assert all("://" not in script for script in settings["extra"]["polyfills"])
    assert settings["strict"] is True
