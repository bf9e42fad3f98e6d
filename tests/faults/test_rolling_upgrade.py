"""Workers of the last release are replaced one by one while a trainer of that release submits.

No batch is lost, and no rollout is judged twice.
"""

import json
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oyer import migrations
from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action
from tests.support import services
from tests.support.earlier_release import COMMIT, EarlierRelease, known
from tests.support.fault_backend import Backend
from tests.support.fault_servers import PostgresServer, RedisServer
from tests.support.fault_worker import Worker
from tests.support.rollouts import rollouts_of
from tests.support.scripted_backend import user_text
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.skipif(not known(), reason=f"this clone's history has no commit {COMMIT:.12}"),
]

N = 12
"""Rollouts of a batch."""

UNDER_WAY = 3
"""Batches of the trainer that are under way at once."""

TRAINER = """
import json, sys, threading
from collections import deque
from oyer.manager import RewardManager, Rollout
config, n, under_way = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
def rollouts(step):
    return [
        Rollout(prompt=f"step {step} question {i // 4}", response=f"step {step}: answer {i}",
                group_id=f"{step}-{i // 4}", base_score=1.0, response_tokens=100 + 10 * i)
        for i in range(n)
    ]
with RewardManager(config) as manager:
    step, futures = 0, deque()
    while futures or not stop.is_set():
        while len(futures) < under_way and not stop.is_set():
            futures.append(manager.submit(rollouts(step), run="upgrade", step=step))
            step += 1
        if futures:
            batch = futures.popleft().result(timeout_s=240)
            line = {"id": batch.id, "statuses": list(map(str, batch.statuses))}
            print(json.dumps({**line, "rewards": batch.rewards.tolist()}), flush=True)
"""


class Trainer:
    """A trainer of the earlier release, and the batches that it has received."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.batches: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.batches.append(json.loads(line))

    def wait_for_more(self, number: int) -> None:
        """Wait until it has received some more batches."""
        wanted = len(self.batches) + number
        wait_until(
            lambda: len(self.batches) >= wanted or self.process.poll() is not None,
            f"{wanted} batches",
            240,
        )
        assert self.process.poll() is None, "the trainer ended"

    def end(self) -> None:
        """Let it receive what it has submitted, and end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(300) == 0

    def close(self) -> None:
        """Kill it, if it runs."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def earlier(tmp_path: Path) -> EarlierRelease:
    return EarlierRelease(tmp_path / "earlier")


@pytest.fixture
def parts(tmp_path: Path, earlier: EarlierRelease) -> Iterator[Backend]:
    """Redis, a PostgreSQL with the record of the earlier release, and a judge; no workers."""
    with services.postgres_cluster() as cluster, JudgeServer(Action(latency_s=0.05)) as judge:
        postgres, redis = PostgresServer(cluster), RedisServer(tmp_path / "redis")
        postgres.start()
        redis.start()
        earlier.run("-m", "oyer", "db", "upgrade", "--url", postgres.url)
        backend = Backend(tmp_path, redis, postgres.url, judge, hedged=False, stall_timeout_s=180)
        yield backend
        backend.stop()
        redis.stop()
        postgres.stop()


def started(backend: Backend, **environ: Any) -> list[Worker]:
    """Start two judge workers and one of each other kind, and wait until they are ready."""
    kinds = ("judge", "judge", "length", "combine")
    workers = [backend.start(kind, **environ) for kind in kinds]
    backend.wait_ready()
    assert all(worker.alive for worker in workers), [worker.output() for worker in workers]
    return workers


@pytest.mark.timeout(900)
def test_a_rolling_upgrade_under_load_loses_no_batch_and_judges_none_twice(
    parts: Backend, earlier: EarlierRelease, request: pytest.FixtureRequest
) -> None:
    assert migrations.current(parts.store_url) == "0006"
    old = started(parts, **earlier.environ)
    arguments = json.dumps(parts.config), str(N), str(UNDER_WAY)
    trainer = Trainer(earlier.trainer(TRAINER, *arguments))
    request.addfinalizer(trainer.close)
    trainer.wait_for_more(2)

    migrations.upgrade(parts.store_url)
    trainer.wait_for_more(2)
    started(parts)
    trainer.wait_for_more(2)
    for worker in old:
        worker.send(signal.SIGTERM)
        assert worker.process.wait(120) == 0, worker.output()
        trainer.wait_for_more(1)
    trainer.wait_for_more(2)
    trainer.end()

    for received in trainer.batches:
        assert received["statuses"] == ["scored"] * N, received["id"]
    check_record(parts, len(trainer.batches))
    # A trainer is upgraded last.
    batch = parts.manager().submit(rollouts_of("new", N), run="upgrade").result(timeout_s=120)
    assert batch.statuses == ["scored"] * N
    check_record(parts, len(trainer.batches) + 1)


def check_record(backend: Backend, batches: int) -> None:
    """Assert that every batch has finished, with one call and one row for each rollout."""
    asked = Counter(user_text(request) for request in backend.judge.requests)
    assert {text: n for text, n in asked.items() if n > 1} == {}
    assert len(asked) == batches * N
    states = backend.read("SELECT status, count(*) AS n FROM batches GROUP BY status")
    assert states == [{"status": "finished", "n": batches}]
    for table in ("rollouts", "judgements", "rewards"):
        (rows,) = backend.read(f"SELECT count(*) AS n FROM {table}")
        assert rows["n"] == batches * N, table
    (attempts,) = backend.read("SELECT count(*) AS n FROM attempts")
    assert attempts["n"] == batches * N
