"""Every snippet of the documentation is one that works: it compiles, loads or is a command.

tests/test_record_docs.py runs the queries.
"""

import ast
import importlib.util
import inspect
import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from oyer.cli import app
from oyer.config.loading import validate
from oyer.config.reward import RewardConfig
from oyer.manager import RewardBatch, RewardFuture, RewardManager
from tests.support.doc_pages import PAGES, Block, blocks, commands, name_of, without_blocks
from tests.support.paths import ROOT
from tests.test_examples import named

OURS = {"manager": RewardManager, "future": RewardFuture, "batch": RewardBatch}
"""What the names of the snippets are."""

RUBRIC = '"{response}. {verdict}"'
"""Stands for a rubric file of the reader."""


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_compiles_and_names_what_there_is(block: Block) -> None:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
    tree = compile(block.text, str(block), "exec", flags)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("oyer"):
            module = importlib.import_module(str(node.module))
            assert [one.name for one in node.names if not hasattr(module, one.name)] == []
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            kind = OURS.get(node.value.id)
            assert kind is None or has_attribute(kind, node.attr), f"{node.value.id}.{node.attr}"
        if isinstance(node, ast.Call):
            check_keywords(node)


def has_attribute(kind: type, name: str) -> bool:
    """Whether a class has an attribute, a field, or sets it in a method."""
    fields = getattr(kind, "__annotations__", {})
    return hasattr(kind, name) or name in fields or f"self.{name} =" in inspect.getsource(kind)


def check_keywords(call: ast.Call) -> None:
    """Check the keyword arguments of a call of a method of ours."""
    function = call.func
    if not isinstance(function, ast.Attribute) or not isinstance(function.value, ast.Name):
        return
    kind = OURS.get(function.value.id)
    if kind is None:
        return
    parameters = inspect.signature(getattr(kind, function.attr)).parameters
    if all(one.kind is not one.VAR_KEYWORD for one in parameters.values()):
        assert {one.arg for one in call.keywords if one.arg} <= set(parameters)


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_is_read_and_a_configuration_loads(block: Block) -> None:
    """A document with a key of a configuration is one; others, e.g. a trainer's, are only read."""
    for document in yaml.safe_load_all(re.sub(r"\b\w+\.md\b", RUBRIC, block.text)):
        if isinstance(document, dict) and document.keys() & RewardConfig.model_fields.keys():
            validate(document)


@pytest.mark.parametrize("arguments", commands("oyer"))
def test_a_command_is_one_that_the_command_line_has(arguments: str) -> None:
    """An option that a command lacks is refused before `--help` is printed; a text may name an option
    without its value."""
    words = shlex.split(arguments)
    options = [i for i, word in enumerate(words) if word[0] == "-" and word != "-"]
    words.insert(min(options, default=len(words)), "--help")
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 or "requires an argument" in done.output, done.output


def test_an_option_that_a_command_lacks_is_noticed() -> None:
    assert CliRunner().invoke(app, ["score", "--no-such-option", "--help"]).exit_code == 2


def test_each_target_of_make_is_one_that_the_makefile_has() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    words = {word for line in commands("make") for word in shlex.split(line)}
    typed = {word for word in words if "=" not in word and word[0] != "-"}
    assert typed - targets == set()
    assert {"demo", "test"} <= typed


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_links_lead_to_files(page: Path) -> None:
    """`make docs-site` checks anchors as well."""
    targets = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", without_blocks(page))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_names_of_ours_in_a_page_are_there(page: Path) -> None:
    tasks = (ROOT / "protocol" / "names.py").read_text()
    for dotted in re.findall(r"`(oyer(?:\.[A-Za-z_]\w*){2,})`", without_blocks(page)):
        assert f'"{dotted}"' in tasks or find_spec(dotted) or named(dotted), dotted


def test_the_tests_that_the_pages_name_exist() -> None:
    """A name that ends with … is the beginning of several."""
    files = list((ROOT / "tests").rglob("test_*.py"))
    defined = "\n".join(file.read_text() for file in files)
    text = "\n".join(without_blocks(page) for page in PAGES)
    named_tests = re.findall(r"`(?:[\w/.]*::)?(test_[a-z0-9_]+)(…?)`", text)
    assert len(named_tests) > 40
    ends = {name: name if more else f"{name}(" for name, more in named_tests}
    assert [name for name, end in ends.items() if f"def {end}" not in defined] == []
    named_files = set(re.findall(r"`(?:[\w/]*/)?(test_\w+\.py)", text))
    assert named_files <= {file.name for file in files}


def test_the_files_that_are_named_without_their_folder_exist() -> None:
    rooms = ("manager", "metrics", "protocol", "tasks", "tests")
    files = {file.name for room in rooms for file in (ROOT / room).rglob("*.*")}
    pages = [ROOT / "CONTRIBUTING.md", *(ROOT / "docs" / "internals").glob("*.md")]
    text = "\n".join(without_blocks(page) for page in pages)
    named_files = set(re.findall(r"`(\w+\.(?:py|lua))`", text))
    assert len(named_files) > 30
    assert named_files <= files


def find_spec(dotted: str) -> bool:
    """Whether a name is one of a module."""
    try:
        return importlib.util.find_spec(dotted) is not None
    except ModuleNotFoundError:
        return False
