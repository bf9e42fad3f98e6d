"""`oyer history request` prints recorded requests as they were sent."""

import json
import subprocess
from typing import Any

from sqlalchemy import text

from oyer.demo.responses import Action
from oyer.models.engine import open_engine
from tests.cli.conftest import Backend, rollout_rows
from tests.support.cli_process import oyer

_CONFIG = ("--config", "oyer.yaml")


def _scored(backend: Backend, run: str) -> str:
    """Score a file of four rollouts; returns the batch's id."""
    backend.write_rollouts(f"{run}.jsonl", rollout_rows(run, 4))
    done = oyer("score", f"{run}.jsonl", "--run", run, *_CONFIG, cwd=backend.folder)
    assert done.returncode == 0, done.stderr
    listed = oyer("batches", "list", "--run", run, "--json", *_CONFIG, cwd=backend.folder)
    return str(json.loads(listed.stdout)["id"])


def _request(backend: Backend, *arguments: str) -> subprocess.CompletedProcess[str]:
    return oyer("history", "request", *arguments, *_CONFIG, cwd=backend.folder)


def _sent(backend: Backend, words: str) -> dict[str, Any]:
    """Return the request about a response that the judge received."""
    bodies = [json.loads(arrival.body or b"") for arrival in backend.judge.requests]
    (found,) = [body for body in bodies if words in body["messages"][-1]["content"]]
    return dict(found)


def test_a_request_is_found_by_its_rollout_and_by_its_hash(backend: Backend) -> None:
    batch_id = _scored(backend, "asked")
    for place in (f"{batch_id}/3", f"{batch_id[:8]}/3"):
        done = _request(backend, place, "--judge", "quality", "--sample", "0", "--json")
        assert (done.returncode, done.stderr) == (0, "")
        shown = json.loads(done.stdout)
        (attempt,) = shown["attempts"]
        assert attempt["request"] == _sent(backend, "asked answer 3")
        assert (attempt["reply"], attempt["http_status"]) == ("Final score: 8", 200)
    by_hash = _request(backend, shown["request_hash"][:16], "--json")
    assert json.loads(by_hash.stdout) == shown


def test_a_request_is_printed_with_its_messages_and_reply(backend: Backend) -> None:
    batch_id = _scored(backend, "printed")
    done = _request(backend, f"{batch_id}/3")
    assert (done.returncode, done.stderr) == (0, "")
    for message in _sent(backend, "printed answer 3")["messages"]:
        assert message["content"] in done.stdout
    assert "its hash is the same" in done.stdout
    assert done.stdout.endswith("--- reply\nFinal score: 8\n")


def test_a_judgement_of_an_earlier_release_is_shown_without_its_request(
    backend: Backend,
) -> None:
    batch_id = _scored(backend, "earlier")
    engine = open_engine(f"sqlite:///{backend.folder / 'oyer.db'}")
    with engine.begin() as conn:
        for table in ("judgements", "attempts"):
            conn.execute(
                text(f"UPDATE {table} SET parameters_hash = NULL WHERE batch_id = :id"),
                {"id": batch_id},
            )
    engine.dispose()
    done = _request(backend, f"{batch_id}/0", "--json")
    assert done.returncode == 1
    shown = json.loads(done.stdout)
    assert "did not keep its request" in shown["problem"]
    (attempt,) = shown["attempts"]
    assert (attempt["request"], attempt["reply"]) == (None, "Final score: 8")


def test_a_changed_record_is_detected_by_the_hash(backend: Backend) -> None:
    batch_id = _scored(backend, "changed")
    engine = open_engine(f"sqlite:///{backend.folder / 'oyer.db'}")
    with engine.begin() as conn:
        conn.execute(text("UPDATE texts SET body = 'another' WHERE body = 'changed answer 3'"))
    engine.dispose()
    done = _request(backend, f"{batch_id}/3", "--json")
    assert done.returncode == 1
    assert "differs from the one that Oyer" in json.loads(done.stdout)["problem"]


def test_an_id_without_a_judgement_is_refused_with_an_example(backend: Backend) -> None:
    batch_id = _scored(backend, "refused")
    for wrong, fix in (
        ("nowhere", "is no BATCH/ROLLOUT"),
        (f"{batch_id}/x", "a rollout's index"),
        (f"{batch_id}/99", "is not judged on record"),
        ("0" * 64, "is not judged on record"),
        ("%/0", "is not judged on record"),
    ):
        done = _request(backend, wrong)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert fix in done.stderr
    done = _request(backend, f"{batch_id}/0", "--judge", "nobody")
    assert "by judge 'nobody'" in done.stderr


def test_control_characters_of_a_rollout_are_printed_as_escapes(backend: Backend) -> None:
    hostile = "\x1b]52;c;cm0=\x1b[2J \x9b31m \u202e hostile é"
    escaped = r"\x1b]52;c;cm0=\x1b[2J \x9b31m \u202e hostile é"
    rows = [{**row, "response": hostile} for row in rollout_rows("hostile", 2)]
    backend.write_rollouts("hostile.jsonl", rows)
    backend.judge.set_plan(Action(text=f"{hostile}\nFinal score: 8"))
    done = oyer("score", "hostile.jsonl", "--run", "hostile", *_CONFIG, cwd=backend.folder)
    batch_id = json.loads(done.stdout.splitlines()[0])["batch_id"]
    shown = _request(backend, f"{batch_id}/0").stdout
    query = "SELECT response, reply FROM judge_history WHERE run = 'hostile'"
    table = oyer("db", "sql", query, *_CONFIG, cwd=backend.folder).stdout
    as_json = _request(backend, f"{batch_id}/0", "--json").stdout
    for printed in (shown, table, as_json):
        assert not set(printed) & set("\x1b\x9b\u202e")
    for printed in (shown, table):
        assert escaped in printed
    assert json.loads(as_json)["reply"].startswith(hostile)
