"""Every command has a help text with an example, and the top-level help is fast."""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer

from oyer.cli import app
from tests.support.cli_process import oyer


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the paths of all commands that are not groups."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


COMMANDS = list(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_help_text_has_an_example(path: tuple[str, ...], tmp_path: Path) -> None:
    done = oyer(*path, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert f"Usage: oyer {' '.join(path)}" in done.stdout
    assert f"Example: oyer {' '.join(path)}" in done.stdout
    assert done.stderr == ""


def test_the_top_level_help_lists_every_command(tmp_path: Path) -> None:
    done = oyer("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert all(path[0] in done.stdout for path in COMMANDS)


def test_the_top_level_help_loads_no_heavy_module() -> None:
    heavy = ["celery", "gevent", "numpy", "openai", "pydantic", "redis", "sqlalchemy", "torch"]
    code = f"import sys, oyer.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_version_is_that_of_the_package(tmp_path: Path) -> None:
    assert oyer("--version", cwd=tmp_path).stdout == f"oyer {version('oyer')}\n"


def test_a_shell_completes_commands(tmp_path: Path) -> None:
    # Typer otherwise asks for the shell that runs the command.
    by_name = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = oyer("--show-completion", "bash", cwd=tmp_path, **by_name)
    assert "_OYER_COMPLETE=complete_bash" in shown.stdout
    words = {"_OYER_COMPLETE": "complete_bash", "COMP_WORDS": "oyer worker j", "COMP_CWORD": "2"}
    completed = subprocess.run(
        [sys.executable, "-m", "oyer.cli"],
        env={**os.environ, **words},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.stdout.split() == ["judge"]


def test_an_unknown_option_is_refused_with_a_hint(tmp_path: Path) -> None:
    done = oyer("up", "--judge-proceses", "2", cwd=tmp_path)
    assert done.returncode == 2
    assert "--judge-processes" in done.stderr


@pytest.mark.parametrize("path", [(), ("db",), ("batches", "show")], ids=" ".join)
def test_help_has_a_short_form(path: tuple[str, ...], tmp_path: Path) -> None:
    done = oyer(*path, "-h", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Usage: {' '.join(('oyer', *path))}" in done.stdout
