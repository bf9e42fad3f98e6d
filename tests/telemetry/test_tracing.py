"""Tracing that is off, that lacks its library, and whose collector fails."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import trace

from oyer.config.loading import validate
from oyer.demo.responses import Action
from oyer.manager import InvalidConfig, RewardManager
from oyer.telemetry import provider, tracing
from tests.support.otlp_receiver import otlp_receiver
from tests.support.rollouts import rollout
from tests.support.scripted_backend import scripted_backend

CONFIG = {
    "judges": [{"name": "q", "endpoint": "e", "model": "m"}],
    "broker": {"url": "redis://127.0.0.1:1/0"},
}


@pytest.fixture(autouse=True)
def off_again() -> Iterator[None]:
    yield
    tracing.stop()


def test_tracing_is_off_unless_the_configuration_says_otherwise() -> None:
    assert validate(CONFIG).tracing == "off"
    assert validate({**CONFIG, "tracing": False}).tracing == "off"  # a bare `off` in YAML
    tracing.start("off", "x")
    assert tracing.tracer() is None
    with tracing.span("oyer.submit", "producer", {}) as span:
        assert span is None


@pytest.mark.parametrize("module", ["oyer.manager", "oyer.tasks.celery"])
def test_what_is_off_loads_no_traces_of_opentelemetry(module: str, tmp_path: Path) -> None:
    """The client of Redis loads its metrics by itself."""
    code = f"import sys, {module}; print(sys.modules.keys() & {{*sys.argv[1:]}})"
    heavy = ["opentelemetry.sdk.trace", "opentelemetry.exporter"]
    environ = {**os.environ, "OYER_BROKER__URL": "redis://127.0.0.1:1/0"}
    done = subprocess.run(
        [sys.executable, "-c", code, *heavy, "oyer.telemetry.provider"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "set()\n"


def test_without_opentelemetry_the_error_has_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "oyer.telemetry.provider")
    monkeypatch.delattr("oyer.telemetry.provider")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(InvalidConfig, match=r"tracing: .*pip install 'oyer\[otel\]'"):
        RewardManager({**CONFIG, "tracing": "spans"})


def test_a_queue_size_that_is_no_number_is_replaced_by_a_default(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "many")
    tracing.start("spans", "x")
    assert tracing.tracer() is not None
    assert "many" in caplog.text


def test_a_submission_is_a_child_of_the_span_of_the_trainer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where a parent is damaged: a message of another program begins a new trace."""
    monkeypatch.setattr(provider, "FLUSH_S", 60.0)
    with otlp_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        tracing.start("spans", "x")
        with tracing.span("step", "producer", {"batch_id": "b"}) as step:
            assert step is not None
            parent = tracing.traceparent(step)
            with tracing.span("oyer.submit", "producer", {"run": None}) as submit:
                assert submit is not None
                assert submit.get_span_context().trace_id == step.get_span_context().trace_id
        for damaged in (None, 3, "00-zz", parent[:-10]):
            tracing.continue_from(damaged)
            assert not trace.get_current_span().get_span_context().is_valid
        tracing.continue_from(parent)
        assert (
            trace.get_current_span().get_span_context().span_id == step.get_span_context().span_id
        )
        tracing.continue_from(None)
        tracing.stop()
        spans = receiver.wait_for("b", lambda found: len(found) == 2)
    assert {one.service for one in spans} == {"x"}
    assert all("oyer.run" not in one.attributes for one in spans)


def test_the_end_of_a_process_does_not_wait_for_a_collector_that_hangs() -> None:
    """The SDK would wait for 30 s; this one ends while the collector still holds the request."""
    code = (
        "from oyer.telemetry import tracing\n"
        "tracing.start('spans', 'x')\n"
        "with tracing.span('s', 'producer', {}): pass\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        environ = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
        environ["OTEL_EXPORTER_OTLP_TIMEOUT"] = "3600"
        process = subprocess.Popen([sys.executable, "-c", code], env=environ)
        silent.settimeout(60)
        held, _ = silent.accept()
        with held:
            assert process.wait(120) == 0
    assert provider.FLUSH_S < 10


def test_a_subprocess_of_a_gevent_worker_runs_none_of_its_greenlets(tmp_path: Path) -> None:
    """They would read replies from the worker's sockets."""
    code = (
        "from gevent import monkey; monkey.patch_all()\n"
        "import gevent, os, subprocess, sys\n"
        "from oyer.telemetry import tracing\n"
        "tracing.start('spans', 'x')\n"
        "def note():\n"
        "    while True:\n"
        "        os.write(pids, b'%d\\n' % os.getpid())\n"
        "        gevent.sleep(0)\n"
        "pids = os.open(sys.argv[1], os.O_CREAT | os.O_APPEND | os.O_WRONLY)\n"
        "gevent.spawn(note)\n"
        "for _ in range(3): subprocess.run(['true'], check=True)\n"
        "print(os.getpid())\n"
    )
    environ = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "pids")],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set((tmp_path / "pids").read_text().split()) == {done.stdout.strip()}


def test_a_forked_process_exports_its_own_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import os\n"
        "from oyer.telemetry import provider, tracing\n"
        "provider.FLUSH_S = 60.0\n"
        "tracing.start('spans', 'x')\n"
        "with tracing.span('parent', 'producer', {'batch_id': 'b'}): pass\n"
        "if os.fork() == 0:\n"
        "    with tracing.span('child', 'producer', {'batch_id': 'b'}): pass\n"
        "    tracing.stop()\n"
        "    os._exit(0)\n"
        "assert os.wait()[1] == 0\n"
    )
    with otlp_receiver() as receiver:
        environ = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
        subprocess.run([sys.executable, "-c", code], env=environ, check=True)
        spans = receiver.wait_for("b", lambda found: len(found) == 2)
    assert {one.name for one in spans} == {"parent", "child"}


def test_a_collector_that_is_away_costs_no_judgement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    with scripted_backend(tmp_path, tracing="texts") as (manager, judge):
        judge.set_plan(Action(text="Final score: 7"))
        for i in range(3):
            batch = manager.submit([rollout(f"away {i} {k}") for k in range(8)]).result(60)
            assert batch.statuses == ["scored"] * 8
