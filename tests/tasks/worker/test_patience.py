"""A record that is away or full is waited for; whatever else is wrong is raised at once."""

import sqlite3

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from oyer.tasks.worker import patience
from oyer.tasks.worker.patience import patiently

AWAY = OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PAUSES_S", (0.0, 0.0))


@pytest.mark.parametrize("error", [AWAY, PoolTimeout("QueuePool limit reached")])
def test_work_is_tried_again_until_it_succeeds(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    left = [error, error]

    def work() -> str:
        if left:
            raise left.pop()
        return "done"

    assert patiently(work) == "done"
    assert caplog.text.count("the record cannot be used, trying again") == 2


def test_after_the_last_wait_the_error_is_raised() -> None:
    tries = []

    def work() -> None:
        tries.append(1)
        raise AWAY

    with pytest.raises(OperationalError, match="disk is full"):
        patiently(work)
    assert len(tries) == 3


def test_a_defect_is_not_waited_for() -> None:
    tries = []

    def work() -> None:
        tries.append(1)
        raise IntegrityError("INSERT", {}, sqlite3.IntegrityError("NOT NULL"))

    with pytest.raises(IntegrityError):
        patiently(work)
    assert len(tries) == 1
