"""Shutdown of a worker, and of a backend whose owner is killed."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from oyer.demo.responses import Action
from oyer.manager import RewardBatch
from oyer.tasks.coordination.limiter import limits_key
from tests.support.fault_backend import JUDGE_IN_FLIGHT, Backend
from tests.support.fault_servers import RedisServer
from tests.support.paths import ROOT
from tests.support.rollouts import rollouts_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

Undisturbed = Callable[[str, int], RewardBatch]
N = 48
EXACT = range(N, N + 1)


def test_sigterm_lets_calls_in_flight_end_and_hands_the_rest_back(
    backend: Backend, undisturbed: Undisturbed
) -> None:
    expected = undisturbed("term", N)
    first, second = backend.living("judge")
    second.kill()
    backend.judge.set_plan(Action(hold=True))
    future = backend.manager(stall_timeout_s=600).submit(rollouts_of("term", N))
    backend.judge.wait_until(lambda log: len(log) == JUDGE_IN_FLIGHT)
    first.send(signal.SIGTERM)
    wait_until(lambda: "Warm shutdown" in first.output(), "the worker was told")
    backend.judge.release()
    assert first.process.wait(60) == 0
    assert len(backend.judge.requests) == JUDGE_IN_FLIGHT, "it began no further call"
    stopped = re.findall(r"worker stopped; (\d+) chunks handed back", first.output())
    assert len(stopped) == 1
    assert int(stopped[0]) > 0
    assert "Traceback" not in first.output().partition("Warm shutdown")[2]
    backend.judge.set_plan({})
    backend.start("judge")
    backend.check(future.result(timeout_s=180), expected, calls=EXACT)


def test_a_stopped_worker_holds_no_permits_and_claims(backend: Backend) -> None:
    for worker in backend.living("judge"):
        worker.kill()
    client = backend.redis.client
    client.flushall()
    worker = backend.start("judge")
    backend.wait_ready()

    def held() -> tuple[int, int]:
        workers = [field for field in client.hkeys(limits_key("fake")) if field[:2] == b"w:"]
        return len(workers), len(client.keys("oyer:flight:*"))

    backend.judge.set_plan(Action(hold=True))
    future = backend.manager(reuse="store").submit(rollouts_of("permits", 4))
    backend.judge.wait_until(lambda log: len(log) == 4)
    assert held() == (1, 4)
    worker.send(signal.SIGTERM)
    wait_until(lambda: "Warm shutdown" in worker.output(), "the worker was told")
    backend.judge.release()
    assert worker.process.wait(60) == 0
    assert held() == (0, 0)
    assert "Traceback" not in worker.output()
    future.cancel()
    backend.start_over()


def test_a_second_signal_ends_a_worker_at_once(backend: Backend, undisturbed: Undisturbed) -> None:
    expected = undisturbed("term-twice", N)
    future = backend.half_way("term-twice", N)
    worker = backend.living("judge")[0]
    worker.send(signal.SIGTERM)
    wait_until(lambda: "Warm shutdown" in worker.output(), "the worker was told")
    worker.send(signal.SIGTERM)
    assert worker.process.wait(60) == 1
    backend.go_on()
    batch = future.result(timeout_s=180)
    backend.check(batch, expected, calls=range(N, N + JUDGE_IN_FLIGHT + 1))


def test_a_call_that_does_not_end_is_left_after_the_grace_period(backend: Backend) -> None:
    for worker in backend.living("judge"):
        worker.kill()
    worker = backend.start("judge", OYER_GRACE_S="0.5")
    backend.wait_ready()
    backend.judge.set_plan(Action(hold=True))
    future = backend.manager().submit(rollouts_of("grace", 4))
    backend.judge.wait_until(lambda log: len(log) == 4)
    worker.send(signal.SIGTERM)
    assert worker.process.wait(60) == 0
    assert "other workers get what is left" in worker.output()
    future.cancel()
    backend.start_over()


def test_workers_whose_redis_is_gone_still_stop(
    tmp_path_factory: pytest.TempPathFactory, backend: Backend
) -> None:
    folder = tmp_path_factory.mktemp("gone")
    server = RedisServer(folder / "redis")
    server.start()
    lonely = Backend(folder, server, backend.store_url, backend.judge, grace_s=2.0)
    try:
        workers = [lonely.start(kind) for kind in ("judge", "combine")]
        lonely.wait_ready()
        backend.judge.set_plan(Action(hold=True))
        lonely.manager().submit(rollouts_of("gone", 4))
        backend.judge.wait_until(lambda log: len(log) == 4)
        server.kill()
        backend.judge.release()
        for worker in workers:
            worker.send(signal.SIGTERM)
        assert [worker.process.wait(60) for worker in workers] == [0, 0]
    finally:
        lonely.stop()


@pytest.mark.parametrize("victim", ["trainer", "supervisor"])
def test_nothing_is_left_of_a_backend_whose_owner_is_killed(tmp_path: Path, victim: str) -> None:
    code = (
        "import sys, time\n"
        "from oyer.manager import RewardManager\n"
        "config = {'length': {'method': 'median_band'},"
        " 'store': {'url': f'sqlite:///{sys.argv[1]}/oyer.db'}}\n"
        "manager = RewardManager.local(config, folder=sys.argv[1], judge_processes=1)\n"
        "print(manager._embedded._process.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    argv = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as trainer:
        assert trainer.stdout is not None
        supervisor = int(trainer.stdout.readline())
        assert len(_processes_of(tmp_path)) >= 4
        os.kill(trainer.pid if victim == "trainer" else supervisor, signal.SIGKILL)
        try:
            wait_until(lambda: not _processes_of(tmp_path), "every process has ended", 60)
        finally:
            trainer.kill()
            for pid in _processes_of(tmp_path):
                os.kill(pid, signal.SIGKILL)


def _processes_of(folder: Path) -> list[int]:
    """Find the processes that a backend in this folder consists of, by working files they hold."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            files = [os.readlink(fd) for fd in (entry / "fd").iterdir()]
        except OSError:
            continue
        if any(file.startswith(f"{folder}/") for file in files):
            found.append(int(entry.name))
    return found
