"""`oyer worker` runs workers of one kind."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from oyer import migrations
from oyer.protocol.measuring import live_workers
from oyer.tasks.worker.pools import DEFAULT_CONCURRENCY
from tests.cli.conftest import Backend
from tests.support.cli_process import children_of, environment, oyer, oyer_program, running


@pytest.fixture
def environ(redis_url: str, sqlite_url: str) -> dict[str, str]:
    """Return environment variables with a broker and a migrated store, as in production."""
    migrations.upgrade(sqlite_url)
    return {"OYER_BROKER__URL": redis_url, "OYER_STORE__URL": sqlite_url}


def environment_of(pid: int) -> dict[str, str]:
    """Read the environment of a process."""
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry)


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    done = oyer("worker", "judges", cwd=tmp_path)
    assert done.returncode == 2
    assert "judges" in done.stderr


def test_a_device_that_does_not_exist_is_refused(environ: dict[str, str], tmp_path: Path) -> None:
    done = oyer("worker", "length", "--device", "gpu", cwd=tmp_path, **environ)
    assert done.returncode == 1
    assert done.stderr == "error --device 'gpu': is `cpu` or `cuda:N`, e.g. cuda:0\n"


def test_a_device_is_chosen_before_torch_loads(environ: dict[str, str], tmp_path: Path) -> None:
    environ["CUDA_VISIBLE_DEVICES"] = "3,5"
    arguments = ["worker", "length", "--device", "cuda:1"]
    with running(*arguments, cwd=tmp_path, changes=environ, merged=True) as worker:
        worker.read_until(" ready.")
        [child] = children_of(worker.process.pid)
        assert environment_of(child)["CUDA_VISIBLE_DEVICES"] == "5"
        worker.process.send_signal(signal.SIGTERM)
        assert worker.wait() == 0


def test_several_processes_log_to_standard_error_and_stop_together(
    environ: dict[str, str], tmp_path: Path
) -> None:
    arguments = ["worker", "combine", "--processes", "2"]
    with running(*arguments, cwd=tmp_path, changes=environ, merged=True) as worker:
        worker.read_until(" ready.")
        worker.read_until(" ready.")
        family = worker.family()
        assert len(family) == 3
        os.kill(children_of(worker.process.pid)[0], signal.SIGKILL)
        assert worker.read_until("ended with") == "combine-0 ended with -9; started again"
        worker.read_until(" ready.")
        worker.process.send_signal(signal.SIGTERM)
        assert worker.wait() == 0
        family.wait_gone()


def test_a_process_that_dies_is_restarted(environ: dict[str, str], tmp_path: Path) -> None:
    with running("worker", "combine", cwd=tmp_path, changes=environ, merged=True) as worker:
        worker.read_until(" ready.")
        os.kill(children_of(worker.process.pid)[0], signal.SIGKILL)
        assert worker.read_until("ended with") == "combine-0 ended with -9; started again"
        worker.read_until(" ready.")


@pytest.mark.parametrize("kind", ["judge", "combine"])
@pytest.mark.parametrize("revision", [None, "0001"])
def test_a_worker_on_a_record_without_this_releases_schema_ends_with_the_fix(
    redis_url: str, sqlite_url: str, tmp_path: Path, kind: str, revision: str | None
) -> None:
    if revision is not None:
        migrations.upgrade(sqlite_url, revision)
    stated = f"is at revision {revision}, not" if revision else "has no schema"
    environ = {"OYER_BROKER__URL": redis_url, "OYER_STORE__URL": sqlite_url}
    done = oyer("worker", kind, cwd=tmp_path, **environ)
    assert done.returncode == os.EX_CONFIG
    assert f"the record {sqlite_url} {stated}" in done.stderr
    assert "run `oyer db upgrade`" in done.stderr
    assert "Traceback" not in done.stderr
    assert " ready." not in done.stderr


def test_more_calls_than_open_files_are_refused_at_start_up(
    environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "oyer.yaml").write_text(
        "endpoints: {e: {base_url: 'http://127.0.0.1:9/v1', max_in_flight: 1200}}"
    )
    arguments = ["worker", "judge", "--config", "oyer.yaml"]
    done = oyer_program(
        *arguments, cwd=tmp_path, environ=environment(**environ), open_files=(1024, 1024)
    )
    assert done.returncode == os.EX_CONFIG
    assert "endpoints.e.max_in_flight: 1200 calls in flight" in done.stderr
    assert "need 1456 open files in a judge worker, which may open 1024" in done.stderr
    assert "let `max_in_flight` add up to 768 at most" in done.stderr


def test_a_worker_raises_its_limit_of_open_files_to_the_hard_limit(
    environ: dict[str, str], tmp_path: Path
) -> None:
    arguments = ["worker", "combine"]
    with running(
        *arguments, cwd=tmp_path, changes=environ, merged=True, open_files=(256, 2048)
    ) as worker:
        worker.read_until(" ready.")
        [child] = children_of(worker.process.pid)
        assert resource.prlimit(child, resource.RLIMIT_NOFILE) == (2048, 2048)


def test_environment_variables_of_another_celery_program_are_ignored(
    environ: dict[str, str], tmp_path: Path
) -> None:
    environ |= {
        "CELERY_BROKER_URL": "redis://127.0.0.1:9/0",
        "CELERY_RESULT_BACKEND": "rpc://",
        "CELERY_CONFIG_MODULE": "of_another_program",
        "CELERY_LOADER": "default",
        "CELERY_WORKER_QUEUES": "theirs",
        "CELERY_WORKER_MAX_TASKS_PER_CHILD": "one",
        "DJANGO_SETTINGS_MODULE": "of_another_program",
    }
    with running("worker", "combine", cwd=tmp_path, changes=environ, merged=True) as worker:
        worker.read_until(" ready.")
        with redis.Redis.from_url(environ["OYER_BROKER__URL"]) as client:
            assert len(live_workers.workers(client)["combine"]) == 1


def test_log_lines_are_json_by_option(environ: dict[str, str], tmp_path: Path) -> None:
    arguments = ["worker", "combine", "--log-format", "json"]
    with running(*arguments, cwd=tmp_path, changes=environ, merged=True) as worker:
        entry = json.loads(worker.read_until(" ready."))
    assert entry["level"] == "INFO"
    assert entry["logger"] == "celery.apps.worker"


def test_the_celery_command_line_has_the_same_concurrency(
    environ: dict[str, str], tmp_path: Path
) -> None:
    argv = [sys.executable, "-m", "celery", "-A", "oyer.tasks", "worker", "-Q", "judge"]
    argv += ["-P", "gevent", "-l", "INFO"]
    done = subprocess.Popen(
        argv,
        cwd=tmp_path,
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.stdout is not None
    banner = []
    try:
        for line in done.stdout:
            banner.append(line)
            if " ready." in line:
                break
    finally:
        done.terminate()
        done.communicate(timeout=60)
    assert f"concurrency: {DEFAULT_CONCURRENCY['judge']} (gevent)" in "".join(banner)
    assert "superuser" not in "".join(banner)


def test_a_worker_is_alive_on_the_host_that_it_runs_on(backend: Backend, tmp_path: Path) -> None:
    for kind in ("judge", "length", "combine"):
        done = oyer("worker", "alive", kind, cwd=backend.folder)
        assert (done.returncode, done.stdout) == (0, f"1 {kind} worker on this host\n")


def test_no_worker_is_alive_on_an_empty_broker(environ: dict[str, str], tmp_path: Path) -> None:
    done = oyer("worker", "alive", "judge", cwd=tmp_path, **environ)
    assert (done.returncode, done.stdout) == (1, "0 judge workers on this host\n")


def test_a_worker_without_a_broker_says_which_key_to_set(tmp_path: Path) -> None:
    done = oyer("worker", "judge", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error broker.url: is not set")
