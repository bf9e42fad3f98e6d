"""`oyer check` prints one line per check, with the fix for each failure."""

import json
from pathlib import Path
from typing import Any

import pytest
import redis

from oyer import migrations
from oyer.cli.support.probing import OTHER_RESPONSE, PROBE
from oyer.demo.request_log import RequestEntry
from oyer.demo.responses import Action, named
from tests.cli.conftest import Backend, broker_of, write_config
from tests.support.cli_process import oyer

ALL = [
    "store",
    "broker",
    "broker memory",
    "workers on judge",
    "workers on length",
    "workers on combine",
]


def test_every_check_passes_with_a_running_backend(backend: Backend) -> None:
    done = oyer("check", "--config", "oyer.yaml", cwd=backend.folder)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"ok   {what}" for what in [*ALL, "judge quality"]
    ]
    assert "m at fake gives 8 through the workers in" in lines[-1]
    assert len(backend.judge.requests) == 1


def test_json_has_the_same_checks(backend: Backend) -> None:
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
    assert [what for what, check in checks.items() if check["ok"]] == [
        "store",
        "broker",
        "broker memory",
        "workers on judge",
        "workers on length",
    ]
    for queue in ("judge", "length"):
        assert checks[f"workers on {queue}"]["skipped"]
    assert "oyer worker combine" in checks["workers on combine"]["detail"]


def test_a_broker_that_does_not_answer_is_reported_once(tmp_path: Path) -> None:
    done = oyer("check", "--json", cwd=tmp_path, OYER_BROKER__URL="redis://127.0.0.1:9/0")
    checks = json.loads(done.stdout)["checks"]
    assert [check["what"] for check in checks] == ["store", "broker"]
    assert "Redis does not answer" in checks[1]["detail"]


def test_fields_that_a_judge_refuses_are_omitted_printed_and_shared_with_the_workers(
    backend: Backend,
) -> None:
    def plan(arrival: RequestEntry) -> Action:
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
        assert "o-check at fake gives 7 through the workers in" in done.stdout
        assert "requests are sent without temperature" in done.stdout
        assert len(backend.judge.requests) == calls


def test_a_judge_that_the_workers_do_not_know_fails(backend: Backend, tmp_path: Path) -> None:
    write_config(tmp_path, backend.judge.base_url)
    path = tmp_path / "oyer.yaml"
    path.write_text(path.read_text().replace("fake", "mine"))
    done = oyer("check", cwd=tmp_path, OYER_BROKER__URL=broker_of(backend))
    assert done.returncode == 1
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL judge")]
    assert len(failed) == 1
    assert "'mine' is not in the configuration of this worker" in failed[0]


def test_checks_pass_on_a_trainers_host_with_the_broker_url_only(
    backend: Backend, tmp_path: Path
) -> None:
    config = {"judges": [{"name": "quality", "endpoint": "fake", "model": "m"}], "length": []}
    (tmp_path / "oyer.yaml").write_text(json.dumps(config))
    done = oyer("check", cwd=tmp_path, OYER_BROKER__URL=broker_of(backend))
    lines = done.stdout.splitlines()
    assert done.returncode == 0, lines
    assert done.stderr == "using ./oyer.yaml\n"
    assert lines[0].startswith("skip store: store.url is not set here")
    assert lines[-1].startswith("ok   judge quality: m at fake gives 8 through the workers")


def test_a_budget_without_a_price_on_the_workers_fails(backend: Backend, tmp_path: Path) -> None:
    judge = {"name": "quality", "endpoint": "fake", "model": "m"}
    config = {"judges": [judge], "length": [], "budget": {"usd": 1}}
    (tmp_path / "oyer.yaml").write_text(json.dumps(config))
    done = oyer("check", cwd=tmp_path, OYER_BROKER__URL=broker_of(backend))
    assert done.returncode == 1
    last = done.stdout.splitlines()[-1]
    assert last.startswith("FAIL judge quality: rejected: endpoint 'fake' has no price for 'm'")
    assert backend.judge.requests == []


def test_without_workers_an_endpoint_unknown_here_is_skipped(
    redis_url: str, tmp_path: Path
) -> None:
    config = {"judges": [{"name": "quality", "endpoint": "fake", "model": "m"}]}
    (tmp_path / "oyer.yaml").write_text(json.dumps(config))
    done = oyer("check", "--json", cwd=tmp_path, OYER_BROKER__URL=redis_url)
    checks = {check["what"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 1
    assert checks["judge quality"]["skipped"]


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru"])
def test_a_redis_that_evicts_fails_with_the_fix(
    policy: str, redis_url: str, tmp_path: Path
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        before = client.config_get("maxmemory-policy")["maxmemory-policy"]
        client.config_set("maxmemory-policy", policy)
        try:
            done = oyer("check", cwd=tmp_path, OYER_BROKER__URL=redis_url)
        finally:
            client.config_set("maxmemory-policy", before)
    [line] = [line for line in done.stdout.splitlines() if "broker memory" in line]
    assert line.startswith(f"FAIL broker memory: maxmemory-policy is {policy}")
    assert "CONFIG SET maxmemory-policy noeviction" in line


def test_a_wrong_password_is_reported_differently_from_an_unreachable_server(
    redis_url: str, tmp_path: Path
) -> None:
    place = redis_url.partition("://")[2]
    with redis.Redis.from_url(redis_url, single_connection_client=True) as client:
        client.config_set("requirepass", "right-pw")
        try:
            done = oyer("check", cwd=tmp_path, OYER_BROKER__URL=f"redis://:wrong-pw@{place}")
            bare = oyer("check", cwd=tmp_path, OYER_BROKER__URL=redis_url)
        finally:
            client.config_set("requirepass", "")
    [line] = [line for line in bare.stdout.splitlines() if "broker" in line]
    assert "Redis asks for a password; write it into broker.url" in line
    [line] = [line for line in done.stdout.splitlines() if "broker" in line]
    assert "does not answer" not in line
    assert "refuses the user or password of broker.url" in line
    assert "wrong-pw" not in done.stdout + done.stderr


CRITERIA = [
    {"name": "correct", "text": "Is it right?", "required": True},
    {"name": "steps", "text": "Are the steps shown?", "choices": ["none", "some", "all"]},
]
KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "criteria": ({"criteria": CRITERIA}, "gives 0.75 (correct: true, steps: some)"),
    "a rollout's criteria": ({"criteria_from": "metadata.a.b"}, "gives 1 (correct: true)"),
    "list": ({"kind": "group"}, "gives 10 to a right and 1 to a wrong response"),
    "pairs": (
        {"kind": "group", "mode": "pairs", "rubric": "pairwise_zh"},
        "gives 1 to a right and -1 to a wrong response",
    ),
}
"""Judges of other kinds, and what a check says of them."""


def by_kind(arrival: RequestEntry) -> Action:
    """Answer in the form that the request asks for."""
    text = "\n".join(content for _, content in arrival.messages())
    right = text.find(PROBE["response"]) < text.find(OTHER_RESPONSE)
    reply: dict[str, Any]
    if '"winner"' in text:
        reply = {"reason": "right", "winner": 1 if right else 2}
    elif '"scores"' in text:
        scores = (10, 1) if right else (1, 10)
        reply = {
            "scores": [
                {"id": i, "explanation": "e", "score": score} for i, score in enumerate(scores, 1)
            ]
        }
    else:
        verdicts = {"correct": True, "steps": "some"}
        reply = {
            "verdicts": [
                {"name": name, "reason": "r", "verdict": verdict}
                for name, verdict in verdicts.items()
                if name in text
            ]
        }
    return Action(text=json.dumps(reply))


@pytest.mark.parametrize(("judge", "says"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("there", [True, False], ids=["through the workers", "from this host"])
def test_criteria_and_group_judges_are_checked_by_what_they_say(
    judge: dict[str, Any], says: str, there: bool, backend: Backend, tmp_path: Path
) -> None:
    backend.judge.set_plan(by_kind)
    judges = [{"name": "other", "endpoint": "fake", "model": "m", **judge}]
    write_config(tmp_path, backend.judge.base_url, judges=judges, length=[])
    environ = {"OYER_BROKER__URL": broker_of(backend)} if there else {}
    done = oyer("check", "--config", "oyer.yaml", cwd=tmp_path, **environ)
    (line,) = [one for one in done.stdout.splitlines() if "judge other" in one]
    assert line.startswith(f"ok   judge other: m at fake {says} ")
    assert ("through the workers" in line) == there


def test_a_reply_of_another_form_names_what_is_wrong(backend: Backend, tmp_path: Path) -> None:
    backend.judge.set_plan(Action(text="It is fine."))
    judges = [
        {"name": "rubric", "endpoint": "fake", "model": "m", "criteria": CRITERIA, "reasks": 0},
        {"name": "ranking", "endpoint": "fake", "model": "m", "kind": "group", "reasks": 0},
    ]
    write_config(tmp_path, backend.judge.base_url, judges=judges, length=[])
    done = oyer("check", "--config", "oyer.yaml", cwd=tmp_path)
    assert done.returncode == 1
    *_, criteria, group = done.stdout.splitlines()
    assert "unparseable (no readable verdict on 'correct', 'steps'" in criteria
    assert "no JSON object with a list \"scores\" as its answer): 'It is fine.'" in group


def test_a_compound_criterion_is_a_note_and_no_failure(backend: Backend) -> None:
    backend.judge.set_plan(by_kind)
    (backend.folder / "compound").mkdir()
    text = "Is it right, and does it show the steps?"
    judge = {"name": "other", "endpoint": "fake", "model": "m"}
    path = write_config(
        backend.folder / "compound",
        backend.judge.base_url,
        judges=[{**judge, "criteria": [{"name": "correct", "text": text}]}],
    )
    done = oyer("check", "--config", str(path), cwd=backend.folder)
    assert done.returncode == 0, done.stdout
    *_, checked, note = done.stdout.splitlines()
    assert checked.startswith("ok   judge other: ")
    assert note.startswith(
        "note judge other: criterion 'correct' asks for several things ('and does')"
    )
