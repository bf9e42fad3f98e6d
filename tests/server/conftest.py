"""A backend for each module of tests, and a server on it."""

from collections.abc import Iterator

import pytest

from tests.support.scripted_backend import (
    Running,
    backend,
    backend_changes,
    judge,
    judge_says,
    running,
)
from tests.support.served_app import Served, served

__all__ = ["backend", "backend_changes", "judge", "judge_says", "running"]
"""Fixtures for this folder's tests."""


@pytest.fixture(scope="module")
def server(running: Running) -> Iterator[Served]:
    """A server on the module's backend."""
    with served(running[0]) as one:
        yield one
