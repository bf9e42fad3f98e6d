"""A ticket reopens a future in another process, with all its methods."""

import base64
import json
import pickle
from typing import Any

import pytest

from oyer.manager import InvalidInput, MissingScores, RewardFuture
from oyer.manager.backend.poller import poller
from tests.manager.conftest import Submit, Workers

pytestmark = pytest.mark.filterwarnings(
    "ignore:Call to deprecated setex:DeprecationWarning"  # Celery 5.7 on redis-py 8
)


def test_a_ticket_reopens_the_future(submit: Submit, workers: Workers) -> None:
    future = submit(reward={"on_missing": "raise"}, stall_timeout_s=7)
    reopened = RewardFuture.from_ticket(future.ticket)
    unpickled = pickle.loads(pickle.dumps(future))
    assert reopened.ticket == unpickled.ticket == future.ticket
    assert (reopened.batch_id, reopened.stall_timeout_s) == (future.batch_id, 7)
    workers.succeed(future.batch_id, statuses=["timeout"] * 4)
    for one in (future, reopened, unpickled):
        with pytest.raises(MissingScores):
            one.result(timeout_s=60)


@pytest.mark.usefixtures("no_pauses")
def test_a_reopened_future_resubmits_from_the_payloads_in_redis(
    submit: Submit, workers: Workers
) -> None:
    future = submit()
    poller(*future._broker).forget(future)
    reopened = RewardFuture.from_ticket(future.ticket)
    workers.fail(reopened.batch_id, OSError("disk"))
    workers.wait_for_sent(2)
    workers.succeed(reopened.batch_id)
    assert len(reopened.result(timeout_s=60)) == 4


@pytest.mark.usefixtures("no_pauses")
def test_a_reopened_future_without_payloads_reads_the_record(
    submit: Submit, workers: Workers
) -> None:
    future = submit()
    poller(*future._broker).forget(future)
    workers.exchange.discard(workers.exchange.manifest(future.batch_id))
    reopened = RewardFuture.from_ticket(future.ticket)
    workers.fail(reopened.batch_id, OSError("disk"))
    workers.wait_for_sent(1, "combine")
    workers.succeed(reopened.batch_id)
    assert len(reopened.result(timeout_s=60)) == 4


def _forged(state: Any) -> str:
    return "oyer1." + base64.urlsafe_b64encode(json.dumps(state).encode()).decode()


@pytest.mark.parametrize(
    ("ticket", "message"),
    [
        ("", "is not one"),
        (None, "is not one"),
        ("oyer2.abc", "is not one"),
        ("oyer1.", "is cut or altered"),
        ("oyer1.!", "is cut or altered"),
        ("oyer1.ü", "is cut or altered"),
        (_forged(5), "is cut or altered"),
        (_forged(["id", 1]), "is cut or altered"),
        (_forged(["id", 1, {}, None, 1.0]), "is cut or altered"),
        (_forged(["id", 1, {"gate": "no such"}, ["redis://h", 600], 1.0]), "is cut or altered"),
    ],
)
def test_a_text_that_is_not_a_ticket_is_refused(ticket: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=rf"^ticket: {message}"):
        RewardFuture.from_ticket(ticket)


def test_every_truncated_ticket_is_refused(submit: Submit) -> None:
    future = submit()
    ticket = future.ticket
    future.cancel()
    for end in range(len(ticket) - 4):
        with pytest.raises(InvalidInput):
            RewardFuture.from_ticket(ticket[:end])
