"""Many rollouts at once: memory per rollout is bounded, and each gets its reward."""

from collections.abc import Iterator

import pytest
import redis

from oyer.manager import RewardManager
from oyer.protocol.batch_store import BatchStore
from tests.support.process_memory import MIB, peak_bytes, processes_of
from tests.support.rollouts import rollout
from tests.support.scripted_backend import scripted_backend
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

MANY = 20_000

BYTES_A_ROLLOUT = 4096
"""Memory that a rollout of a hundred bytes may cost any one process at most."""


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RewardManager]:
    folder = tmp_path_factory.mktemp("overload")
    with scripted_backend(folder, length={"method": "median_band"}) as (manager, _):
        yield manager


@pytest.mark.parametrize("batches", [1, 20])
def test_every_process_stays_within_what_the_rollouts_take(
    manager: RewardManager, batches: int
) -> None:
    manager.submit([rollout(f"warm {batches}", i) for i in range(200)]).result(timeout_s=60)
    rollouts = [rollout(f"many {batches}", i) for i in range(MANY)]
    before = {name: peak_bytes(pid) for name, pid in processes_of(manager).items()}
    part = MANY // batches
    futures = [manager.submit(rollouts[k * part : (k + 1) * part]) for k in range(batches)]
    for future in futures:
        assert future.result(timeout_s=900).statuses == ["scored"] * part
    for name, pid in processes_of(manager).items():
        grown = peak_bytes(pid) - before[name]
        assert grown < MANY * BYTES_A_ROLLOUT, (name, grown / MIB)
    with redis.Redis.from_url(str(manager.config.broker.url)) as client:
        exchange = BatchStore(client, expires_s=600)
        wait_until(lambda: not exchange.backlog_bytes(), "no payload left")
