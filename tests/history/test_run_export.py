"""An export holds every row of its run, as the record was at one moment, or does not exist."""

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, insert

from oyer.history.files import run_tables
from oyer.history.files.formats import FileFormat
from oyer.history.files.run_export import MANIFEST, export_run
from oyer.models import Base, HumanVerdict
from oyer.models.writes import (
    add_to_totals,
    ensure_run_and_batch,
    finish_batch,
    record_chunk,
    record_rewards,
    record_rubrics,
    record_submissions,
)
from oyer.protocol.errors import InvalidInput, MissingExtra
from tests.support.record_rows import (
    START,
    make_attempt,
    make_batch,
    make_judgement,
    make_reward,
    make_rollout,
    make_submission,
)

FORMATS = list(FileFormat)
SIZE = 5
IMAGE = "data:image/png;base64," + "QUJD" * 100
HOSTILE = 'two\nlines, "quotes", \0 and \ud800'
CLEANED = 'two\nlines, "quotes", \ufffd and \ufffd'


def record(engine: Engine, batch_id: str, run: str, *, seconds: int = 0) -> None:
    """Record an ended batch with rows in every table."""
    seen: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": IMAGE}}]}
    ]
    criterion: Any = {
        "position": 0, "name": "units", "weight": 1.0, "required": False, "verdict": "true",
        "value": 1.0,
    }  # fmt: skip
    turn = {"role": "user", "content": f"again {batch_id}"}
    with engine.begin() as conn:
        batch = make_batch(
            id=batch_id, run=run, size=SIZE, submitted_at=START + timedelta(seconds=seconds)
        )
        key = ensure_run_and_batch(conn, batch)
        record_rubrics(conn, [{"hash": "ab" * 32, "name": "quality", "text": "{response}"}])
        record_submissions(conn, batch_id, [make_submission(batch_id)])
        rollouts = [make_rollout(i, response=f"{batch_id} {i} {HOSTILE}") for i in range(SIZE)]
        record_chunk(
            conn,
            key,
            rollouts=[make_rollout(0, prompt=seen, base_score=float("nan")), *rollouts[1:]],
            judgements=[
                make_judgement(i, criteria=[criterion], parameters='{"scale": [0, 10]}')
                for i in range(SIZE)
            ],
            attempts=[
                make_attempt(i, reply="first reply", turns={"kept": 1, "added": [turn]})
                for i in range(SIZE)
            ],
        )
        record_rewards(conn, key, [make_reward(i) for i in range(SIZE)])
        verdict = {
            "id": batch_id, "batch_id": batch_id, "rollout_index": 0, "judge": "quality",
            "verdict": "agree", "author": "me", "blind": False, "created_at": START,
        }  # fmt: skip
        conn.execute(insert(HumanVerdict).values(verdict))
        add_to_totals(conn, batch_id, {"reward": (SIZE, 6.0, 9.0)})
        finish_batch(conn, batch_id, status="finished", finished_at=START, counts={}, usage={})


def read(folder: Path, kind: FileFormat, table: str) -> list[dict[str, Any]]:
    """Read a table of an export with the format's own library; times and JSON as text."""
    if kind is FileFormat.JSONL:
        lines = (folder / f"{table}.jsonl").read_text("utf-8").split("\n")
        return [json.loads(line, parse_constant=pytest.fail) for line in lines if line]
    if kind is FileFormat.PARQUET:
        rows: list[dict[str, Any]] = pq.read_table(folder / f"{table}.parquet").to_pylist()
        return rows
    with duckdb.connect(str(folder / "record.duckdb"), read_only=True) as database:
        found: list[dict[str, Any]] = database.table(table).to_arrow_table().to_pylist()
        return found


def value_of(kind: FileFormat, value: Any) -> Any:
    """Return a JSON value of an export as an object."""
    return value if kind is FileFormat.JSONL else json.loads(value)


@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_holds_each_row_of_its_run_once(
    engine: Engine, kind: FileFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_tables, "PAGE_ROLLOUTS", 2)
    monkeypatch.setattr(run_tables, "PAGE_ROWS", 2)
    for number in range(3):
        record(engine, f"mine-{number}", "mine", seconds=number)
    record(engine, "other", "other")
    folder = tmp_path / "out"
    pages: list[int] = []
    manifest = export_run(engine, "mine", kind, folder, lambda _, count: pages.append(count))
    assert max(pages) == 2
    assert json.loads((folder / MANIFEST).read_text()) == manifest
    expected = dict.fromkeys(
        ("rollouts", "judgements", "criteria", "attempts", "rewards"), 3 * SIZE
    ) | {
        "batches": 3, "submissions": 3, "human_verdicts": 3, "rollout_images": 3, "rubrics": 1,
        "step_totals": 1, "images": 1,
    }  # fmt: skip
    tables = (Base.metadata.tables.keys() - {"runs", "texts"}) | {"images"}
    assert manifest["rows"] == dict.fromkeys(tables, 0) | expected
    for table, count in expected.items():
        assert len(read(folder, kind, table)) == count, table
    keys = [(row["batch_id"], row["rollout_index"]) for row in read(folder, kind, "judgements")]
    assert keys == [(f"mine-{number}", i) for number in range(3) for i in range(SIZE)]
    assert {row["run"] for row in read(folder, kind, "batches")} == {"mine"}


@pytest.mark.parametrize("kind", FORMATS)
def test_texts_stand_in_place_of_their_hashes(
    engine: Engine, kind: FileFormat, tmp_path: Path
) -> None:
    record(engine, "a", "mine")
    folder = tmp_path / "out"
    export_run(engine, "mine", kind, folder)
    first, second = read(folder, kind, "rollouts")[:2]
    (image,) = read(folder, kind, "images")
    assert image["url"] == IMAGE
    assert f"oyer-image:{image['hash']}" in first["prompt"]
    assert second["prompt"] == make_rollout(1)["prompt"]
    assert second["response"] == f"a 1 {CLEANED}"
    assert (first["base_score"], second["base_score"]) == (None, 1.0)
    assert value_of(kind, second["metadata"]) == {"source": "gsm8k"}
    judgement, attempt = (read(folder, kind, name)[0] for name in ("judgements", "attempts"))
    assert judgement["parameters"] == '{"scale": [0, 10]}'
    assert (judgement["score"], judgement["messages"]) == (7.0, None)
    assert attempt["reply"] == "first reply"
    assert value_of(kind, attempt["turns"])["added"] == [{"role": "user", "content": "again a"}]
    reward = read(folder, kind, "rewards")[0]
    assert value_of(kind, reward["terms"]) == make_reward()["terms"]
    submitted = reward["submitted_at"]
    text = submitted if isinstance(submitted, str) else f"{submitted:%Y-%m-%dT%H:%M:%S.%fZ}"
    assert text == "2026-03-31T23:59:58.123456Z"


def test_an_export_shows_the_record_at_one_moment(engine: Engine, tmp_path: Path) -> None:
    """A batch that ends while the export runs is in none of its tables."""
    record(engine, "a", "mine")
    added: list[str] = []

    def on_page(table: str, rows: int) -> None:
        if not added:
            added.append(table)
            record(engine, "b", "mine", seconds=9)

    manifest = export_run(engine, "mine", FileFormat.JSONL, tmp_path / "out", on_page)
    assert added
    assert (manifest["rows"]["batches"], manifest["rows"]["rewards"]) == (1, SIZE)


@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_that_fails_leaves_nothing(
    engine: Engine, kind: FileFormat, tmp_path: Path
) -> None:
    record(engine, "a", "mine")

    def fail(table: str, rows: int) -> None:
        if table == "rewards":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_run(engine, "mine", kind, tmp_path / "out", fail)
    (partial,) = [[path for path in tmp_path.iterdir() if "out" in path.name]]
    assert partial == []


def test_a_folder_that_appears_meanwhile_is_not_overwritten(engine: Engine, tmp_path: Path) -> None:
    record(engine, "a", "mine")
    mine = tmp_path / "out" / "mine.txt"

    def appear(table: str, rows: int) -> None:
        mine.parent.mkdir(exist_ok=True)
        mine.write_text("mine")

    with pytest.raises(OSError, match="not empty"):
        export_run(engine, "mine", FileFormat.JSONL, mine.parent, appear)
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out"]
    assert [path.name for path in mine.parent.iterdir()] == ["mine.txt"]


def test_while_it_runs_an_export_has_another_name(engine: Engine, tmp_path: Path) -> None:
    record(engine, "a", "mine")
    names: set[str] = set()

    def look(table: str, rows: int) -> None:
        names.update(path.name for path in tmp_path.iterdir() if "out" in path.name)

    export_run(engine, "mine", FileFormat.PARQUET, tmp_path / "out", look)
    assert names
    assert all(name.endswith(".partial") for name in names)


def test_an_invalid_export_is_refused(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInput, match=r"run 'mine': is not on record; `oyer batches list`"):
        export_run(engine, "mine", FileFormat.JSONL, tmp_path / "out")
    record(engine, "a", "mine")
    with pytest.raises(InvalidInput, match=r"--out .*: exists; name a folder that does not"):
        export_run(engine, "mine", FileFormat.JSONL, tmp_path)
    for library, kind in (("duckdb", FileFormat.DUCKDB), ("pyarrow.parquet", FileFormat.PARQUET)):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, library, None)
            with pytest.raises(MissingExtra, match=r"pip install 'oyer\[export\]'"):
                export_run(engine, "mine", kind, tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]
