"""`oyer check`: a line for each thing that a batch needs, with the fix where it is missing."""

import json
from pathlib import Path

import pytest

from oyer import migrations
from oyer.demo.actions import Action, named
from oyer.demo.arrivals import Arrival
from tests.cli.conftest import Backend, write_config
from tests.cli.running import oyer

ALL = ["store", "broker", "workers on judge", "workers on length", "workers on combine"]


def test_everything_is_there_with_a_backend_up(backend: Backend) -> None:
    done = oyer("check", "--config", "oyer.yaml", cwd=backend.folder)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"ok   {what}" for what in [*ALL, "judge quality"]
    ]
    assert "m at fake gives 8 in" in lines[-1]
    assert len(backend.judge.requests) == 1


def test_a_program_reads_the_same_as_json(backend: Backend) -> None:
    done = oyer("check", "--config", "oyer.yaml", "--json", cwd=backend.folder)
    report = json.loads(done.stdout)
    assert report["ok"]
    assert [check["what"] for check in report["checks"]] == [*ALL, "judge quality"]


@pytest.mark.parametrize(
    ("plan", "seen"),
    [
        (named("unauthorized"), "rejected"),
        (named("close"), "unavailable"),
        (Action(text="I would rather not say."), "unparseable"),
    ],
    ids=["rejected", "unavailable", "unparseable"],
)
def test_a_judge_that_gives_no_score_fails_with_the_reason(
    plan: Action, seen: str, backend: Backend
) -> None:
    backend.judge.set_plan(plan)
    done = oyer("check", "--config", "oyer.yaml", cwd=backend.folder)
    assert done.returncode == 1
    failed = [line for line in done.stdout.splitlines() if not line.startswith("ok ")]
    assert len(failed) == 1
    assert failed[0].startswith("FAIL judge quality: ")
    assert seen in failed[0]


def test_without_a_backend_each_line_says_what_to_do(tmp_path: Path) -> None:
    write_config(tmp_path, "http://127.0.0.1:9/v1")
    done = oyer("check", "--config", "oyer.yaml", cwd=tmp_path)
    assert done.returncode == 1
    store, broker, judge = done.stdout.splitlines()
    assert store.startswith("FAIL store: ")
    assert "oyer db upgrade" in store
    assert broker.startswith("FAIL broker: ")
    assert "oyer up" in broker
    assert judge.startswith("FAIL judge quality: unavailable")


def test_queues_without_workers_are_named(redis_url: str, sqlite_url: str, tmp_path: Path) -> None:
    migrations.upgrade(sqlite_url)
    environ = {"OYER_BROKER__URL": redis_url, "OYER_STORE__URL": sqlite_url}
    done = oyer("check", "--json", cwd=tmp_path, **environ)
    assert done.returncode == 1
    checks = {check["what"]: check for check in json.loads(done.stdout)["checks"]}
    assert [what for what, check in checks.items() if check["ok"]] == ["store", "broker"]
    for queue in ("judge", "length", "combine"):
        assert f"oyer worker {queue}" in checks[f"workers on {queue}"]["detail"]


def test_a_broker_that_does_not_answer_is_said_once(tmp_path: Path) -> None:
    done = oyer("check", "--json", cwd=tmp_path, OYER_BROKER__URL="redis://127.0.0.1:9/0")
    checks = json.loads(done.stdout)["checks"]
    assert [check["what"] for check in checks] == ["store", "broker"]
    assert "Redis does not answer" in checks[1]["detail"]


def test_what_a_judge_refuses_is_left_out_shown_and_known_to_the_workers(backend: Backend) -> None:
    def plan(arrival: Arrival) -> Action:
        if "temperature" not in arrival.json():
            return Action(text="Final score: 7")
        message = "Unsupported value: 'temperature' does not support 0 with this model."
        return Action(status=400, body=json.dumps({"error": {"message": message}}))

    backend.judge.set_plan(plan)
    (backend.folder / "refusing").mkdir()
    path = write_config(
        backend.folder / "refusing",
        backend.judge.base_url,
        judges=[{"name": "quality", "endpoint": "fake", "model": "o-check", "samples": 2}],
    )
    for calls in (2, 3):
        done = oyer("check", "--config", str(path), cwd=backend.folder)
        assert "o-check at fake gives 7 in" in done.stdout
        assert "requests are sent without temperature" in done.stdout
        assert len(backend.judge.requests) == calls
    assert "seed" in backend.judge.requests[-1].json()
