"""`oyer db prune`, `backup`, `export` and `partitions`."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from oyer import migrations
from oyer.models import Batch, Rollout
from oyer.models.engine import open_engine, reading
from oyer.models.partitions.create import create_partitions
from oyer.models.writes import ensure_run_and_batch, finish_batch, record_chunk
from tests.support.cli_process import oyer
from tests.support.record_rows import START, make_batch, make_judgement, make_rollout


@pytest.fixture
def filled_url(store_url: str) -> str:
    """Record an old and a new ended batch of four rollouts, and an old one that has not ended."""
    engine = open_engine(store_url)
    now = datetime.now(UTC)
    batches = {"old": 100, "new": 1, "open": 100}
    for name, age_days in batches.items():
        submitted_at = now - timedelta(days=age_days)
        with engine.begin() as conn:
            batch = make_batch(id=name, run=f"run-{name}", submitted_at=submitted_at)
            key = ensure_run_and_batch(conn, batch)
            record_chunk(
                conn,
                key,
                rollouts=[make_rollout(i) for i in range(4)],
                judgements=[make_judgement(i) for i in range(4)],
            )
            if name != "open":
                finish_batch(conn, name, status="finished", finished_at=START, counts={}, usage={})
    engine.dispose()
    return store_url


def batches(url: str) -> dict[str, int]:
    """Count the recorded rollouts by batch."""
    engine = open_engine(url)
    with reading(engine) as conn:
        counts = select(Batch.id, func.count(Rollout.rollout_index)).outerjoin(Rollout)
        found = {row[0]: row[1] for row in conn.execute(counts.group_by(Batch.id))}
    engine.dispose()
    return found


ALL = {"old": 4, "new": 4, "open": 4}


def test_a_prune_deletes_what_its_dry_run_prints(filled_url: str, tmp_path: Path) -> None:
    asked = ("db", "prune", "--older-than", "90d", "--json", "--url", filled_url)
    dry = oyer(*asked, "--dry-run", cwd=tmp_path)
    assert json.loads(dry.stdout) == {"batches": 1, "rollouts": 4}
    assert dry.stderr == "1 batch has not ended and is kept\n"
    assert batches(filled_url) == ALL
    done = oyer(*asked, "--yes", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, dry.stdout)
    assert batches(filled_url) == {"new": 4, "open": 4}


def test_a_prune_of_texts_keeps_the_rollouts(filled_url: str, tmp_path: Path) -> None:
    done = oyer(
        "db", "prune", "--run", "run-old", "--texts", "--yes", "--url", filled_url, cwd=tmp_path
    )
    assert done.stdout == "deleted texts and replies of 1 batch with 4 rollouts\n"
    assert batches(filled_url) == ALL


def test_an_unconfirmed_prune_deletes_nothing(filled_url: str, tmp_path: Path) -> None:
    done = oyer("db", "prune", "--run", "run-old", "--url", filled_url, cwd=tmp_path)
    assert done.returncode == 1
    assert "delete 1 batch with 4 rollouts?" in done.stderr
    assert batches(filled_url) == ALL


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        ([], "select batches"),
        (["--older-than", "soon"], "write 90d, 12w or 36h"),
        (["--run", "nobody"], "'nobody': is not on record"),
        (["--older-than", "1d", "--keep-run", "nobody"], "'nobody': is not on record"),
    ],
)
def test_an_invalid_selection_is_refused_with_an_example(
    arguments: list[str], fix: str, filled_url: str, tmp_path: Path
) -> None:
    done = oyer("db", "prune", *arguments, "--yes", "--url", filled_url, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert fix in done.stderr
    assert batches(filled_url) == ALL


def test_a_backup_has_the_whole_record_and_overwrites_no_file(
    filled_url: str, tmp_path: Path
) -> None:
    asked = ("db", "backup", "copy.db", "--json", "--url", filled_url)
    done = oyer(*asked, cwd=tmp_path)
    copy = tmp_path / "copy.db"
    if not filled_url.startswith("sqlite"):
        assert (done.returncode, copy.exists()) == (1, False)
        assert "`pg_dump --format=custom --file=copy.db 'postgresql://" in done.stderr
        assert "`pg_restore --dbname=NEW_DATABASE copy.db`" in done.stderr
        return
    assert json.loads(done.stdout) == {"file": "copy.db", "bytes": copy.stat().st_size}
    assert batches(f"sqlite:///{copy}") == ALL
    again = oyer(*asked, cwd=tmp_path)
    assert again.returncode == 1
    assert "copy.db: exists" in again.stderr
    lost = oyer("db", "backup", "no/copy.db", "--url", filled_url, cwd=tmp_path)
    assert (lost.returncode, lost.stderr.count("\n")) == (1, 1)
    assert "no/copy.db: its folder does not exist; create it" in lost.stderr


def test_a_run_is_exported_to_a_folder_that_is_written_once(
    filled_url: str, tmp_path: Path
) -> None:
    asked = ("db", "export", "run-old", "--to", "jsonl", "--url", filled_url)
    done = oyer(*asked, "--out", "out/old", "--json", cwd=tmp_path)
    answer = json.loads(done.stdout)
    assert (answer["folder"], answer["rows"]["rollouts"]) == ("out/old", 4)
    lines = (tmp_path / "out/old/judgements.jsonl").read_text().splitlines()
    assert [json.loads(line)["score"] for line in lines] == [7.0] * 4
    again = oyer(*asked, "--out", "out/old", cwd=tmp_path)
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "--out out/old: exists" in again.stderr
    plain = oyer(*asked, cwd=tmp_path)
    assert plain.stdout == "wrote run-old-export: 4 rollouts, 4 judgements\n"


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (["nobody", "--to", "jsonl"], "'nobody': is not on record; `oyer batches list`"),
        (["run-old", "--to", "jsonl", "--out", "/proc/x/y"], "--out /proc/x/y: "),
    ],
)
def test_an_invalid_export_is_refused_in_one_line(
    arguments: list[str], fix: str, filled_url: str, tmp_path: Path
) -> None:
    done = oyer("db", "export", *arguments, "--url", filled_url, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert fix in done.stderr


def test_an_unknown_format_names_the_known_ones(filled_url: str, tmp_path: Path) -> None:
    done = oyer("db", "export", "run-old", "--to", "xlsx", "--url", filled_url, cwd=tmp_path)
    assert done.returncode == 2
    assert all(name in done.stderr for name in ("parquet", "jsonl", "duckdb"))


def test_partitions_are_created_and_dropped_by_the_command(filled_url: str, tmp_path: Path) -> None:
    asked = ("db", "partitions", "--url", filled_url)
    if filled_url.startswith("sqlite"):
        done = oyer(*asked, "--yes", cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "SQLite has no partitions; delete old batches by `oyer db prune" in done.stderr
        return
    refused = oyer(*asked, cwd=tmp_path)
    assert refused.returncode == 1
    assert "make the tables partitioned, while writers wait?" in refused.stderr
    done = oyer(*asked, "--ahead", "2", "--yes", "--json", cwd=tmp_path)
    answer = json.loads(done.stdout)
    first = [name for name in answer["created"] if name.startswith("judgements_until_")]
    assert (len(first), answer["dropped"]) == (1, [])
    assert [one["to"] for one in answer["partitions"]][-1] is None
    assert batches(filled_url) == ALL
    shown = oyer(*asked, "--yes", cwd=tmp_path).stdout
    assert shown.startswith("created")  # the third month ahead, as the default is 3
    assert "all other times" in shown
    kept = oyer(*asked, "--drop-older-than", "0h", "--yes", "--json", cwd=tmp_path)
    assert (kept.returncode, json.loads(kept.stdout)["dropped"]) == (0, [])
    assert batches(filled_url) == ALL


def test_a_record_of_an_older_release_is_upgraded_before_it_is_partitioned(
    postgres_url: str, tmp_path: Path
) -> None:
    migrations.upgrade(postgres_url, "0010")
    done = oyer("db", "partitions", "--yes", "--url", postgres_url, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "is not up to date; run `oyer db upgrade`" in done.stderr


def test_ended_months_are_dropped_unless_a_run_in_them_is_kept(
    postgres_url: str, tmp_path: Path
) -> None:
    migrations.upgrade(postgres_url)
    engine = open_engine(postgres_url)
    now = datetime.now(UTC)
    create_partitions(engine, 12, now=now - timedelta(days=370))
    for name, age_days in (("older", 200), ("old", 100)):
        submitted_at = now - timedelta(days=age_days)
        with engine.begin() as conn:
            batch = make_batch(id=name, run=f"run-{name}", submitted_at=submitted_at)
            key = ensure_run_and_batch(conn, batch)
            record_chunk(conn, key, rollouts=[make_rollout(i) for i in range(4)])
            finish_batch(conn, name, status="finished", finished_at=START, counts={}, usage={})
    engine.dispose()
    asked = ("db", "partitions", "--drop-older-than", "4w", "--keep-run", "run-older")
    dry = oyer(*asked, "--dry-run", "--url", postgres_url, cwd=tmp_path)
    month = f"rollouts_{now - timedelta(days=100):%Y_%m}"
    assert month in dry.stdout
    assert "0 batches have not ended, 1 are of runs to keep" in dry.stderr
    assert batches(postgres_url) == {"older": 4, "old": 4}
    done = oyer(*asked, "--yes", "--json", "--url", postgres_url, cwd=tmp_path)
    answer = json.loads(done.stdout)
    assert month in answer["dropped"]
    assert month not in [one["name"] for one in answer["partitions"]]
    assert batches(postgres_url) == {"older": 4}


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (["--drop-older-than", "soon"], "--drop-older-than 'soon': is not an age; write 90d"),
        (["--keep-run", "run-old"], "add --drop-older-than"),
        (["--drop-older-than", "1d", "--keep-run", "nobody"], "'nobody': is not on record"),
    ],
)
def test_invalid_partitions_are_refused_in_one_line(
    arguments: list[str], fix: str, filled_url: str, tmp_path: Path
) -> None:
    if filled_url.startswith("sqlite") and "nobody" in arguments:
        fix = "SQLite has no partitions"  # which is found first
    done = oyer("db", "partitions", *arguments, "--yes", "--url", filled_url, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert fix in done.stderr
