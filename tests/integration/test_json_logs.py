"""Workers log JSON on request, with batch, run and judge where they are known."""

import json
from pathlib import Path
from typing import Any

import pytest

from oyer.demo.responses import Action
from tests.support.rollouts import rollout
from tests.support.scripted_backend import scripted_backend

REFUSAL = {
    "error": {
        "message": "Unsupported value: 'temperature' does not support 0 with this model. Only the"
        " default (1) value is supported.",
        "type": "invalid_request_error",
        "param": "temperature",
        "code": "unsupported_value",
    }
}


def lines(folder: Path, logger: str) -> list[dict[str, Any]]:
    """Return the lines that the workers' logs hold of a logger."""
    text = "".join(path.read_text() for path in folder.rglob("*.log"))
    found = [json.loads(line) for line in text.splitlines() if line.startswith('{"time"')]
    return [line for line in found if line["logger"] == logger]


def test_lines_name_their_batch_run_and_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OYER_LOG_FORMAT", "json")
    asked = {"name": "q", "endpoint": "fake", "model": "m", "temperature": 0.0}
    with scripted_backend(tmp_path, judges=[asked]) as (manager, judge):
        judge.set_plan(
            lambda arrival: (
                Action(status=400, body=json.dumps(REFUSAL))
                if "temperature" in arrival.json()
                else Action(text="Final score: 5")
            )
        )
        batch = manager.submit([rollout("a")], run="logged").result(60)
        (told,) = lines(tmp_path, "oyer.tasks.coordination.lessons")
        (ended,) = lines(tmp_path, "oyer.tasks.combine")
    assert (told["batch_id"], told["run"], told["judge"]) == (batch.id, "logged", "q")
    assert (ended["batch_id"], ended["run"], ended["level"]) == (batch.id, "logged", "INFO")
    assert {"time", "logger", "message", "pid"} <= ended.keys()
