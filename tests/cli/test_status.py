"""`oyer status` reports the state of a real backend."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action
from oyer.manager import RewardFuture, RewardManager
from oyer.tasks.monitoring.status_reader import read_status
from tests.support.cli_process import oyer, running
from tests.support.scripted_backend import rollout, scripted_backend, sibling

IN_FLIGHT = 3
HELD = Action(text="Final score: 5", hold=True)
PRICES = {"m": {"prompt_usd": 1000.0, "completion_usd": 1000.0}}


class Whole(NamedTuple):
    """A backend, and the judges behind its endpoints `fake` and `second`."""

    manager: RewardManager
    judge: JudgeServer
    second: JudgeServer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """Run a backend whose endpoint has every limit, and whose judge holds its replies."""
    changes: dict[str, Any] = {"budget": {"usd": 5.0}, "length": []}
    with JudgeServer(HELD) as judge, JudgeServer() as second:
        endpoint = {
            "base_url": judge.base_url,
            "max_in_flight": IN_FLIGHT,
            "requests_per_minute": 600,
            "tokens_per_minute": 1_000_000,
            "timeout_s": 300,
            "prices": PRICES,
        }
        folder = tmp_path_factory.mktemp("status")
        other = {"base_url": second.base_url, "prices": PRICES, "timeout_s": 300}
        changes["endpoints"] = {"fake": endpoint, "second": other}
        with scripted_backend(folder, **changes) as (manager, _):
            yield Whole(manager, judge, second)
            for server in (judge, second):
                server.set_plan(Action(text="Final score: 5"))
                server.release()


@pytest.fixture(scope="module")
def held(whole: Whole) -> RewardFuture:
    """Submit a batch whose first calls stay in flight."""
    manager, judge, _ = whole
    future = manager.submit([rollout("status", i) for i in range(8)], run="held", step=4)
    judge.wait_until(lambda log: len(log) == IN_FLIGHT)
    # The worker says what it has under way and what waits with its next exchange.
    wait_seen(manager, "fake", IN_FLIGHT, 8 - IN_FLIGHT)
    return future


def wait_seen(manager: RewardManager, name: str, in_flight: int, waiting: int = 0) -> None:
    """Wait until these numbers of calls to an endpoint are reported."""
    end_s = time.monotonic() + 60
    with redis.Redis.from_url(broker(manager)["OYER_BROKER__URL"]) as client:
        while True:
            found = {endpoint.name: endpoint for endpoint in read_status(client).endpoints}
            if (found[name].in_flight, found[name].waiting) == (in_flight, waiting):
                return
            assert time.monotonic() < end_s, found
            time.sleep(0.05)


def seen(manager: RewardManager, cwd: Path, *arguments: str, **changes: str) -> dict[str, Any]:
    """Read the status with the broker's URL only."""
    done = oyer("status", "--json", *arguments, cwd=cwd, **broker(manager), **changes)
    assert done.returncode == 0, done.stderr
    status: dict[str, Any] = json.loads(done.stdout)
    return status


def broker(manager: RewardManager) -> dict[str, str]:
    """Return the environment variable with a manager's broker URL."""
    assert manager.config.broker.url is not None
    return {"OYER_BROKER__URL": manager.config.broker.url}


def test_a_batch_is_reported_with_its_calls_spend_and_waiting_requests(
    whole: Whole, held: RewardFuture, tmp_path: Path
) -> None:
    status = seen(whole[0], tmp_path)
    [batch] = status["batches"]
    assert (batch["id"], batch["run"], batch["step"]) == (held.batch_id, "held", 4)
    assert (batch["state"], batch["rollouts"]) == ("no verdict yet", 8)
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
    assert (status["open_groups"], status["batches_under_way"]) == (0, 1)


def test_a_terminal_gets_the_same_in_tables(
    whole: Whole, held: RewardFuture, tmp_path: Path
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


def test_watch_refreshes_until_it_is_stopped(
    whole: Whole, held: RewardFuture, tmp_path: Path
) -> None:
    changes = broker(whole[0])
    with running("status", "--watch", "--json", cwd=tmp_path, changes=changes) as command:
        for _ in range(2):
            command.read_until(held.batch_id)
        command.process.terminate()
        assert command.wait() == 0
    first, second = (json.loads(line) for line in command.lines[:2])
    assert second["at_s"] > first["at_s"]


def test_the_spend_of_a_run_without_a_budget_is_read_from_the_record(
    whole: Whole, tmp_path: Path
) -> None:
    judges = [{"name": "q", "endpoint": "second", "model": "m"}]
    manager = sibling(whole.manager, budget=None, judges=judges)
    paid = manager.submit([rollout("paid")], run="free").result(120)
    whole.second.set_plan(HELD)
    whole.second.reset()
    manager.submit([rollout("open")], run="free")
    whole.second.wait_until(lambda log: len(log) == 1)
    wait_seen(manager, "second", 1)

    there = seen(manager, tmp_path, OYER_STORE__URL=str(manager.config.store.url))
    spent = {run["run"]: run["spent_usd"] for run in there["runs"]}
    assert paid.usage["cost_usd"] > 0
    assert spent["free"] == pytest.approx(paid.usage["cost_usd"])

    away = oyer("status", cwd=tmp_path, **broker(manager))
    assert away.returncode == 0
    [line] = [line for line in away.stdout.splitlines() if "no budget" in line]
    assert "?" in line
    assert "what Redis does not count is on record only" in away.stderr
    assert "store.url is not set here" in away.stderr


def test_an_idle_endpoint_is_listed(redis_url: str, tmp_path: Path) -> None:
    judges = [{"name": "q", "endpoint": "theirs", "model": "m"}]
    (tmp_path / "oyer.yaml").write_text(json.dumps({"judges": judges, "length": []}))
    done = oyer("status", cwd=tmp_path, OYER_BROKER__URL=redis_url)
    assert done.returncode == 0
    [line] = [line for line in done.stdout.splitlines() if "theirs" in line]
    assert "no calls lately" in line
    assert all("none" in line for line in done.stdout.splitlines() if "judge " in line)


def test_an_unreachable_broker_is_an_error_of_one_line(tmp_path: Path) -> None:
    done = oyer("status", cwd=tmp_path, OYER_BROKER__URL="redis://127.0.0.1:9/0")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Redis does not answer" in done.stderr
    assert "set broker.url to the workers' one" in done.stderr
