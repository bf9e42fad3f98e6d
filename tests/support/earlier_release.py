"""Installs an earlier release from the repository's history, and runs its trainer and commands."""

import os
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

from tests.support.paths import ROOT

COMMIT = "3b6ef18f817d197be557d9141a76ccfd21c65633"
"""The last state with schema 0006, on main: before criteria, group judges, small batches and the page.
Set it to the tag of the last release once there is one."""


def git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run git on this repository."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)


def known() -> bool:
    """Whether this clone's history holds the earlier release."""
    return git("cat-file", "-e", f"{COMMIT}^{{commit}}").returncode == 0


class EarlierRelease:
    """The earlier release, installed into a folder; its libraries are those installed here."""

    def __init__(self, folder: Path) -> None:
        source, self.site = folder / "source", folder / "site"
        archive = git("archive", "--format=tar", COMMIT)
        assert archive.returncode == 0, archive.stderr
        with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
            tar.extractall(source, filter="data")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--target", str(self.site), str(source)], check=True)
        self.environ = {"PYTHONPATH": str(self.site)}
        """Variables under which `oyer` is the earlier release: the folder precedes an editable install."""
        self._folder = folder

    def run(self, *arguments: str) -> str:
        """Run Python with the earlier release, and return what it prints."""
        done = subprocess.run(
            [sys.executable, "-P", *arguments],
            cwd=self._folder,
            env={**os.environ, **self.environ},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def trainer(self, code: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a trainer of the earlier release; it ends when its standard input closes."""
        return subprocess.Popen(
            [sys.executable, "-P", "-c", code, *arguments],
            cwd=self._folder,
            env={**os.environ, **self.environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
