"""`oyer db`: the record's schema, and reading what it holds."""

import json
from pathlib import Path

import pytest

from oyer import migrations
from tests.cli.running import oyer


def test_a_record_is_made_once_and_known_afterwards(empty_url: str, tmp_path: Path) -> None:
    head = migrations.head()
    assert oyer("db", "current", "--url", empty_url, cwd=tmp_path).returncode == 1
    done = oyer("db", "upgrade", "--url", empty_url, "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"before": None, "after": head}
    assert oyer("db", "upgrade", "--url", empty_url, cwd=tmp_path).stdout == f"already at {head}\n"
    done = oyer("db", "current", "--json", cwd=tmp_path, OYER_STORE__URL=empty_url)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"current": head, "head": head})


def test_a_query_reads_as_table_and_as_json(store_url: str, tmp_path: Path) -> None:
    query = "SELECT 'a:b 100%' AS text, 2 AS number, NULL AS nothing WHERE 'x%y' LIKE 'x%'"
    done = oyer("db", "sql", query, "--url", store_url, "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == {"text": "a:b 100%", "number": 2, "nothing": None}
    done = oyer("db", "sql", query, "--url", store_url, cwd=tmp_path)
    assert "number" in done.stdout
    assert "a:b 100%" in done.stdout


@pytest.mark.parametrize(
    "query",
    ["DELETE FROM runs", "DROP VIEW judge_history", "INSERT INTO runs (name) VALUES ('x')"],
)
def test_a_query_cannot_write(query: str, store_url: str, tmp_path: Path) -> None:
    done = oyer("db", "sql", query, "--url", store_url, cwd=tmp_path)
    assert done.returncode == 1
    assert "read" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://localhost/x", "use sqlite or postgresql"),
        ("nonsense", "not a database URL"),
        ("postgresql://oyer:secret@127.0.0.1:9/oyer", "onnection refused"),
        ("sqlite:////proc/oyer/oyer.db", "store.url"),
    ],
)
def test_a_record_that_cannot_be_opened_is_one_line(url: str, reason: str, tmp_path: Path) -> None:
    done = oyer("db", "upgrade", "--url", url, cwd=tmp_path)
    assert done.returncode == 1
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr


def test_a_wrong_query_is_answered_with_the_reason(sqlite_url: str, tmp_path: Path) -> None:
    done = oyer("db", "sql", "SELECT * FROM nowhere", "--url", sqlite_url, cwd=tmp_path)
    assert done.returncode == 1
    assert "no such table: nowhere" in done.stderr
    assert done.stderr.count("\n") == 1
