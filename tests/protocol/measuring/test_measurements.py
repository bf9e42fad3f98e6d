"""Counters and histograms in Redis: sums, restarts, outages, runs, and what stays small."""

import json
import subprocess
import sys
import threading

import pytest
import redis

from oyer.manager.backend.recovery import Recovery
from oyer.manager.streaming.sender import SUBMITTER_STOPPED
from oyer.protocol.measuring import measured, measurements
from oyer.protocol.measuring.measurements import Measurements, read_measurements
from oyer.protocol.redis_client import connect
from tests.support import services
from tests.support.paths import ROOT
from tests.support.waiting import wait_until


def values(client: redis.Redis) -> dict[tuple[str, ...], float]:
    """Return the values by name, labels and part."""
    read = read_measurements(client).values
    return {(one.name, *one.labels, one.part): one.value for one in read}


@pytest.fixture(autouse=True)
def _patient_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the last write take longer than a process may wait for it: the machine may be busy."""
    monkeypatch.setattr(measurements, "_EXIT_S", 60.0)


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return connect(redis_url)


def test_the_sums_of_several_processes_add_up(client: redis.Redis) -> None:
    for _ in range(2):
        process = Measurements(client)
        process.count(measured.JUDGEMENTS, "q", "scored", "called")
        process.count(measured.JUDGEMENTS, "q", "scored", "called", by=2)
        process.close()
    assert values(client) == {("oyer_judgements", "q", "scored", "called", ""): 6}


def test_a_value_that_is_added_during_the_last_write_is_written_too(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Measurements(client)
    write = process._write

    def last(sums: measurements._Sums) -> bool:
        written = write(sums)
        if not process._stopping.is_set():
            process.count(measured.JUDGEMENTS, "q", "scored", "called", by=2)
            process._stopping.set()
        return written

    monkeypatch.setattr(process, "_write", last)
    process.count(measured.JUDGEMENTS, "q", "scored", "called")
    thread = process._thread
    assert thread is not None
    thread.join()
    assert values(client) == {("oyer_judgements", "q", "scored", "called", ""): 3}


def test_a_histogram_counts_each_value_in_one_bucket(client: redis.Redis) -> None:
    process = Measurements(client)
    for value_s in (0.01, 0.05, 0.06, 10_000, -1):
        process.observe(measured.BATCH_SECONDS, value_s)
    process.close()
    found = values(client)
    assert found.pop(("oyer_batch_seconds", "sum")) == pytest.approx(10_000.12)
    above = str(len(measured.BATCH_SECONDS.buckets_s))
    assert found == {
        ("oyer_batch_seconds", "0"): 3,
        ("oyer_batch_seconds", "1"): 1,
        ("oyer_batch_seconds", above): 1,
    }


def test_what_redis_does_not_take_is_written_once_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measurements, "_RETRY_S", 0.01)
    port = services.free_port()
    process = Measurements(connect(f"redis://127.0.0.1:{port}/0", timeout_s=30.0))
    process.count(measured.COST_USD, "r", "q", by=0.5)
    process.note_run("r", 3.0)
    process.note_url("fake", 1, answers=False)
    monkeypatch.setattr(services, "free_port", lambda: port)
    with services.redis_server():
        client = connect(f"redis://127.0.0.1:{port}/0")
        while not read_measurements(client).values:
            threading.Event().wait(0.01)
        process.count(measured.COST_USD, "r", "q", by=0.25)
        process.close()
        read = read_measurements(client)
        assert values(client) == {("oyer_cost_usd", "r", "q", ""): 0.75}
    assert read.budgets_usd == {"r": 3.0}
    assert {place: answers for place, (answers, _) in read.urls.items()} == {("fake", 1): False}


def test_a_value_that_redis_refuses_is_dropped_and_the_others_count_once(
    client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    client.hset(measurements.COUNTERS_KEY, '["oyer_attempts", "fake", "200", ""]', "no number")
    process = Measurements(client)
    process.count(measured.ATTEMPTS, "fake", "200")
    process.count(measured.ATTEMPTS, "fake", "503")
    process.close()
    assert client.hgetall(measurements.COUNTERS_KEY) == {
        b'["oyer_attempts", "fake", "200", ""]': b"no number",
        b'["oyer_attempts", "fake", "503", ""]': b"1",
    }
    assert "metrics are dropped: ResponseError" in caplog.text


def test_a_name_that_cannot_be_encoded_does_not_end_the_writing(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(measurements, "_PAUSE_S", 0.01)
    process = Measurements(client)
    process.count(measured.COST_USD, "\ud800", "q", by=1)
    while "metrics are dropped" not in caplog.text:
        threading.Event().wait(0.01)
    process.count(measured.COST_USD, "r", "q", by=1)
    process.close()
    assert values(client) == {("oyer_cost_usd", "r", "q", ""): 1}


def test_a_thread_that_cannot_start_raises_nothing_and_starts_later(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    process = Measurements(client)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fails)
        process.count(measured.JUDGEMENTS, "q", "scored", "called")
    process.count(measured.JUDGEMENTS, "q", "scored", "called")
    process.close()
    assert values(client) == {("oyer_judgements", "q", "scored", "called", ""): 2}


def test_a_thread_that_ended_for_want_of_changes_is_replaced(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurements, "_IDLE_S", 0.01)
    monkeypatch.setattr(measurements, "_PAUSE_S", 0.01)
    process = Measurements(client)
    for _ in range(3):
        process.count(measured.JUDGEMENTS, "q", "scored", "called")
        wait_until(lambda: process._thread is None, "the thread has ended")
    process.close()
    assert values(client) == {("oyer_judgements", "q", "scored", "called", ""): 3}


def test_only_the_runs_that_changed_last_are_read(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurements, "RUNS_SHOWN", 2)
    monkeypatch.setattr(measurements, "_RUNS_KEPT", 3)
    for i in range(5):
        process = Measurements(client)
        process.count(measured.COST_USD, f"run {i}", "q", by=1)
        process.close()
    assert read_measurements(client).runs == ("run 4", "run 3")
    assert client.zcard(measurements.RUNS_KEY) == 3


def test_every_key_expires(client: redis.Redis) -> None:
    process = Measurements(client)
    process.count(measured.COST_USD, "r", "q", by=1)
    process.count(measured.ATTEMPTS, "fake", "200")
    process.note_url("fake", 0, answers=True)
    process.close()
    assert {key: client.ttl(key) > 0 for key in client.keys("*")} == dict.fromkeys(
        [
            b"oyer:metrics:1",
            b"oyer:metrics:1:runs",
            b"oyer:metrics:1:urls",
            b"oyer:metrics:1:run:r",
        ],
        True,
    )


def test_a_program_that_ends_at_once_writes_its_values(redis_url: str) -> None:
    code = (
        "from oyer.protocol import redis_client\n"
        "from oyer.protocol.measuring import measured, measurements\n"
        f"client = redis_client.connect({json.dumps(redis_url)})\n"
        "measurements._EXIT_S = 60.0\n"
        "measurements.Measurements(client).observe(measured.TRAINER_WAIT_SECONDS, 1.5)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert values(connect(redis_url))["oyer_trainer_wait_seconds", "sum"] == 1.5


def test_a_forked_process_does_not_write_the_values_of_its_parent(redis_url: str) -> None:
    code = (
        "import os\n"
        "from oyer.protocol import redis_client\n"
        "from oyer.protocol.measuring import measured, measurements\n"
        f"client = redis_client.connect({json.dumps(redis_url)})\n"
        "measurements._EXIT_S = 60.0\n"
        "process = measurements.Measurements(client)\n"
        "process.count(measured.JUDGEMENTS, 'q', 'scored', 'called')\n"
        "child = os.fork()\n"
        "if child:\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, check=True)
    assert values(connect(redis_url)) == {("oyer_judgements", "q", "scored", "called", ""): 1}


def test_each_reason_of_a_resubmission_has_a_label_of_its_own() -> None:
    stalled, lost, failed = (Recovery(stall_timeout_s=30.0, now_s=0.0) for _ in range(3))
    lost.gone(0.0)
    failed.failed("BatchFailed: its length terms did not arrive", 0.0)
    reasons = [one.due(100.0) for one in (failed, stalled, lost)]
    reasons += [SUBMITTER_STOPPED, "oyer batches resume"]
    labels = [measured.resubmission_reason(str(reason)) for reason in reasons]
    assert labels == list(measured.RESUBMISSION_REASONS)
