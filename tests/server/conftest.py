"""A backend for each module of tests, as `tests.scripted` makes it."""

from tests.scripted import backend, backend_changes, judge, judge_says, running

__all__ = ["backend", "backend_changes", "judge", "judge_says", "running"]
"""Fixtures for this folder's tests."""
