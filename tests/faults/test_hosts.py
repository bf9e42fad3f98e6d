"""The link between two hosts is cut: the batch ends on one; the other changes nothing later."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from oyer.demo.responses import Action
from oyer.manager import RewardBatch
from tests.support.fault_backend import JUDGE_IN_FLIGHT, Backend
from tests.support.fault_servers import PostgresServer
from tests.support.fault_worker import Worker
from tests.support.network_hosts import Host, second_host
from tests.support.rollouts import rollouts_of
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.slow]

Undisturbed = Callable[[str, int], RewardBatch]
N = 48


@pytest.fixture
def host() -> Iterator[Host]:
    """A second host."""
    with second_host() as host:
        yield host


@pytest.fixture
def far_worker(backend: Backend, postgres_part: PostgresServer, host: Host) -> Iterator[Worker]:
    """A judge worker on the second host, which reaches everything over the link, and no other."""
    for worker in backend.living("judge"):
        worker.kill()
    port = int(backend.redis.url.rpartition(":")[2].partition("/")[0])
    with ExitStack() as stack:
        redis, record, judge = (
            stack.enter_context(TcpProxy(target, host.address))
            for target in (port, postgres_part.socket, backend.judge.port)
        )
        worker = backend.start(
            "judge",
            host=host.through,
            OYER_BROKER__URL=f"redis://{redis.host}:{redis.port}/0",
            OYER_STORE__URL=f"postgresql://postgres@{record.host}:{record.port}/postgres",
            OYER_ENDPOINTS__FAKE__BASE_URL=f"http://{judge.host}:{judge.port}/v1",
        )
        backend.wait_ready()
        yield worker
        worker.kill()


def test_a_host_that_is_cut_off_costs_its_calls_in_flight_and_comes_back(
    backend: Backend, far_worker: Worker, host: Host
) -> None:
    expected = backend.manager().submit(rollouts_of("cut-off", N)).result(timeout_s=180)
    backend.judge.reset()
    backend.judge.set_plan(Action(hold=True, text="Final score: 2"))
    future = backend.manager(stall_timeout_s=600).submit(rollouts_of("cut-off", N))
    backend.judge.wait_until(lambda log: len(log) == JUDGE_IN_FLIGHT)
    backend.judge.set_plan({})
    near_worker = backend.start("judge")
    with host.cut_off():
        batch = future.result(timeout_s=120)
        wait_until(lambda: far_worker.process.pid not in backend.announced(), "it counts as gone")
    backend.judge.release()
    backend.wait_ready()
    backend.check(batch, expected, calls=range(N, N + JUDGE_IN_FLIGHT + 1))
    near_worker.kill()
    again = backend.manager().submit(rollouts_of("back", N)).result(timeout_s=180)
    assert again.statuses == ["scored"] * N
