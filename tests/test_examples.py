"""The examples name what there is: modules, functions, options, files."""

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from oyer.manager.verl import RewardManager, VerlOptions
from tests.support.paths import ROOT
from tests.support.verl_data import Tokens, base_from_extra_info

EXAMPLES = ROOT / "examples"
TRAINERS = ROOT / "docs" / "trainers"
CONFIG = {
    "endpoints": {"fake": {"base_url": "http://127.0.0.1:9/v1"}},
    "judges": [{"name": "q", "endpoint": "fake", "model": "m"}],
    "broker": {"url": "redis://127.0.0.1:9/0"},
}


def settings_in(page: Path) -> set[str]:
    """Give the last cell of each row of a page's first table."""
    table = page.read_text().split("\n\n|")[1].partition("\n\n")[0]
    return {row.split(" | ")[-1].removesuffix(" |") for row in table.splitlines()[2:]}


def test_the_settings_of_the_examples_are_those_of_the_trainers_page() -> None:
    settings = settings_in(EXAMPLES / "README.md")
    assert len(settings) == 15
    assert settings - settings_in(TRAINERS / "index.md") == set()


@pytest.fixture
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration that `OYER_CONFIG` names."""
    file = tmp_path / "oyer.yaml"
    file.write_text(json.dumps(CONFIG))
    monkeypatch.setenv("OYER_CONFIG", str(file))
    return file


def load(name: str) -> ModuleType:
    """Run an example's module, as OpenRLHF does with its reward file."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def named(dotted: str) -> Any:
    """Import `package.module.name`, or `package.module.Class.name`."""
    module, _, name = dotted.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("oyer"):
            return is_defined(dotted)
        return getattr(named(module), name)


def is_defined(dotted: str) -> bool:
    """Whether the source of an adapter whose trainer is not installed here defines a name."""
    parts = dotted.removeprefix("oyer.").split(".")
    depth = next(
        n for n in range(1, len(parts)) if (ROOT.joinpath(*parts[:n]).with_suffix(".py")).exists()
    )
    source = ROOT.joinpath(*parts[:depth]).with_suffix(".py").read_text()
    return all(
        re.search(rf"^ *(async def|def|class) {name}\b", source, re.MULTILINE)
        for name in parts[depth:]
    )


def shell_words(name: str) -> list[str]:
    return shlex.split((EXAMPLES / name).read_text(), comments=True)


@pytest.mark.parametrize("file", sorted(EXAMPLES.rglob("*.py")), ids=lambda f: f.name)
def test_what_an_example_imports_of_ours_is_there(file: Path) -> None:
    imports = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.ImportFrom)]
    ours = [n for n in imports if n.module and n.module.startswith("oyer")]
    assert ours or "/v1/score" in file.read_text(), (
        "an example uses Oyer in the process or over HTTP"
    )
    for node in ours:
        for alias in node.names:
            assert named(f"{node.module}.{alias.name}")


@pytest.mark.parametrize("file", sorted(EXAMPLES.rglob("*.sh")), ids=lambda f: f.name)
def test_a_shell_example_is_well_formed(file: Path) -> None:
    subprocess.run(["sh", "-n", str(file)], check=True)


def test_verl_s_lines_make_the_manager(config_file: Path) -> None:
    given = dict(word.split("=", 1) for word in shell_words("verl/reward_loop.sh") if "=" in word)
    assert given["reward.reward_manager.source"] == "importlib"
    module = given["reward.reward_manager.module.path"].removeprefix("pkg://")
    assert named(f"{module}.{given['reward.reward_manager.name']}") is RewardManager
    prefix = "+reward.reward_kwargs.oyer."
    options = {k.removeprefix(prefix): v for k, v in given.items() if k.startswith(prefix)}
    assert len(options) == 4
    VerlOptions.model_validate(options)
    config = {"reward": {"reward_kwargs": {"oyer": {**options, "config": str(config_file)}}}}
    assert RewardManager(config, Tokens(), base_from_extra_info).options.run == "tool-n1"


def test_the_replaced_class_is_made_as_shown() -> None:
    sys.path.insert(0, str(EXAMPLES / "verl"))
    try:
        module = importlib.import_module("length_penalty")
    finally:
        sys.path.pop(0)
    manager = module.make_reward_manager(Tokens(), 0, base_from_extra_info)
    assert manager.length_penalty_config.use_async_io


def test_openrlhf_s_file_exports_its_function(config_file: Path) -> None:
    module = load("openrlhf_reward")
    assert callable(module.reward_func)
    assert module.base_score("6+1?", "It is 7", "7") == 1.0
    assert module.base_score("6+1?", "It is 8", "7") == 0.0


def test_every_name_of_ours_in_the_texts_is_there() -> None:
    for file in (*EXAMPLES.rglob("*.md"), *TRAINERS.glob("*.md")):
        for dotted in re.findall(r"\boyer(?:\.[A-Za-z_]\w*){2,}", file.read_text()):
            assert named(dotted), f"{file.name}: {dotted}"


def test_the_serve_options_in_the_texts_are_there() -> None:
    help_text = subprocess.run(
        [sys.executable, "-m", "oyer.cli", "serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200"},
    ).stdout
    words = shell_words("openrlhf.sh")
    texts = [file.read_text() for file in (EXAMPLES / "README.md", *TRAINERS.glob("*.md"))]
    shown = {
        w
        for line in texts
        for part in re.findall(r"oyer serve ([^\n`&]*)", line)
        for w in part.split()
    }
    options = {w for w in (*shown, "--port") if w.startswith("--")}
    assert {"--config", "--port", "--group-size"} <= options
    assert "serve" in words
    for option in options:
        assert option in help_text
