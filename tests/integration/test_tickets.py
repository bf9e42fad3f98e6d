"""A ticket of a process that has ended is redeemed in another process."""

import json
import signal
import subprocess
import sys

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action
from oyer.manager import RewardFuture, RewardManager
from tests.support.paths import ROOT
from tests.support.rollouts import rollouts_of

SUBMIT = """
import json, sys, time
from oyer.manager import RewardManager
from tests.support.rollouts import rollouts_of
config, tag = json.loads(sys.stdin.readline())
print(RewardManager(config).submit(rollouts_of(tag, 8)).ticket, flush=True)
time.sleep(600)
"""

GATHER = """
import json, sys
from oyer.manager import RewardFuture
print("ready", flush=True)
future = RewardFuture.from_ticket(sys.stdin.readline().strip())
print("open", flush=True)
batch = future.result(timeout_s=60)
print(json.dumps([batch.rewards.tolist(), batch.statuses, future.ticket]), flush=True)
"""


def started(code: str) -> subprocess.Popen[str]:
    """Run code in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def say(process: subprocess.Popen[str], line: str) -> None:
    """Let a process read a line."""
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def line_of(process: subprocess.Popen[str]) -> str:
    """Read what a process prints next."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("ended", [False, True])
def test_a_ticket_outlives_the_process_that_submitted(
    backend: RewardManager, judge: JudgeServer, ended: bool
) -> None:
    tag = f"ticket of the dead {ended}"
    judge.set_plan(Action(text="Final score: 5", hold=True))
    config = backend.config.model_dump(mode="json")
    with started(GATHER) as gatherer, started(SUBMIT) as submitter:
        assert line_of(gatherer) == "ready"
        say(submitter, json.dumps([config, tag]))
        ticket = line_of(submitter)
        judge.wait_until(lambda log: len(log) == 8)
        submitter.kill()
        assert submitter.wait(60) == -signal.SIGKILL
        if ended:
            judge.release()
            RewardFuture.from_ticket(ticket).result(timeout_s=60)
        say(gatherer, ticket)
        assert line_of(gatherer) == "open"
        judge.release()
        rewards, statuses, same = json.loads(line_of(gatherer))
    # Plain enough for a log line, a column of a data set, or an environment variable.
    assert ticket.isascii()
    assert ticket.isprintable()
    assert " " not in ticket
    assert same == ticket
    assert statuses == ["scored"] * 8
    asked = len(judge.requests)
    expected = backend.submit(rollouts_of(tag, 8)).result(timeout_s=60)
    assert rewards == expected.rewards.tolist()
    assert len(judge.requests) == asked
