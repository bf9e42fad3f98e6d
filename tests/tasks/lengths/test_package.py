"""The package's names are what it says, in whatever order they are loaded."""

import subprocess
import sys

import pytest

from oyer.tasks import lengths


@pytest.mark.parametrize("first", lengths.__all__)
def test_no_name_is_replaced_by_a_module_that_another_one_loads(first: str) -> None:
    code = (
        "from types import ModuleType; from oyer.tasks import lengths;"
        f"lengths.{first};"
        "assert not [n for n in lengths.__all__ if isinstance(getattr(lengths, n), ModuleType)]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
