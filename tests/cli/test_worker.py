"""`oyer worker`: one kind of worker per command, with its device and its processes."""

import os
import signal
from pathlib import Path

import pytest

from tests.cli.conftest import Backend
from tests.cli.running import children_of, oyer, running


@pytest.fixture
def environ(redis_url: str, sqlite_url: str) -> dict[str, str]:
    """Name a broker and a store, as production does."""
    return {"OYER_BROKER__URL": redis_url, "OYER_STORE__URL": sqlite_url}


def environment_of(pid: int) -> dict[str, str]:
    """Read the environment that a process was started with."""
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry)


def test_a_kind_that_does_not_exist_is_refused(tmp_path: Path) -> None:
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
    with running(*arguments, cwd=tmp_path, merged=True, **environ) as worker:
        worker.read_until(" ready.")
        assert environment_of(worker.process.pid)["CUDA_VISIBLE_DEVICES"] == "5"
        worker.process.send_signal(signal.SIGTERM)
        assert worker.wait() == 0


def test_several_processes_log_to_the_operator_and_stop_together(
    environ: dict[str, str], tmp_path: Path
) -> None:
    arguments = ["worker", "combine", "--processes", "2"]
    with running(*arguments, cwd=tmp_path, merged=True, **environ) as worker:
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
