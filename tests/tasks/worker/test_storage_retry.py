"""Work is retried while the database is down or full; other errors are raised at once."""

import sqlite3

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from oyer.tasks.worker import storage_retry
from oyer.tasks.worker.storage_retry import retry_storage

UNAVAILABLE = OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_retry, "PAUSES_S", (0.0, 0.0))


@pytest.mark.parametrize("error", [UNAVAILABLE, PoolTimeout("QueuePool limit reached")])
def test_work_is_retried_until_it_succeeds(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    left = [error, error]

    def work() -> str:
        if left:
            raise left.pop()
        return "done"

    assert retry_storage(work) == "done"
    assert caplog.text.count("the database cannot be used, trying again") == 2


def test_the_error_is_raised_after_the_last_retry() -> None:
    tries = []

    def work() -> None:
        tries.append(1)
        raise UNAVAILABLE

    with pytest.raises(OperationalError, match="disk is full"):
        retry_storage(work)
    assert len(tries) == 3


def test_a_defect_is_not_retried() -> None:
    tries = []

    def work() -> None:
        tries.append(1)
        raise IntegrityError("INSERT", {}, sqlite3.IntegrityError("NOT NULL"))

    with pytest.raises(IntegrityError):
        retry_storage(work)
    assert len(tries) == 1
