"""`oyer demo` scores the samples with an embedded backend, and keeps the record."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.support.cli_process import environment, oyer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the demo ran once."""
    folder = tmp_path_factory.mktemp("demo")
    done = oyer("demo", "--rollouts", "128", "--json", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    (folder / "report.json").write_text(done.stdout)
    return folder


def test_the_json_report_adds_up(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    assert report["rollouts"] == 128 == sum(report["statuses"].values())
    assert report["statuses"]["scored"] == report["calls"] > 0
    assert report["tokens"] > 0
    assert (folder / report["store"]).exists()


def test_a_second_run_reuses_the_record_and_its_printed_query_works(folder: Path) -> None:
    done = oyer("demo", "--rollouts", "128", cwd=folder, COLUMNS="80")
    assert done.returncode == 0
    assert "128/128" in done.stderr
    assert "none: every reply was on record" in done.stdout
    scored = re.compile(r"│ .+ │ scored │ +(\S+) │ +(\S+) │ +(\S+) │ +(\S+) │ +(\S+) │")
    rows = [[float(number) for number in row] for row in scored.findall(done.stdout)]
    assert rows
    for score, base, judge, length, reward in rows:
        assert judge == pytest.approx(0.1 * score)
        assert reward == pytest.approx(base + judge + length, abs=0.011)
    assert "-0.00" not in done.stdout
    lines = done.stdout.strip().splitlines()
    assert (
        lines[-1] == "  oyer view --url sqlite:///oyer-demo.db" or " -m oyer.cli view " in lines[-1]
    )
    (command,) = [line for line in lines if " db sql " in line]
    argv = shlex.split(f"{command} --json")
    shown = subprocess.run(argv, cwd=folder, env=environment(), capture_output=True, check=True)
    stored = [json.loads(line) for line in shown.stdout.splitlines()]
    assert len(stored) == 5
    assert stored[0].keys() == {"group_id", "base_score", "judge", "score", "reward", "reply"}


def test_a_judge_that_does_not_answer_is_reported_and_a_store_may_be_a_url(
    tmp_path: Path,
) -> None:
    dead = ("--base-url", "http://127.0.0.1:9/v1", "--model", "m")
    store = ("--store", "sqlite:///mine.db")
    done = oyer("demo", "--rollouts", "4", *dead, *store, cwd=tmp_path)
    assert done.returncode == 0
    assert "unavailable e.g. " in done.stderr
    assert re.search(r"│ .+ │ unavailable │ +– │", done.stdout)
    assert (tmp_path / "mine.db").exists()
    assert not list(tmp_path.glob("sqlite*"))


@pytest.mark.parametrize("arguments", [["--model", "m"], ["--api-key-env", "KEY"]], ids=" ".join)
def test_an_incomplete_real_judge_is_refused(arguments: list[str], tmp_path: Path) -> None:
    done = oyer("demo", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "--base-url and --model must be given together" in done.stderr


@pytest.mark.parametrize(
    ("store", "error"),
    [
        ("postgresql://h/d", "--store: must be a file"),
        ("/no/such/folder/x.db", "there is no folder /no/such/folder"),
    ],
)
def test_an_invalid_store_is_refused_before_the_backend_starts(
    store: str, error: str, tmp_path: Path
) -> None:
    done = oyer("demo", "--store", store, cwd=tmp_path)
    assert done.returncode == 1
    assert error in done.stderr
    assert list(tmp_path.iterdir()) == []
