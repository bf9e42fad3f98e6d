"""Child processes are started, logged, restarted and stopped, and end with their parent."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from oyer.local import processes
from oyer.local.processes import Child, keep_alive, run_to_end, stop_all

ENVIRON = {"MARK": "given"}


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def child_of(code: str, folder: Path | None, **options: Any) -> Child:
    return Child("part", python(code), ENVIRON, log_folder=folder, **options)


def run(child: Child) -> None:
    """Start a child and wait for its end, without reaping it."""
    child.start()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert child.ended()


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A pipe through which a child reports that it is ready and that it has ended."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def test_output_goes_to_the_log_and_the_environment_is_the_given_one(tmp_path: Path) -> None:
    child = child_of(
        "import os, sys; print(dict(os.environ), flush=True); print('err', file=sys.stderr)",
        tmp_path,
    )
    assert child.ended()
    assert child.pid == 0
    assert child.returncode is None
    run(child)
    assert child.returncode == 0
    assert "'MARK': 'given'" in child.tail()
    assert "PATH" not in child.tail()
    assert child.tail().endswith("err")
    assert (tmp_path / "part.log").exists()


def test_without_a_log_file_the_tail_points_to_the_output() -> None:
    assert child_of("pass", None).tail() == "see its output above"


def test_the_tail_is_the_end_of_a_long_log(tmp_path: Path) -> None:
    child = child_of("print('x' * 10_000 + 'the end')", tmp_path)
    run(child)
    assert child.tail().endswith("xthe end")
    assert len(child.tail()) <= 2000


def test_the_tail_of_a_child_without_output_is_no_output(tmp_path: Path) -> None:
    child = child_of("pass", tmp_path)
    run(child)
    assert child.tail() == "no output"


def test_standard_input_is_given_at_each_start(tmp_path: Path) -> None:
    child = child_of("import sys; print(sys.stdin.read())", tmp_path, stdin="secret")
    for _ in range(2):
        run(child)
    assert child.tail().split() == ["secret", "secret"]


def test_a_child_that_ends_before_it_reads_is_not_an_error(tmp_path: Path) -> None:
    child = child_of("import os; os.close(0); raise SystemExit(3)", tmp_path, stdin="x" * 2**20)
    run(child)
    assert child.returncode == 3


def test_a_child_runs_in_a_new_session(tmp_path: Path) -> None:
    child = child_of("import os; print(os.getsid(0) == os.getpid())", tmp_path)
    run(child)
    assert child.tail() == "True"


def test_a_child_can_finish_after_sigterm(tmp_path: Path, fifo: Path) -> None:
    child = child_of(
        "import signal, sys\n"
        "def stop(*_): print('finished'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        f"open({str(fifo)!r}, 'w').write('ready')\n"
        "signal.pause()",
        tmp_path,
    )
    child.start()
    assert fifo.read_text() == "ready"
    assert not child.ended()
    child.ask_to_stop()
    child.wait_stopped()
    assert child.returncode == 0
    assert child.tail() == "finished"


def test_a_child_that_does_not_stop_is_killed_after_the_grace_period(
    tmp_path: Path, fifo: Path
) -> None:
    child = child_of(
        "import signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"open({str(fifo)!r}, 'w').write('ready')\n"
        "signal.pause()",
        tmp_path,
        grace_s=0.01,
    )
    child.start()
    assert fifo.read_text() == "ready"
    child.ask_to_stop()
    child.wait_stopped()
    assert child.returncode == -signal.SIGKILL


def test_stopping_a_child_that_does_not_run_is_not_an_error(tmp_path: Path) -> None:
    child = child_of("pass", tmp_path)
    child.ask_to_stop()
    child.wait_stopped()
    run(child)
    child.ask_to_stop()
    child.wait_stopped()
    assert child.returncode == 0


def test_children_that_end_are_restarted_until_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "RESTART_PAUSE_S", 0.001)
    child, stop = child_of("raise SystemExit(4)", tmp_path), threading.Event()
    reports: list[tuple[str, str]] = []

    def report(name: str, state: str) -> None:
        reports.append((name, state))
        if len(reports) == 3:
            stop.set()

    child.start()
    keep_alive([child], stop, report)
    assert set(reports) == {("part", "ended with 4; started again")}
    stop_all([child], report)
    assert reports[-1] == ("part", "stopped")
    assert child.ended()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the children of the dead")
def test_a_child_ends_when_its_parent_is_killed(fifo: Path) -> None:
    holder = f"import signal; f = open({str(fifo)!r}, 'w'); f.write('r'); f.flush(); signal.pause()"
    parent = subprocess.Popen(
        python(
            "import signal, sys\n"
            "from oyer.local.processes import Child\n"
            f"Child('c', [sys.executable, '-c', {holder!r}], {{}}).start()\n"
            "signal.pause()"
        )
    )
    with fifo.open() as pipe:
        assert pipe.read(1) == "r"
        parent.kill()
        parent.wait()
        # The child held the only other end: this ends when the child has.
        assert pipe.read() == ""


def test_a_short_command_returns_its_status_and_the_end_of_its_output() -> None:
    code = "import sys; print('out', flush=True); print('y' * 5000 + 'err', file=sys.stderr); sys.exit(7)"
    status, output = run_to_end(python(code), ENVIRON)
    assert status == 7
    assert output.endswith("yerr")
    assert len(output) <= 2000
