"""The manager that most tests of streams use."""

import pytest

from oyer.manager import RewardManager
from tests.support.scripted_backend import Running


@pytest.fixture
def plain(running: Running) -> RewardManager:
    return running[0]
