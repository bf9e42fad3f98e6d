"""Judge workers killed while calls have two requests in flight."""

from collections.abc import Callable

import pytest

from oyer.demo.responses import Action
from oyer.manager import RewardBatch
from tests.support.fault_backend import Backend
from tests.support.rollouts import rollouts_of

pytestmark = pytest.mark.faults

Undisturbed = Callable[[str, int], RewardBatch]
N = 4


def test_a_worker_killed_during_second_requests_costs_the_requests_in_flight(
    backend: Backend, undisturbed: Undisturbed
) -> None:
    expected = undisturbed("hedged", N)
    backend.judge.set_plan(Action(hold=True))
    judges = [{**backend.config["judges"][0], "endpoint": "hedged"}]
    future = backend.manager(judges=judges).submit(rollouts_of("hedged", N))
    backend.judge.wait_until(lambda log: len(log) == 2 * N)
    for worker in backend.living("judge"):
        worker.kill()
    backend.judge.set_plan({})
    backend.start("judge")
    batch = future.result(timeout_s=180)
    # Each call once more; on a busy machine some of them with a second request.
    backend.check(batch, expected, calls=range(3 * N, 4 * N + 1))
