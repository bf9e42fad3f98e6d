"""Migrations are linear, go up and down, agree with the models and survive concurrent starts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import CheckConstraint, inspect, text

from oyer import migrations
from oyer.migrations.__main__ import main
from oyer.models import Base
from oyer.models.engine import open_engine
from oyer.models.queries import judgements_of, submissions_of
from oyer.models.requests import attempts_of

TABLES = set(Base.metadata.tables) | {"alembic_version"}


def tables_of(url: str) -> set[str]:
    engine = open_engine(url)
    found = set(inspect(engine).get_table_names()) | set(inspect(engine).get_view_names())
    engine.dispose()
    return found


def command(*args: str, url: str | None = None) -> subprocess.Popen[str]:
    argv = [sys.executable, "-W", "error", "-m", "oyer.migrations", *args]
    environment = {**os.environ, "OYER_STORE__URL": url or ""}
    return subprocess.Popen(
        argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_migrations_are_linear_and_numbered_from_one() -> None:
    config = Config()
    config.set_main_option("script_location", "oyer.migrations:")
    script = ScriptDirectory.from_config(config)
    newest_first = list(script.walk_revisions())
    numbers = [revision.revision for revision in reversed(newest_first)]
    assert script.get_heads() == [migrations.head()]
    assert numbers == [f"{n:04d}" for n in range(1, len(numbers) + 1)]
    for revision in newest_first:
        assert re.fullmatch(rf"{revision.revision}_[a-z_]+\.py", Path(revision.path).name)


def test_the_record_goes_up_down_and_up_again(empty_url: str) -> None:
    assert migrations.current(empty_url) is None
    migrations.upgrade(empty_url)
    assert migrations.current(empty_url) == migrations.head()
    assert tables_of(empty_url) == TABLES | {"judge_history", "criterion_history"}
    migrations.downgrade(empty_url, "base")
    assert tables_of(empty_url) == {"alembic_version"}
    migrations.upgrade(empty_url)
    migrations.upgrade(empty_url)
    assert tables_of(empty_url) == TABLES | {"judge_history", "criterion_history"}


def test_the_migrated_record_is_what_the_models_say(store_url: str) -> None:
    migrations.check(store_url)


def test_a_record_that_differs_from_the_models_is_noticed(store_url: str) -> None:
    engine = open_engine(store_url)
    with engine.begin() as conn:
        conn.execute(text("DROP INDEX ix_batches_run_id_step"))
    engine.dispose()
    with pytest.raises(CommandError, match="ix_batches_run_id_step"):
        migrations.check(store_url)


def test_check_constraints_of_the_models_are_in_the_migration(store_url: str) -> None:
    engine = open_engine(store_url)
    for table in Base.metadata.sorted_tables:
        stored = {row["name"] for row in inspect(engine).get_check_constraints(table.name)}
        named = {c.name for c in table.constraints if isinstance(c, CheckConstraint)}
        assert stored == named
    engine.dispose()


def test_processes_that_upgrade_the_same_empty_database_all_succeed(empty_url: str) -> None:
    upgrades = [command("upgrade", "--url", empty_url) for _ in range(4)]
    outcomes = [(process.communicate(), process.returncode) for process in upgrades]
    assert [code for _, code in outcomes] == [0] * 4, outcomes
    assert tables_of(empty_url) == TABLES | {"judge_history", "criterion_history"}


def test_a_failing_migration_leaves_the_record_as_it_was(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(empty_url)
    with engine.begin() as conn:
        conn.execute(text("CREATE TABLE rewards (taken INTEGER)"))
    with pytest.raises(Exception, match="rewards"):
        migrations.upgrade(empty_url)
    engine.dispose()
    assert tables_of(empty_url) == {"rewards"}
    assert migrations.current(empty_url) is None


def test_the_command_upgrades_checks_and_takes_back(sqlite_url: str) -> None:
    for args in (["upgrade"], ["check"], ["current"], ["downgrade", "base"]):
        process = command(*args, url=sqlite_url)
        out, errors = process.communicate()
        assert process.returncode == 0, errors
        state = "empty" if args[0] == "downgrade" else migrations.head()
        assert f"{state} (newest is {migrations.head()})" in out


@pytest.mark.parametrize(
    ("args", "fix"),
    [
        (["upgrade", "--url", ""], "give --url or set OYER_STORE__URL"),
        (["upgrade", "--url", "mysql://me:hunter2@h/d"], "use sqlite or postgresql"),
        (["current", "--url", "postgresql://me:hunter2@127.0.0.1:9/d"], "127.0.0.1"),
    ],
)
def test_a_command_that_fails_says_the_fix_and_no_password(
    args: list[str], fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 1
    said = capsys.readouterr().err
    assert fix in said
    assert "hunter2" not in said


def test_a_record_of_a_newer_release_is_refused(
    store_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = open_engine(store_url)
    with engine.begin() as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    assert main(["upgrade", "--url", store_url]) == 1
    assert "9999" in capsys.readouterr().err


def test_a_new_migration_gets_the_next_number(sqlite_url: str, tmp_path: Path) -> None:
    migrations.upgrade(sqlite_url)
    root = Path(migrations.__file__).parents[1]
    (tmp_path / "pyproject.toml").write_text((root / "pyproject.toml").read_text())
    copy = tmp_path / "migrations"
    subprocess.run(["cp", "-r", root / "migrations", copy], check=True)
    subprocess.run(
        [sys.executable, "-m", "alembic", "revision", "--autogenerate", "-m", "add a thing"],
        cwd=tmp_path,
        env={**os.environ, "OYER_STORE__URL": sqlite_url},
        check=True,
        capture_output=True,
    )
    number = f"{int(migrations.head()) + 1:04d}"
    assert (copy / "versions" / f"{number}_add_a_thing.py").exists()


def test_a_record_of_the_release_before_keeps_its_batches(empty_url: str) -> None:
    migrations.upgrade(empty_url, "0001")
    engine = open_engine(empty_url)
    sent_at = "2026-03-01T10:00:00.000000Z"
    with engine.begin() as conn:
        conn.execute(
            text("INSERT INTO runs (id, name, created_at) VALUES (1, 'r', :at)"), {"at": sent_at}
        )
        conn.execute(
            text(
                "INSERT INTO batches (id, run_id, size, plan, status, submissions, oyer_version,"
                " submitted_at) VALUES ('b', 1, 4, '{}', 'submitted', 2, '0.1', :at)"
            ),
            {"at": sent_at},
        )
    migrations.upgrade(empty_url)
    with engine.begin() as conn:
        (submission,) = submissions_of(conn, "b")
        assert submission["sent_at"].isoformat() == "2026-03-01T10:00:00+00:00"
        assert (submission["why"], submission.get("host")) == ("submit", None)
    migrations.downgrade(empty_url, "0001")
    with engine.begin() as conn:
        assert conn.scalar(text("SELECT submissions FROM batches")) == 2
    engine.dispose()


def test_a_judgement_from_before_requests_were_kept_is_read(empty_url: str) -> None:
    migrations.upgrade(empty_url, "0002")
    engine = open_engine(empty_url)
    sent_at = "2026-03-01T10:00:00.000000Z"
    place = "submitted_at, batch_id, rollout_index, judge, sample"
    with engine.begin() as conn:
        for table, columns, values in (
            ("runs", "id, name, created_at", "1, 'r', :at"),
            (
                "batches",
                "id, run_id, size, plan, status, submissions, oyer_version, submitted_at",
                "'b', 1, 4, '{}', 'submitted', 1, '0.1', :at",
            ),
            (
                "judgements",
                f"{place}, status, score, reply, request_hash, attempts, source",
                ":at, 'b', 0, 'q', 0, 'scored', 7, 'Final score: 7', 'ab', 1, 'called'",
            ),
            ("attempts", f"{place}, id, number, started_at", ":at, 'b', 0, 'q', 0, 'i', 1, :at"),
        ):
            statement = text(f"INSERT INTO {table} ({columns}) VALUES ({values})")
            conn.execute(statement, {"at": sent_at})
    migrations.upgrade(empty_url)
    with engine.connect() as conn:
        (judgement,) = judgements_of(conn, "b")
        (attempt,) = attempts_of(conn, judgement)
    assert (judgement["score"], judgement.get("parameters_hash")) == (7.0, None)
    assert (attempt["number"], attempt["parameters_hash"], attempt["error"]) == (1, None, None)
    migrations.downgrade(empty_url, "0002")
    with engine.connect() as conn:
        assert conn.scalar(text("SELECT reply FROM judgements")) == "Final score: 7"
        assert conn.scalar(text("SELECT number FROM attempts")) == 1
    engine.dispose()
