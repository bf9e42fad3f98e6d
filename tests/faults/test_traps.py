"""Eighteen ways in which Celery on Redis with gevent can lose or repeat work, and that Oyer does not.

Each name gives the trap's number in the project's notes on Celery, and what went wrong.
Where the quick path of recovery is meant, the future's own resubmission is kept out of it.
"""

import ast
import os
import re
import subprocess
from collections.abc import Callable

import pytest
import redis

from oyer.config.loading import CONFIG_VARIABLE, validate
from oyer.demo.responses import Action, named
from oyer.local.worker_commands import worker_argv
from oyer.manager import InvalidConfig, RewardBatch
from oyer.protocol import names
from oyer.tasks.app import VISIBILITY_TIMEOUT_S
from tests.support.fault_backend import JUDGE_IN_FLIGHT, KEY, Backend
from tests.support.fault_servers import PostgresServer, RedisServer
from tests.support.paths import ROOT
from tests.support.rollouts import rollouts_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

Undisturbed = Callable[[str, int], RewardBatch]
N = 48
EXACT = range(N, N + 1)
WITH_REPEATS = range(N, N + JUDGE_IN_FLIGHT + 1)
"""Calls that were in flight at the fault may be made a second time, and no others."""
NEVER_S = 600.0
"""A stall timeout that no test lives to see."""


def test_trap_01_a_message_delivered_twice_does_not_end_the_chord_early(
    backend: Backend, undisturbed: Undisturbed
) -> None:
    expected = undisturbed("trap-1", N)
    for worker in backend.living("judge"):
        worker.kill()
    future = backend.manager(stall_timeout_s=NEVER_S).submit(rollouts_of("trap-1", N))
    client = backend.redis.client
    client.rpush("judge", *client.lrange("judge", 0, -1))
    backend.start("judge")
    backend.check(future.result(timeout_s=180), expected, calls=EXACT)


@pytest.mark.parametrize("point", ["counting", "publishing"], ids=["trap_02", "trap_03"])
def test_a_worker_killed_inside_of_the_chord_does_not_hang_it(
    backend: Backend, undisturbed: Undisturbed, point: str
) -> None:
    """Trap 2: killed between storing a result and counting it; trap 3: while it sends the callback."""
    expected = undisturbed(point, N)
    for worker in backend.living("judge"):
        worker.kill()
    marker = backend.folder / f"{point}.killed"
    doomed = backend.start("judge", "kill-at", point, str(marker))
    future = backend.manager(stall_timeout_s=NEVER_S).submit(rollouts_of(point, N))
    doomed.process.wait(60)
    assert marker.exists()
    backend.start("judge")
    backend.check(future.result(timeout_s=180), expected, calls=WITH_REPEATS)


def test_trap_04_a_killed_gevent_worker_s_messages_come_back(
    backend: Backend, undisturbed: Undisturbed
) -> None:
    expected = undisturbed("trap-4", N)
    future = backend.half_way("trap-4", N, stall_timeout_s=NEVER_S)
    backend.living("judge")[0].kill()
    backend.go_on()
    backend.check(future.result(timeout_s=180), expected, calls=WITH_REPEATS)


@pytest.mark.slow
def test_trap_05_a_task_longer_than_its_lease_runs_once(
    backend: Backend, undisturbed: Undisturbed
) -> None:
    expected = undisturbed("trap-5", N)
    backend.judge.set_plan({"default": {"latency_s": 2.5 * VISIBILITY_TIMEOUT_S / 3}})
    manager = backend.manager(stall_timeout_s=NEVER_S)
    batch = manager.submit(rollouts_of("trap-5", N)).result(timeout_s=120)
    backend.check(batch, expected, calls=EXACT)
    for worker in backend.workers:
        assert batch.id not in worker.output().partition("redelivered")[2]


@pytest.mark.slow
def test_trap_06_every_one_of_a_thousand_tasks_is_acknowledged(backend: Backend) -> None:
    """And trap 8: no task leaves a connection behind."""
    manager = backend.manager(length=[])
    connections = len(backend.redis.client.client_list())
    futures = [manager.submit(rollouts_of(f"trap-6 {i}", 4)) for i in range(500)]
    for future in futures:
        assert future.result(timeout_s=120).statuses == ["scored"] * 4
    backend.wait_clean()
    assert len(backend.redis.client.client_list()) < connections + 100
    assert not [w.name for w in backend.workers if "Couldn't ack" in w.output()]


def test_trap_07_a_worker_without_a_free_slot_goes_on_polling(backend: Backend) -> None:
    """With a window of one message a task, kombu's poll sleeps for 2 s whenever it is full.

    The worker takes no message that it cannot start, but sorts those that arrive.
    """
    for worker in backend.living("judge"):
        worker.kill()
    lonely = backend.start("judge", concurrency=2)
    backend.wait_ready()
    backend.judge.set_plan(Action(hold=True))
    manager, client = backend.manager(stall_timeout_s=NEVER_S), backend.redis.client
    futures = [manager.submit(rollouts_of("trap-7", N))]
    backend.judge.wait_until(lambda log: len(log) == 2 * 4)
    futures.append(manager.submit(rollouts_of("trap-7 later", N)))
    waiting = 2 * N // 4 - 2

    def sorted_messages() -> int:
        return sum(client.llen(key) for key in client.scan_iter(names.flow_key("*")))

    wait_until(lambda: sorted_messages() == waiting, "sorted while both slots are in use")
    backend.go_on()
    for future in futures:
        assert future.result(timeout_s=180).statuses == ["scored"] * N
    # A message that it has not acknowledged would come back during a later test.
    backend.wait_clean()
    lonely.kill()


def test_trap_08_connections_do_not_grow_with_the_tasks(backend: Backend) -> None:
    manager = backend.manager(length=[])
    _run_many(manager, "warm", 20)
    connections = len(backend.redis.client.client_list())
    _run_many(manager, "many", 60)
    assert len(backend.redis.client.client_list()) <= connections + 16


def test_trap_09_nothing_sends_sigquit_and_a_remapped_sigterm_is_refused(
    backend: Backend,
) -> None:
    sources = [
        path
        for part in ("cli", "local", "manager", "tasks")
        for path in (ROOT / part).rglob("*.py")
    ]
    assert sources
    assert not [path for path in sources if "signal.SIGQUIT" in path.read_text()]
    worker = backend.start("combine", REMAP_SIGTERM="SIGQUIT")
    assert worker.process.wait(60) != 0
    assert "REMAP_SIGTERM" in worker.output()


def test_trap_10_a_judge_worker_that_gevent_has_not_patched_ends(backend: Backend) -> None:
    argv = worker_argv("judge", name="unpatched")
    argv[argv.index("gevent")] = "solo"
    environ = {**os.environ, CONFIG_VARIABLE: str(backend.folder / "oyer.json")}
    done = subprocess.run(
        argv, env=environ, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert done.returncode != 0
    assert "a judge worker needs the gevent pool" in done.stderr


def test_trap_11_a_trainer_reads_one_result_however_many_tasks_there_are(backend: Backend) -> None:
    """Celery's own `get` subscribes to every task of a chord and reads all after each message."""
    client = backend.redis.client
    with client.monitor() as commands_seen:
        future = backend.manager().submit(rollouts_of("trap-11", N))
        future.result(timeout_s=180)
        client.echo("the end")
        touched = set()
        for seen in commands_seen.listen():
            if seen["command"].endswith("the end"):
                break
            touched |= set(re.findall(r"celery-task-meta-([\w-]+)", seen["command"]))
    assert touched == {future.batch_id}


def test_trap_12_redis_restarts_with_its_data_while_tasks_end(
    backend: Backend, undisturbed: Undisturbed, redis_part: RedisServer
) -> None:
    expected = undisturbed("trap-12", N)
    future = backend.half_way("trap-12", N)
    redis_part.kill()
    backend.go_on()
    redis_part.start()
    backend.check(future.result(timeout_s=120), expected, calls=WITH_REPEATS)


def test_trap_13_redis_restarts_without_its_data(
    backend: Backend, undisturbed: Undisturbed, redis_part: RedisServer
) -> None:
    expected = undisturbed("trap-13", N)
    future = backend.half_way("trap-13", N, stall_timeout_s=NEVER_S)
    redis_part.kill()
    redis_part.forget()
    backend.go_on()
    redis_part.start()
    backend.check(future.result(timeout_s=120), expected, calls=WITH_REPEATS)


def test_trap_14_no_transaction_waits_for_anything_but_the_database() -> None:
    """A greenlet that yields with SQLite's write lock held freezes every other one on it."""
    allowed = {"record", "history", "conn"}
    for path in [*(ROOT / "tasks").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.With) and "engine().begin()" in ast.unparse(node.items[0]):
                called = {
                    call.func.value.id
                    for call in ast.walk(ast.Module(node.body, []))
                    if isinstance(call, ast.Call)
                    and isinstance(call.func, ast.Attribute)
                    and isinstance(call.func.value, ast.Name)
                }
                assert called <= allowed, (path, called - allowed)


def test_trap_15_a_callback_that_runs_twice_leaves_one_row(
    backend: Backend, undisturbed: Undisturbed
) -> None:
    expected = undisturbed("trap-15", N)
    for worker in backend.living("combine"):
        worker.kill()
    future = backend.manager(stall_timeout_s=NEVER_S).submit(rollouts_of("trap-15", N))
    client = backend.redis.client
    wait_until(lambda: client.llen("combine") == 1, "the callback was sent")
    client.rpush("combine", *client.lrange("combine", 0, -1))
    backend.start("combine")
    backend.check(future.result(timeout_s=180), expected, calls=EXACT)


def test_trap_16_the_judge_s_key_turns_up_nowhere(
    backend: Backend, postgres_part: PostgresServer
) -> None:
    echo = named("unauthorized", body=f'{{"error": {{"message": "Incorrect API key: {KEY}"}}}}')
    backend.judge.set_plan(lambda a: echo if b"number 3 " in (a.body or b"") else Action())
    future = backend.manager().submit(rollouts_of("trap-16", 8))
    assert future.result(timeout_s=180).statuses.count("rejected") == 1
    assert all(a.authorization_sha256 for a in backend.judge.requests)
    client = backend.redis.client
    held = b"".join(client.dump(key) or b"" for key in client.scan_iter(count=1000))
    assert KEY.encode() not in held
    tables = postgres_part.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    for (table,) in tables:
        rows = postgres_part.execute(f'SELECT t::text FROM "{table}" t')
        assert not [row for row in rows if KEY in str(row)], table
    assert not [worker.log for worker in backend.workers if KEY in worker.output()]


def test_trap_17_results_that_expire_before_their_batch_ends_are_refused() -> None:
    with pytest.raises(InvalidConfig, match=r"result_expires_s"):
        validate({"broker": {"result_expires_s": 60}})
    with pytest.raises(InvalidConfig, match=r"result_expires_s: 600 is less than `deadline_s`"):
        validate({"broker": {"result_expires_s": 600}, "deadline_s": 601})


def test_trap_18_workers_with_different_leases_do_not_work_side_by_side(
    backend: Backend, redis_url: str
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set(names.LEASE_KEY, 3600)
    worker = backend.start("combine", OYER_BROKER__URL=redis_url)
    assert worker.process.wait(60) != 0
    assert f"lease messages for 3600 s, this one for {VISIBILITY_TIMEOUT_S} s" in worker.output()


def _run_many(manager: object, tag: str, n: int) -> None:
    futures = [manager.submit(rollouts_of(f"{tag} {i}", 4)) for i in range(n)]  # type: ignore[attr-defined]
    for future in futures:
        assert future.result(timeout_s=180).statuses == ["scored"] * 4
