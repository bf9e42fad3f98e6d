"""`oyer batches`: the ledger of what was submitted, and acting on it."""

import json

from oyer.manager import RewardManager, Rollout
from oyer.tasks.settings import load_config
from tests.cli.conftest import Backend, rollout_rows
from tests.cli.running import oyer
from tests.faults.backend import wait_until


def _score(backend: Backend, run: str) -> str:
    """Score a file and return its batch's id."""
    backend.write_rollouts(f"{run}.jsonl", rollout_rows(run, 4))
    done = oyer("score", f"{run}.jsonl", "--config", "oyer.yaml", "--run", run, cwd=backend.folder)
    assert done.returncode == 0, done.stderr
    (state,) = _listed(backend, run)
    return str(state["id"])


def _listed(backend: Backend, run: str) -> list[dict[str, object]]:
    done = oyer("batches", "list", "--run", run, "--json", *_CONFIG, cwd=backend.folder)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


_CONFIG = ("--config", "oyer.yaml")


def test_a_batch_is_listed_and_shown_with_what_became_of_it(backend: Backend) -> None:
    batch_id = _score(backend, "listed")
    (state,) = _listed(backend, "listed")
    assert (state["status"], state["size"], state["counts"]) == ("finished", 4, {"scored": 4})
    done = oyer("batches", "show", batch_id, "--json", *_CONFIG, cwd=backend.folder)
    shown = json.loads(done.stdout)
    assert shown["usage"]["calls"] == 4
    assert shown["first_errors"] == {}
    assert len(shown["workers"]) == 1
    table = oyer("batches", "list", "--run", "listed", *_CONFIG, cwd=backend.folder).stdout
    assert "4 scored" in table


def test_a_resumed_batch_reads_what_is_on_record(backend: Backend) -> None:
    batch_id = _score(backend, "resumed")
    backend.judge.reset()
    done = oyer("batches", "resume", batch_id, "--timeout-s", "60", *_CONFIG, cwd=backend.folder)
    assert done.returncode == 0, done.stderr
    assert f"batch {batch_id}: 4 of 4 rollouts have a reward" in done.stdout
    assert backend.judge.requests == []


def test_a_cancelled_batch_is_on_record_as_such(backend: Backend) -> None:
    rule = {"when": {"matches": "cancelled answer [4-7]"}, "then": {"hold": True}}
    backend.judge.set_plan({"rules": [rule]})
    config = load_config(backend.folder / "oyer.yaml", {}).model_dump(mode="json")
    state_file = backend.folder / ".oyer" / "backend.json"
    config["broker"]["url"] = json.loads(state_file.read_text())["broker_url"]
    rollouts = [Rollout(**row) for row in rollout_rows("cancelled", 8)]
    future = RewardManager(config).submit(rollouts, run="cancelled")
    backend.judge.wait_until(lambda log: len(log) == 8)
    wait_until(lambda: bool(_listed(backend, "cancelled")), "its first chunk is on record")
    (state,) = _listed(backend, "cancelled")
    assert (state["id"], state["status"]) == (future.batch_id, "submitted")
    done = oyer("batches", "cancel", future.batch_id, *_CONFIG, cwd=backend.folder)
    assert done.returncode == 0, done.stderr
    assert _listed(backend, "cancelled")[0]["status"] == "cancelled"
    again = oyer("batches", "cancel", future.batch_id, *_CONFIG, cwd=backend.folder)
    assert again.returncode == 1
    assert "has ended already: cancelled" in again.stderr
    backend.judge.release()
    assert len(future.result(timeout_s=60)) == 8


def test_a_batch_that_is_not_on_record_is_one_line(backend: Backend) -> None:
    done = oyer("batches", "show", "no-such-batch", *_CONFIG, cwd=backend.folder)
    assert done.returncode == 1
    assert "batch no-such-batch: is not on record" in done.stderr
    assert done.stderr.count("\n") == 1
