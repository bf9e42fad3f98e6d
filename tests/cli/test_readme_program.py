"""The README's program prints what the README shows."""

import re
import subprocess
import sys

from tests.cli.conftest import Backend
from tests.support.cli_process import environment
from tests.support.paths import ROOT

README = ROOT / "README.md"


def test_the_program_prints_what_the_readme_shows(backend: Backend) -> None:
    text = README.read_text()
    program = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    (shown,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    argv = [sys.executable, "-c", program]
    done = subprocess.run(
        argv, cwd=backend.folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (shown, "")
