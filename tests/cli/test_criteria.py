"""`oyer criteria report` prints how often each criterion is met, and where it decides."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from oyer import migrations
from oyer.models.engine import open_engine
from oyer.models.writes import ensure_run_and_batch, record_chunk
from tests.support.cli_process import oyer
from tests.support.record_rows import make_batch, make_judgement, make_rollout

VERDICTS: dict[str, list[float | None]] = {
    "correct": [1.0, 0.0, 1.0, 1.0],
    "polite": [1.0, 1.0, 1.0, 1.0],
    "filler": [0.0, 0.0, None, 0.0],
}
WEIGHTS = {"correct": 3.0, "polite": 1.0, "filler": -2.0}


def criterion(rollout_index: int, name: str) -> dict[str, Any]:
    return {
        "position": list(VERDICTS).index(name),
        "name": name,
        "weight": WEIGHTS[name],
        "required": False,
        "value": VERDICTS[name][rollout_index],
    }


@pytest.fixture
def folder(tmp_path: Path, sqlite_url: str) -> Path:
    """A record with one batch of two groups, and its configuration."""
    migrations.upgrade(sqlite_url)
    judgements = [
        make_judgement(i, judge="rubric", criteria=[criterion(i, name) for name in VERDICTS])
        for i in range(4)
    ]
    engine = open_engine(sqlite_url)
    with engine.begin() as conn:
        for run in ("exp", "plain"):
            key = ensure_run_and_batch(conn, make_batch(run=run, step=3))
            rows = [make_judgement(i) for i in range(4)] if run == "plain" else judgements
            rollouts = [make_rollout(i, group_id=f"g{i // 2}") for i in range(4)]
            record_chunk(conn, key, rollouts=rollouts, judgements=rows, attempts=[])
    engine.dispose()
    (tmp_path / "oyer.yaml").write_text(yaml.safe_dump({"store": {"url": sqlite_url}}))
    return tmp_path


def report(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return oyer("criteria", "report", *arguments, cwd=folder)


def test_the_table_lists_the_criteria_that_never_decide(folder: Path) -> None:
    done = report(folder, "--run", "exp")
    assert done.returncode == 0, done.stderr
    assert "run exp, split train: 1 batch, steps 3 to 3" in done.stderr
    rows = {line.split()[3]: line for line in done.stdout.splitlines() if "rubric " in line}
    assert "75%" in rows["correct"]
    assert "50% (1 of 2 groups)" in rows["correct"]
    assert "0% (0 of 2 groups)" in rows["polite"]
    assert "0% (0 of 1 group)" in rows["filler"]
    assert done.stdout.endswith(
        "values do not vary within any group:\n"
        "  rubric/filler: a pitfall, mean value 0.00 in 1 group\n"
        "  rubric/polite: mean value 1.00 in 2 groups\n"
    )


def test_the_json_has_the_numbers(folder: Path) -> None:
    done = report(folder, "--run", "exp", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    criteria: list[dict[str, Any]] = found.pop("criteria")
    assert found == {
        "run": "exp",
        "split": "train",
        "batches": 1,
        "first_step": 3,
        "last_step": 3,
        "older_batches": False,
        "more_criteria": False,
        "never_decide": [
            {"judge": "rubric", "name": "filler"},
            {"judge": "rubric", "name": "polite"},
        ],
    }
    correct, filler, _ = criteria
    assert (correct["mean_value"], correct["met"], correct["decides"]) == (0.75, 0.75, 0.5)
    assert (filler["missing"], filler["max_weight"], filler["decides"]) == (1, -2.0, 0.0)


def test_a_run_without_criteria_says_so(folder: Path) -> None:
    done = report(folder, "--run", "plain")
    assert (done.returncode, done.stdout) == (0, "")
    assert "no verdicts on criteria are on record there; judges with `criteria`" in done.stderr


def test_an_unknown_run_is_refused(folder: Path) -> None:
    done = report(folder, "--run", "ex")
    assert done.returncode == 1
    assert "--run: 'ex' is not on record; `oyer batches list` shows the runs" in done.stderr
