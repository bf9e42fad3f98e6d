"""Outages of the judge's endpoint: only the calls in flight are repeated."""

import threading
from collections.abc import Callable

import pytest

from oyer.manager import RewardBatch
from tests.support.fault_backend import JUDGE_IN_FLIGHT, Backend
from tests.support.rollouts import rollouts_of
from tests.support.tcp_proxy import TcpProxy

pytestmark = pytest.mark.faults

Undisturbed = Callable[[str, int], RewardBatch]
N = 48
WITH_REPEATS = range(N, N + JUDGE_IN_FLIGHT + 1)
"""Calls that were in flight at the fault may be made a second time, and no others."""


@pytest.mark.parametrize(
    ("fault", "lasts_s"),
    [
        ("refuse", 2.0),
        ("swallow", 4.0),
        ("drop", 4.0),
        ("reset", 2.0),
        pytest.param("refuse", 20.0, marks=pytest.mark.slow),
    ],
)
def test_a_network_that_fails_costs_the_calls_in_flight_and_no_others(
    backend: Backend, undisturbed: Undisturbed, proxy: TcpProxy, fault: str, lasts_s: float
) -> None:
    tag = f"{fault}-{lasts_s}"
    expected = undisturbed(tag, N)
    judges = [{"name": "q", "endpoint": "proxy", "model": "m", "reasks": 0}]
    future = backend.half_way(tag, N, judges=judges)
    getattr(proxy, fault)()
    backend.go_on()
    threading.Event().wait(lasts_s)  # the fault itself: a pause of stated length
    proxy.forward()
    backend.check(future.result(timeout_s=120), expected, calls=WITH_REPEATS)
    query = "SELECT count(*) AS n FROM attempts WHERE batch_id = :id AND http_status IS NULL"
    (failed,) = backend.read(query, id=future.batch_id)
    assert failed["n"] >= JUDGE_IN_FLIGHT, "the calls in flight have met the fault"


@pytest.mark.parametrize("fault", ["unavailable", "reset", "half_json"])
def test_the_judge_fails_for_a_while(
    backend: Backend, undisturbed: Undisturbed, fault: str
) -> None:
    expected = undisturbed(fault, N)
    rule = {"when": {"first_of_body": 2}, "then": fault}
    backend.judge.set_plan({"rules": [rule]})
    batch = backend.manager().submit(rollouts_of(fault, N)).result(timeout_s=120)
    backend.check(batch, expected, calls=range(3 * N, 3 * N + 1))


def test_the_judge_never_answers_first_requests(backend: Backend, undisturbed: Undisturbed) -> None:
    expected = undisturbed("black-hole", N)
    impatient = backend.manager(
        judges=[{"name": "q", "endpoint": "impatient", "model": "m", "reasks": 0}]
    )
    backend.judge.set_plan({"rules": [{"when": {"first_of_body": 1}, "then": "black_hole"}]})
    batch = impatient.submit(rollouts_of("black-hole", N)).result(timeout_s=120)
    backend.check(batch, expected, calls=range(2 * N, 2 * N + 1))
