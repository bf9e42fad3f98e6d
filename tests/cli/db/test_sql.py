"""`oyer db sql` prints equal output on both databases, and stops at Ctrl-C."""

import csv
import json
import signal
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from oyer import migrations
from oyer.cli.support.rows import Rows, print_csv, print_json_rows, print_rows
from oyer.models.engine import open_engine
from oyer.models.writes import ensure_run_and_batch, record_chunk, record_rewards
from tests.support.cli_process import ARGV, environment, oyer, running
from tests.support.record_rows import make_batch, make_judgement, make_reward, make_rollout

ENDLESS = (
    "WITH RECURSIVE few(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM few WHERE i < 5000),"
    " endless(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM endless)"
    " SELECT i FROM few UNION ALL SELECT count(*) FROM endless"
)
"""A query that returns 5,000 rows, and then runs forever."""


@pytest.fixture
def filled_url(store_url: str) -> str:
    engine = open_engine(store_url)
    with engine.begin() as conn:
        key = ensure_run_and_batch(conn, make_batch())
        record_chunk(
            conn,
            key,
            rollouts=[make_rollout(i) for i in range(4)],
            judgements=[make_judgement(i, cost_usd=0.1 + 0.2) for i in range(4)],
        )
        record_rewards(conn, key, [make_reward(i) for i in range(4)])
    engine.dispose()
    return store_url


def test_json_has_the_same_types_on_both_databases(filled_url: str, tmp_path: Path) -> None:
    query = (
        "SELECT terms, metadata, score, error, submitted_at, count(*) AS n, sum(score) AS total"
        " FROM judge_history WHERE rollout_index = 1 GROUP BY 1, 2, 3, 4, 5"
    )
    done = oyer("db", "sql", "--json", query, "--url", filled_url, cwd=tmp_path)
    assert done.stderr == ""
    assert json.loads(done.stdout) == {
        "terms": {"base_score": 1.0, "judge": 0.7, "length_penalty": -0.2},
        "metadata": {"source": "gsm8k"},
        "score": 7.0,
        "error": None,
        "submitted_at": "2026-03-31T23:59:58.123456Z",
        "n": 1,
        "total": 7.0,
    }


def test_numbers_of_postgres_are_numbers(filled_url: str, tmp_path: Path) -> None:
    if filled_url.startswith("sqlite"):
        pytest.skip("SQLite has neither NaN nor numeric")
    query = "SELECT 'NaN'::float8 AS nan, 'NaN'::numeric AS big_nan, 10::numeric AS ten, 0.5::numeric AS half, ARRAY[1, 2] AS list"
    done = oyer("db", "sql", "--json", query, "--url", filled_url, cwd=tmp_path)
    assert json.loads(done.stdout) == {
        "nan": None,
        "big_nan": None,
        "ten": 10,
        "half": 0.5,
        "list": [1, 2],
    }


def test_csv_has_a_header_and_an_empty_field_for_null(filled_url: str, tmp_path: Path) -> None:
    query = "SELECT rollout_index, error, reply, cost_usd FROM judge_history ORDER BY 1"
    done = oyer("db", "sql", "--csv", query, "--limit", "2", "--url", filled_url, cwd=tmp_path)
    reply = str(make_judgement()["reply"])
    assert list(csv.reader(done.stdout.splitlines())) == [
        ["rollout_index", "error", "reply", "cost_usd"],
        ["0", "", reply, str(0.1 + 0.2)],
        ["1", "", reply, str(0.1 + 0.2)],
    ]
    assert done.stderr == "the first 2 rows; there are more\n"


def test_a_table_shows_null_and_rounded_numbers(filled_url: str, tmp_path: Path) -> None:
    query = "SELECT error, cost_usd, judge FROM judge_history WHERE rollout_index = 0"
    done = oyer("db", "sql", query, "--url", filled_url, cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "error  cost_usd  judge",
        "-----  --------  -------",
        "NULL   0.3       quality",
    ]


@pytest.mark.parametrize("form", [[], ["--csv"]])
def test_an_empty_result_is_reported(filled_url: str, form: list[str], tmp_path: Path) -> None:
    query = "SELECT judge FROM judge_history WHERE run = 'none'"
    done = oyer("db", "sql", query, *form, "--url", filled_url, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "0 rows\n")
    assert done.stdout.startswith("judge\n")


def test_the_statement_may_come_from_a_file_or_standard_input(
    filled_url: str, tmp_path: Path
) -> None:
    (tmp_path / "query.sql").write_text("SELECT 1 AS one\n-- a remark\n")
    options = ["--json", "--url", filled_url]
    done = oyer("db", "sql", "--file", "query.sql", *options, cwd=tmp_path)
    assert json.loads(done.stdout) == {"one": 1}
    piped = subprocess.run(
        [*ARGV, "db", "sql", "-", *options],
        input="SELECT 2 AS two;",
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
        check=True,
    )
    assert json.loads(piped.stdout) == {"two": 2}


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        ([], "give the statement"),
        (["SELECT 1", "--file", "query.sql"], "give the statement"),
        (["--file", "none.sql"], "none.sql: cannot be read"),
        (["SELECT 1", "--json", "--csv"], "give one of them"),
    ],
)
def test_a_wrong_use_is_refused_with_the_fix(
    arguments: list[str], fix: str, sqlite_url: str, tmp_path: Path
) -> None:
    done = oyer("db", "sql", *arguments, "--url", sqlite_url, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert fix in done.stderr


def test_ctrl_c_stops_a_query_that_computes(store_url: str, tmp_path: Path) -> None:
    arguments = ("db", "sql", "--json", ENDLESS, "--url", store_url)
    with running(*arguments, cwd=tmp_path, changes={"PYTHONUNBUFFERED": "1"}) as command:
        command.read_until(": 3000}")
        command.process.send_signal(signal.SIGINT)
        assert command.wait() == 130, (command.errors(), command.lines[-3:])
    assert "Traceback" not in command.errors()


def test_fifty_thousand_rows_are_plain_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = Rows(["number", "text"], ((i, "a\nb") for i in range(50_000)))
    print_rows(rows)
    lines = capsys.readouterr().out.splitlines()
    assert (rows.count, len(lines)) == (50_000, 50_002)
    assert lines[-1] == "49999   a\\nb"


def test_every_type_of_the_drivers_is_written_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    row = (datetime(2026, 1, 31, tzinfo=UTC), b"\x01", {"a": float("nan")})
    print_json_rows(Rows(["at", "raw", "json"], [row]))
    print_csv(Rows(["at", "raw"], [row[:2]]))
    out = capsys.readouterr().out.splitlines()
    assert json.loads(out[0]) == {
        "at": "2026-01-31T00:00:00.000000Z",
        "raw": "01",
        "json": {"a": None},
    }
    assert out[1:] == ["at,raw", "2026-01-31T00:00:00.000000Z,01"]


def test_an_output_that_is_no_longer_read_is_not_an_error_of_the_record(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/record.db"
    migrations.upgrade(url)
    query = ENDLESS.replace("5000", "500000")
    command = [*ARGV, "db", "sql", "--csv", query, "--url", url]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as sql:
        assert sql.stdout is not None
        assert sql.stderr is not None
        assert sql.stdout.readline() == b"i\n"
        sql.stdout.close()
        assert sql.stderr.read() == b""
        assert sql.wait() == 1
