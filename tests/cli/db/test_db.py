"""`oyer db` manages and reads the record."""

import json
import re
from pathlib import Path

import psycopg
import pytest

from oyer import migrations
from oyer.models.engine import open_engine
from oyer.models.writes import ensure_run_and_batch
from tests.support.cli_process import oyer
from tests.support.record_rows import make_batch


def test_a_record_is_created_once_and_found_afterwards(sqlite_url: str, tmp_path: Path) -> None:
    head = migrations.head()
    assert oyer("db", "current", "--url", sqlite_url, cwd=tmp_path).returncode == 1
    done = oyer("db", "upgrade", "--url", sqlite_url, "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"before": None, "after": head}
    assert oyer("db", "upgrade", "--url", sqlite_url, cwd=tmp_path).stdout == f"already at {head}\n"
    done = oyer("db", "current", "--json", cwd=tmp_path, OYER_STORE__URL=sqlite_url)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"current": head, "head": head})


def test_a_query_is_passed_to_the_database_unchanged(store_url: str, tmp_path: Path) -> None:
    query = "SELECT 'a :b 100%' AS said, 2 AS number, NULL AS none WHERE 'x%y' LIKE 'x%'"
    done = oyer("db", "sql", query, "--url", store_url, "--json", cwd=tmp_path)
    assert done.stderr == ""
    assert json.loads(done.stdout) == {"said": "a :b 100%", "number": 2, "none": None}


def test_a_query_cannot_write(store_url: str, tmp_path: Path) -> None:
    done = oyer("db", "sql", "DELETE FROM runs", "--url", store_url, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error the query is refused: ")
    assert re.search("read-only", done.stderr)
    assert done.stderr.count("\n") == 1


def test_a_second_statement_is_refused(store_url: str, tmp_path: Path) -> None:
    engine = open_engine(store_url)
    with engine.begin() as conn:
        ensure_run_and_batch(conn, make_batch())
    query = "COMMIT; UPDATE batches SET size = 99"
    done = oyer("db", "sql", query, "--url", store_url, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    with engine.begin() as conn:
        assert conn.exec_driver_sql("SELECT size FROM batches").scalar() == 4
    engine.dispose()


@pytest.mark.parametrize(
    "arguments", [("sql", "SELECT 1"), ("current",)], ids=lambda arguments: arguments[0]
)
def test_reading_a_missing_record_does_not_create_one(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    done = oyer("db", *arguments, "--url", f"sqlite:///{tmp_path}/typo.db", cwd=tmp_path)
    assert done.returncode == 1
    assert "no record yet" in done.stderr or done.stdout.startswith("empty")
    assert list(tmp_path.iterdir()) == []


def test_a_table_in_a_file_is_not_wrapped(store_url: str, tmp_path: Path) -> None:
    words = " ".join(["word"] * 30)
    query = f"SELECT '{words}' AS said"
    done = oyer("db", "sql", query, "--url", store_url, cwd=tmp_path, COLUMNS="")
    assert words in done.stdout


def test_roles_are_granted_by_the_command_or_printed_by_it(
    postgres_url: str, sqlite_url: str, tmp_path: Path
) -> None:
    migrations.upgrade(postgres_url)
    wanted = ("db", "roles", "--worker", "oyer_w", "--analyst", "oyer_a")
    printed = oyer(*wanted, "--dry-run", cwd=tmp_path)
    assert 'GRANT SELECT ON "public"."attempts"' in printed.stdout
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        missing = oyer(*wanted, "--url", postgres_url, cwd=tmp_path)
        assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
        assert "CREATE ROLE" in missing.stderr
        admin.execute("CREATE ROLE oyer_w LOGIN; CREATE ROLE oyer_a LOGIN")
        done = oyer(*wanted, "--url", postgres_url, cwd=tmp_path)
        assert done.stdout == "granted: oyer_w (worker), oyer_a (analyst)\n"
        for privilege, held in (("SELECT", True), ("INSERT", False)):
            query = "SELECT has_table_privilege('oyer_a', 'rewards', %s)"
            assert admin.execute(query, [privilege]).fetchone() == (held,)
        admin.execute("DROP OWNED BY oyer_w, oyer_a; DROP ROLE oyer_w, oyer_a")
    refused = oyer(*wanted, "--url", sqlite_url, cwd=tmp_path)
    assert refused.returncode == 1
    assert "SQLite has no roles" in refused.stderr


def test_a_table_prints_markup_as_text(store_url: str, tmp_path: Path) -> None:
    done = oyer("db", "sql", "SELECT '[red]x[/red]' AS said", "--url", store_url, cwd=tmp_path)
    assert "[red]x[/red]" in done.stdout


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://localhost/x", "use sqlite or postgresql"),
        ("postgresql://oyer:secret@127.0.0.1:9/oyer", "onnection refused"),
        ("sqlite:////proc/oyer/oyer.db", "store.url"),
    ],
)
def test_a_record_that_cannot_be_opened_is_an_error_of_one_line(
    url: str, reason: str, tmp_path: Path
) -> None:
    done = oyer("db", "upgrade", "--url", url, cwd=tmp_path)
    assert done.returncode == 1
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr
