"""One backend of single processes; missing workers are restarted before each test."""

import random
from collections.abc import Callable, Iterator

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.manager import RewardBatch
from tests.support import services
from tests.support.fault_backend import Backend
from tests.support.fault_servers import PostgresServer, RedisServer, migrated
from tests.support.rollouts import rollouts_of
from tests.support.tcp_proxy import TcpProxy

SEED = 20260131
"""Seed of the random numbers, fixed so that a failing run can be repeated."""


@pytest.fixture(scope="session")
def redis_part(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for the fault tests."""
    server = RedisServer(tmp_path_factory.mktemp("redis") / "data")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_part() -> Iterator[PostgresServer]:
    """A PostgreSQL for the fault tests, with the record in it."""
    with services.postgres_cluster() as cluster:
        server = migrated(PostgresServer(cluster))
        yield server
        server.stop()


@pytest.fixture(scope="session")
def _shared(
    redis_part: RedisServer, postgres_part: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Backend]:
    with JudgeServer() as judge, TcpProxy(judge.port) as proxy:
        backend = Backend(
            tmp_path_factory.mktemp("workers"), redis_part, postgres_part.url, judge, proxy=proxy
        )
        yield backend
        judge.release()
        backend.stop()


@pytest.fixture
def backend(_shared: Backend, request: pytest.FixtureRequest) -> Iterator[Backend]:
    """All workers ready, an empty judge log and nothing in the queues."""
    failed_before = request.session.testsfailed
    _shared.judge.set_plan({})
    _shared.complete()
    _shared.judge.reset()
    yield _shared
    _shared.judge.release()
    if request.session.testsfailed > failed_before:
        # What a failed test left would fail the next ones too.
        _shared.start_over()


@pytest.fixture
def proxy(backend: Backend) -> Iterator[TcpProxy]:
    """The proxy in front of the endpoint `proxy`; it forwards again after the test."""
    assert backend.proxy is not None
    yield backend.proxy
    backend.proxy.forward()


@pytest.fixture
def rng() -> random.Random:
    """Random numbers from a seed that the output names."""
    print(f"seed {SEED}")
    return random.Random(SEED)


@pytest.fixture
def undisturbed(backend: Backend) -> Callable[[str, int], RewardBatch]:
    """Score rollouts without a fault, and empty the judge's log."""

    def run(tag: str, n: int) -> RewardBatch:
        batch = (
            backend.manager().submit(rollouts_of(tag, n), run="undisturbed").result(timeout_s=180)
        )
        assert batch.statuses == ["scored"] * n
        backend.judge.reset()
        return batch

    return run
