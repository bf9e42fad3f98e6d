"""`oyer status`: what the backend does now, as a real one says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oyer.demo.actions import Action
from oyer.demo.judge_server import JudgeServer
from oyer.manager import RewardFuture, RewardManager
from tests.cli.running import oyer, running
from tests.scripted import rollout, scripted_backend

IN_FLIGHT = 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RewardManager, JudgeServer]]:
    """Run a backend whose endpoint has every limit, and whose judge answers when told to."""
    changes: dict[str, Any] = {
        "budget": {"usd": 5.0},
        "length": [],
    }
    with JudgeServer(Action(text="Final score: 5", hold=True)) as judge:
        endpoint = {
            "base_url": judge.base_url,
            "max_in_flight": IN_FLIGHT,
            "requests_per_minute": 600,
            "tokens_per_minute": 1_000_000,
            "timeout_s": 300,
            "prices": {"m": {"prompt_usd": 1000.0, "completion_usd": 1000.0}},
        }
        folder = tmp_path_factory.mktemp("status")
        changes["endpoints"] = {"fake": endpoint}
        with scripted_backend(folder, **changes) as (manager, _):
            yield manager, judge
            judge.set_plan(Action(text="Final score: 5"))
            judge.release()


@pytest.fixture(scope="module")
def held(whole: tuple[RewardManager, JudgeServer]) -> RewardFuture:
    """Submit a batch whose first calls are under way, and stay so."""
    manager, judge = whole
    future = manager.submit([rollout("status", i) for i in range(8)], run="held", step=4)
    judge.wait_until(lambda log: len(log) == IN_FLIGHT)
    return future


def seen(manager: RewardManager, cwd: Path, *arguments: str, **changes: str) -> dict[str, Any]:
    """Look from a host that has the broker's URL only."""
    done = oyer("status", "--json", *arguments, cwd=cwd, **broker(manager), **changes)
    assert done.returncode == 0, done.stderr
    status: dict[str, Any] = json.loads(done.stdout)
    return status


def broker(manager: RewardManager) -> dict[str, str]:
    """Give the variable that names a manager's broker."""
    assert manager.config.broker.url is not None
    return {"OYER_BROKER__URL": manager.config.broker.url}


def test_a_batch_is_seen_with_its_calls_its_money_and_who_waits(
    whole: tuple[RewardManager, JudgeServer], held: RewardFuture, tmp_path: Path
) -> None:
    status = seen(whole[0], tmp_path)
    [batch] = status["batches"]
    assert (batch["id"], batch["run"], batch["step"]) == (held.batch_id, "held", 4)
    assert (batch["state"], batch["rollouts"]) == ("waiting", 8)
    assert (batch["judged"], batch["verdicts"]) == (0, 8)
    assert batch["age_s"] >= 0
    assert batch["left_s"] > 0
    [endpoint] = status["endpoints"]
    assert endpoint["name"] == "fake"
    assert (endpoint["in_flight"], endpoint["max_in_flight"]) == (IN_FLIGHT, IN_FLIGHT)
    assert endpoint["waiting"] == 8 - IN_FLIGHT
    assert [caller["waiting"] for caller in endpoint["callers"]] == [8 - IN_FLIGHT]
    assert endpoint["requests"] >= IN_FLIGHT
    assert (endpoint["requests_per_minute"], endpoint["tokens_per_minute"]) == (600, 1_000_000)
    assert endpoint["tokens"] > 0
    assert (endpoint["adaptive_limit"], endpoint["cool_s"]) == (None, 0)
    [run] = status["runs"]
    assert (run["run"], run["spent_usd"], run["budget_usd"]) == ("held", 0, 5)
    assert run["reserved_usd"] > 0
    queues = {queue["name"]: queue for queue in status["queues"]}
    assert queues["judge"]["taken"] >= 1
    assert [queue["waiting"] for queue in status["queues"]] == [0, 0, 0]
    assert all(len(queues[name]["workers"]) >= 1 for name in ("judge", "combine"))
    assert status["backlog_bytes"] > 0


def test_a_terminal_is_shown_the_same_in_tables(
    whole: tuple[RewardManager, JudgeServer], held: RewardFuture, tmp_path: Path
) -> None:
    done = oyer("status", cwd=tmp_path, **{**broker(whole[0]), "COLUMNS": "160"})
    assert (done.returncode, done.stderr) == (0, "")
    for shown in (
        held.batch_id,
        "0 of 8 (0%)",
        f"{IN_FLIGHT} of {IN_FLIGHT}",
        "5, in 1 worker",
        "of 600",
        "of 1000000",
        "$0.0000",
        "$5",
    ):
        assert shown in done.stdout, shown


def test_a_watch_looks_again_until_it_is_stopped(
    whole: tuple[RewardManager, JudgeServer], held: RewardFuture, tmp_path: Path
) -> None:
    with running("status", "--watch", "--json", cwd=tmp_path, **broker(whole[0])) as command:
        for _ in range(2):
            command.read_until(held.batch_id)
        command.process.terminate()
        assert command.wait() == 0
    first, second = (json.loads(line) for line in command.lines[:2])
    assert second["at_s"] > first["at_s"]
