"""Distributions and environments that the tests of this folder share."""

from pathlib import Path

import pytest

from tests.packaging import environments
from tests.packaging.environments import PYTHONS, Distributions, Environment


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    return environments.build(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="session", params=PYTHONS)
def trainer(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    distributions: Distributions,
) -> Environment:
    """An environment with the wheel and no extra."""
    folder: Path = tmp_path_factory.mktemp("trainer")
    return environments.install(folder, request.param, distributions.wheel)


@pytest.fixture(scope="session", params=PYTHONS)
def everything(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    distributions: Distributions,
) -> Environment:
    """An environment with the extras of an embedded backend and of the servers."""
    folder: Path = tmp_path_factory.mktemp("everything")
    wheel = distributions.wheel
    return environments.install(folder, request.param, wheel, "[embedded,server,signing]")
