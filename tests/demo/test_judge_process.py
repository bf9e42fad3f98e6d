"""The judge server as a process."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from oyer.demo.judge_server import judge_process
from oyer.demo.request_log import RequestEntry
from oyer.protocol.errors import BackendUnavailable


def ask(base_url: str) -> dict[str, Any]:
    body = json.dumps({"model": "m", "messages": []}).encode()
    with urllib.request.urlopen(f"{base_url}/chat/completions", body, timeout=60) as response:
        parsed = json.load(response)
    assert isinstance(parsed, dict)
    return parsed


def test_the_command_line_sets_the_default_reply_the_plan_and_the_log(tmp_path: Path) -> None:
    plan, log = tmp_path / "plan.json", tmp_path / "log.jsonl"
    plan.write_text(json.dumps({"rules": [{"when": {"sequence": 1}, "then": "no_usage"}]}))
    options = ["--text", "Final score: 8", "--latency-s", "0.01", "--body-limit-bytes", "0"]
    with judge_process(*options, "--plan", str(plan), "--log", str(log)) as base_url:
        first, second = ask(base_url), ask(base_url)
    assert first["choices"][0]["message"]["content"] == "Final score: 8"
    assert "usage" in first
    assert "usage" not in second
    logged = [RequestEntry.from_record(json.loads(line)) for line in log.read_text().splitlines()]
    assert [arrival.action for arrival in logged] == ["reply", "no_usage"]
    assert all(arrival.body is None for arrival in logged)


def test_the_process_ends_with_the_block() -> None:
    with judge_process() as base_url:
        assert ask(base_url)["object"] == "chat.completion"
    with pytest.raises(OSError, match="refused"):
        ask(base_url)


def test_a_server_that_cannot_start_reports_the_reason(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text('{"default": "sulk"}')
    with pytest.raises(BackendUnavailable), judge_process("--plan", str(plan)):
        pass
    said = capfd.readouterr().err
    assert "no action 'sulk'" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_cleanly(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "oyer.demo.judge_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        ready = json.loads(process.stdout.readline())
        assert ready["pid"] == process.pid
        os.kill(process.pid, number)
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == b""
