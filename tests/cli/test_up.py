"""`oyer up` runs a whole backend, reports its processes, and ends all of them."""

import json
import os
import pty
import shlex
import signal
import stat
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import named
from tests.cli.conftest import Backend, rollout_rows, write_config, write_lines
from tests.support.cli_process import ARGV, Family, children_of, environment, oyer, running

PARTS = ["redis", "store", "judge-1", "length-1", "combine-1"]


def test_each_process_is_reported_before_the_backend_is_ready(backend: Backend) -> None:
    events = backend.command.events()
    assert sorted(event["part"] for event in events[:-1]) == sorted(PARTS)
    assert events[-1]["event"] == "ready"


def test_the_state_file_is_for_its_owner_only(backend: Backend) -> None:
    path = Path(backend.command.events()[-1]["state_file"])
    assert path == backend.folder / ".oyer" / "backend.json"
    assert json.loads(path.read_text())["pid"] == backend.command.process.pid
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    printed = "\n".join(backend.command.lines)
    assert json.loads(path.read_text())["broker_url"] not in printed


def test_a_second_one_in_the_same_folder_is_refused(backend: Backend) -> None:
    done = oyer("up", cwd=backend.folder)
    assert done.returncode == 1
    assert "already runs in this folder" in done.stderr


def test_a_process_that_dies_is_restarted_and_ctrl_c_stops_all(tmp_path: Path) -> None:
    with running("up", "--judge-processes", "1", cwd=tmp_path) as up:
        pid = int(up.read_until("combine-1").rpartition("process ")[2])
        up.read_until("ready; logs in")
        os.kill(pid, signal.SIGKILL)
        assert up.read_until("combine-1").endswith("ended with -9; started again")
        family = up.family()
        assert len(family) == 5
        up.process.send_signal(signal.SIGINT)
        assert up.wait() == 0
        family.wait_gone()
        for part in ("judge-1", "length-1", "combine-1", "redis"):
            assert f"{part:<12} stopped" in up.lines
        assert up.errors() == ""
    assert list((tmp_path / ".oyer").glob("*.json")) == []


def test_no_password_is_left_in_the_folder(tmp_path: Path) -> None:
    with running("up", "--judge-processes", "1", cwd=tmp_path) as up:
        up.read_until("ready; logs in")
        url = json.loads((tmp_path / ".oyer" / "backend.json").read_text())["broker_url"]
        password = urlsplit(url).password
        assert password
        config = tmp_path / ".oyer" / "oyer.json"
        assert password in config.read_text()
        assert stat.S_IMODE(config.stat().st_mode) == 0o600
        up.process.send_signal(signal.SIGTERM)
        assert up.wait() == 0
    for path in (tmp_path / ".oyer").iterdir():
        assert password not in path.read_text(errors="replace"), path


def test_ctrl_c_during_the_start_stops_it(tmp_path: Path) -> None:
    with running("up", "--judge-processes", "1", cwd=tmp_path) as up:
        up.read_until("migrated")
        up.process.send_signal(signal.SIGINT)
        assert up.wait() == 0
        assert not any(line.startswith("ready") for line in up.lines)
        assert up.errors() == ""


def test_it_stops_without_leftover_processes_when_its_shell_is_killed(tmp_path: Path) -> None:
    """The kernel sends SIGHUP to the programs of a terminal when its session ends."""
    command = shlex.join([*ARGV, "up", "--judge-processes", "1"])
    shell, terminal = pty.fork()
    if shell == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.chdir(tmp_path)
        os.execve("/bin/sh", ["sh", "-c", f"{command}; true"], environment())
    try:
        printed = b""
        while b"ready; logs in" not in printed:
            printed += os.read(terminal, 4096)
        (up,) = children_of(shell)
        family = Family([up, *children_of(up)])
        assert len(family) == 5
        os.kill(shell, signal.SIGKILL)
        os.waitpid(shell, 0)
        family.wait_gone()
    finally:
        os.close(terminal)
    assert not (tmp_path / ".oyer" / "backend.json").exists()


def test_its_children_end_when_it_is_killed_during_a_batch(tmp_path: Path) -> None:
    with JudgeServer(named("black_hole")) as judge:
        write_config(tmp_path, judge.base_url, grace_s=1)
        write_lines(tmp_path / "rollouts.jsonl", rollout_rows("killed", 4))
        arguments = ["--config", "oyer.yaml", "--judge-processes", "1"]
        with running("up", *arguments, cwd=tmp_path) as up:
            up.read_until("ready; logs in")
            family = up.family()
            score = ["score", "../rollouts.jsonl", "--config", "../oyer.yaml"]
            state = json.loads((tmp_path / ".oyer" / "backend.json").read_text())
            environ = {"OYER_BROKER__URL": state["broker_url"]}
            (tmp_path / "trainer").mkdir()
            with running(*score, cwd=tmp_path / "trainer", changes=environ) as trainer:
                judge.wait_until(lambda log: len(log) == 4)
                up.process.send_signal(signal.SIGKILL)
                family.wait_gone()
                trainer.process.kill()


def test_a_key_that_is_not_exported_is_named(tmp_path: Path) -> None:
    (tmp_path / "oyer.yaml").write_text(
        "endpoints: {e: {base_url: http://127.0.0.1:9/v1, api_key_env: NO_SUCH_KEY}}"
    )
    done = oyer("up", "--config", "oyer.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error endpoints.e.api_key_env: NO_SUCH_KEY is not set")


def test_a_folder_that_cannot_be_written_is_named() -> None:
    done = oyer("up", cwd=Path("/proc"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error /proc/.oyer: ")
    assert "a folder that you can write to" in done.stderr


@pytest.mark.parametrize("section", ["broker", "store"])
def test_a_server_that_does_not_answer_is_named(section: str, tmp_path: Path) -> None:
    url = {"broker": "redis://127.0.0.1:9/0", "store": "postgresql://oyer@127.0.0.1:9/oyer"}
    (tmp_path / "oyer.yaml").write_text(f"{section}: {{url: '{url[section]}'}}")
    done = oyer("up", "--config", "oyer.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error {section}.url: ")
    assert "Traceback" not in done.stderr
