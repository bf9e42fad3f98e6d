"""Missing packages of an extra are named with the extra that installs them."""

import re
import tomllib

import pytest

from oyer.local.extras import WORKER_PACKAGES, of_worker, require
from oyer.protocol.errors import BackendUnavailable, MissingExtra
from tests.support.paths import ROOT

EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]


def test_the_workers_modules_are_those_of_the_extra() -> None:
    listed = {re.split(r"[\[>=<]", line)[0].replace("-", "_") for line in EXTRAS["worker"]}
    assert listed == set(WORKER_PACKAGES)


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
