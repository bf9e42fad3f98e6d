"""Builds the distributions of the working tree and installs them into new environments."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

PYTHONS = os.environ.get("OYER_TEST_PYTHONS", sys.executable).split()
"""Interpreters to install on."""


@dataclass(frozen=True)
class Distributions:
    """What is uploaded to a package index."""

    wheel: Path
    sdist: Path


@dataclass(frozen=True)
class Environment:
    """A virtual environment, used from a folder that holds no source."""

    path: Path
    folder: Path

    def run(self, program: str, *arguments: str, **environ: str) -> "Done":
        """Run a program of the environment to its end."""
        plain = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("OYER_", "PYTHON"))
        }
        return subprocess.run(
            [self.path / "bin" / program, *arguments],
            cwd=self.folder,
            env={**plain, "NO_COLOR": "1", "COLUMNS": "120", **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def python(self, code: str, **environ: str) -> "Done":
        """Run Python code."""
        return self.run("python", "-c", code, **environ)


Done = subprocess.CompletedProcess[str]


def tracked_files() -> list[str]:
    """Return the files of the working tree that git does not ignore, relative to its root."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def build(folder: Path) -> Distributions:
    """Build the sdist from a copy of the working tree, and the wheel from the sdist."""
    source, target = folder / "source", folder / "dist"
    for name in tracked_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    run(sys.executable, "-m", "build", "--outdir", str(target), str(source))
    shutil.rmtree(source)
    (wheel,), (sdist,) = target.glob("*.whl"), target.glob("*.tar.gz")
    return Distributions(wheel, sdist)


def install(folder: Path, python: str, wheel: Path, extras: str = "") -> Environment:
    """Install the wheel, with the pinned versions of what it needs, into a new environment."""
    environment = Environment(folder / "env", folder / "elsewhere")
    environment.folder.mkdir()
    run(python, "-m", "venv", str(environment.path))
    pip = [str(environment.path / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    run(*pip, "--constraint", str(ROOT / "constraints.txt"), f"{wheel}{extras}")
    return environment


def run(*argv: str) -> None:
    """Run a command; its output is in the error if it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
