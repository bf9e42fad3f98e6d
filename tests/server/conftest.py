"""A backend for each module of tests, as `tests.support.scripted_backend` makes it."""

from tests.support.scripted_backend import backend, backend_changes, judge, judge_says, running

__all__ = ["backend", "backend_changes", "judge", "judge_says", "running"]
"""Fixtures for this folder's tests."""
