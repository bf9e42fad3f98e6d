"""`oyer batches` lists and shows batches, by the beginning of their id too."""

import json
import socket
from pathlib import Path

import pytest

from oyer import migrations
from oyer.manager import RewardManager
from oyer.models.engine import open_engine
from oyer.models.writes import ensure_run_and_batch
from tests.cli.conftest import Backend, rollout_rows
from tests.support.batch_commands import (
    CONFIG,
    error_of,
    listed,
    score,
    shown_json,
)
from tests.support.cli_process import oyer
from tests.support.record_rows import make_batch


def test_a_batch_is_listed_and_shown_with_its_result(backend: Backend) -> None:
    batch_id = score(backend, "listed")
    (state,) = listed(backend.folder, "--run", "listed")
    assert (state["status"], state["size"], state["counts"]) == ("finished", 4, {"scored": 4})
    shown = shown_json(backend.folder, batch_id)
    assert shown["usage"]["calls"] == 4
    assert shown["first_errors"] == {}
    (sent,) = shown["sent"]
    (work,) = shown["work"]
    host, _, process = sent["host"].partition(":")
    assert (host, process.isdecimal(), sent["why"]) == (socket.gethostname(), True, "submit")
    assert sent["worker"] == work["worker"]
    assert work["worker"].startswith(f"{socket.gethostname()}:")
    assert work["judgements"] == 4
    times = [sent["sent_at"], sent["seen_at"], work["first_at"], work["last_at"]]
    assert sorted([*times, shown["finished_at"]]) == [*times, shown["finished_at"]]
    for text in ("4 scored", batch_id, "finished"):
        assert text in oyer("batches", "list", *CONFIG, cwd=backend.folder).stdout
        assert text in oyer("batches", "show", batch_id, *CONFIG, cwd=backend.folder).stdout


@pytest.mark.parametrize("columns", ["", "160", "80"])
def test_a_list_prints_whole_ids_on_a_narrow_terminal(backend: Backend, columns: str) -> None:
    batch_id = score(backend, f"narrow {columns}")
    arguments = ("--run", f"narrow {columns}", *CONFIG)
    done = oyer("batches", "list", *arguments, cwd=backend.folder, COLUMNS=columns)
    assert batch_id in done.stdout
    assert "4 scored" in done.stdout


def test_failures_are_shown_with_their_errors(backend: Backend) -> None:
    backend.judge.set_plan({"default": {"status": 400, "body": "no such model"}})
    backend.write_rollouts("failing.jsonl", rollout_rows("failing", 4))
    oyer("score", "failing.jsonl", "--run", "failing", *CONFIG, cwd=backend.folder)
    (state,) = listed(backend.folder, "--run", "failing")
    shown = shown_json(backend.folder, state["id"])
    assert shown["counts"] == {"rejected": 4}
    assert "no such model" in shown["first_errors"]["rejected"]
    text = oyer("batches", "show", state["id"], *CONFIG, cwd=backend.folder).stdout
    assert "no such model" in text


def test_the_beginning_of_an_id_is_enough(backend: Backend) -> None:
    batch_id = score(backend, "short id")
    assert shown_json(backend.folder, batch_id[:13])["id"] == batch_id
    resumed = oyer("batches", "resume", batch_id[:13], "--json", *CONFIG, cwd=backend.folder)
    assert json.loads(resumed.stdout)["id"] == batch_id
    assert "is not on record" in error_of(backend.folder, "show", "%")
    shown = oyer("batches", "show", batch_id[:13], *CONFIG, cwd=backend.folder).stdout
    assert "4 calls, " in shown
    assert " completion tokens, $" in shown
    assert " UTC\n" in shown


def test_an_ambiguous_beginning_names_some_ids(tmp_path: Path, sqlite_url: str) -> None:
    migrations.upgrade(sqlite_url)
    engine = open_engine(sqlite_url)
    ids = ["aaaa0000-0000-4000-8000-000000000001", "aaaa0000-0000-4000-8000-000000000002"]
    with engine.begin() as conn:
        for batch_id in ids:
            ensure_run_and_batch(conn, make_batch(id=batch_id))
    engine.dispose()
    done = oyer("batches", "show", "aaaa", cwd=tmp_path, OYER_STORE__URL=sqlite_url)
    assert done.returncode == 1
    assert "several ids begin so" in done.stderr
    assert all(batch_id in done.stderr for batch_id in ids)


@pytest.mark.parametrize("command", ["show", "resume", "cancel"])
def test_an_unknown_batch_is_an_error_of_one_line(backend: Backend, command: str) -> None:
    error = error_of(backend.folder, command, "no-such-batch")
    assert "batch no-such-batch: is not on record in store.url, nor queued on the broker" in error


def test_without_its_broker_the_record_is_still_listed(
    tmp_path: Path, idle: RewardManager, sqlite_url: str
) -> None:
    engine = open_engine(sqlite_url)
    with engine.begin() as conn:
        ensure_run_and_batch(conn, make_batch())
    engine.dispose()
    away = {"OYER_BROKER__URL": "redis://:hunter2@127.0.0.1:9/0"}
    done = oyer("batches", "list", *CONFIG, cwd=tmp_path, **away)
    assert done.returncode == 0
    assert "tool-n1" in done.stdout
    assert "queued batches are not listed: broker 127.0.0.1:9/0 cannot be reached" in done.stderr
    done = oyer("batches", "cancel", "unknown", *CONFIG, cwd=tmp_path, **away)
    assert done.returncode == 1
    assert "the broker cannot be asked" in done.stderr
    assert "hunter2" not in done.stderr
