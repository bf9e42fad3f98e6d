"""Runs `oyer batches` on a backend and reads the record that it changes."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from oyer.config.loading import load_config
from oyer.manager import RewardFuture, RewardManager, Rollout
from oyer.models import queries
from oyer.models.engine import open_engine, reading
from oyer.models.rows import StoredBatch
from tests.cli.conftest import Backend, rollout_rows
from tests.support.cli_process import oyer

CONFIG = ("--config", "oyer.yaml")
HERE = f"{socket.gethostname()}:{os.getpid()}"


def score(backend: Backend, run: str) -> str:
    """Score a file and return its batch's id."""
    backend.write_rollouts(f"{run}.jsonl", rollout_rows(run, 4))
    done = oyer("score", f"{run}.jsonl", "--run", run, *CONFIG, cwd=backend.folder)
    assert done.returncode == 0, done.stderr
    (state,) = listed(backend.folder, "--run", run)
    return str(state["id"])


def listed(folder: Path, *options: str) -> list[dict[str, Any]]:
    """Return the batches that `oyer batches list` prints."""
    done = oyer("batches", "list", "--json", *options, *CONFIG, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def shown_json(folder: Path, batch_id: str) -> dict[str, Any]:
    """Return what `oyer batches show` prints of a batch."""
    done = oyer("batches", "show", batch_id, "--json", *CONFIG, cwd=folder)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def recorded(backend: Backend, batch_id: str) -> StoredBatch:
    """Read a batch from the record."""
    engine = open_engine(f"sqlite:///{backend.folder / 'oyer.db'}")
    with reading(engine) as conn:
        state = queries.batch(conn, batch_id)
    engine.dispose()
    assert state is not None
    return state


def error_of(folder: Path, command: str, batch_id: str, *options: str) -> str:
    """Run a command that fails, and return its one line of error."""
    done = oyer("batches", command, batch_id, *options, *CONFIG, cwd=folder)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    return done.stderr


def manager_on(backend: Backend, **changes: Any) -> RewardManager:
    """A trainer's manager on the session's backend."""
    config = load_config(backend.folder / "oyer.yaml", {}).model_dump(mode="json")
    state_file = backend.folder / ".oyer" / "backend.json"
    config["broker"]["url"] = json.loads(state_file.read_text())["broker_url"]
    return RewardManager({**config, **changes})


@contextmanager
def half_judged(backend: Backend, run: str, **changes: Any) -> Iterator[RewardFuture]:
    """Submit a batch of eight; the judge holds the second half."""
    rule = {"when": {"matches": f"{run} answer [4-7]"}, "then": {"hold": True}}
    backend.judge.set_plan({"rules": [rule]})
    rollouts = [Rollout(**row) for row in rollout_rows(run, 8)]
    future = manager_on(backend, **changes).submit(rollouts, run=run)
    backend.judge.wait_until(lambda log: len(log) == 8)
    try:
        yield future
    finally:
        backend.judge.release()
