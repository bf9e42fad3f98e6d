"""The files of deploy/: Prometheus accepts them, every alert fires, every metric is one of ours."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from oyer.protocol.status import SETTLED
from tests.support.metric_names import ALERTS, BOARD, EXPORTED, expressions, names_in
from tests.support.paths import ROOT

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is missing: apt-get install prometheus"
)


def check(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@promtool
def test_prometheus_accepts_the_configuration_and_the_rules() -> None:
    assert "SUCCESS" in check("check", "rules", ALERTS)
    assert "1 rule files found" in check("check", "config", ROOT / "deploy/prometheus.yml")


@promtool
def test_each_alert_fires_where_it_should_and_only_there(tmp_path: Path) -> None:
    cases = (ROOT / "tests/data/alerts_test.yaml").read_text()
    (tmp_path / "cases.yaml").write_text(cases.replace("[ALERTS]", f"[{ALERTS}]"))
    assert "SUCCESS" in check("test", "rules", tmp_path / "cases.yaml")


@promtool
def test_each_query_of_the_board_parses(tmp_path: Path) -> None:
    queries = [query.replace("$__rate_interval", "1m") for query in expressions(BOARD)]
    rules = [{"record": f"board:{n}", "expr": query} for n, query in enumerate(queries)]
    file = tmp_path / "board.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    assert f"{len(rules)} rules found" in check("check", "rules", "--lint=none", file)
    assert len(rules) > 30


def test_each_alert_has_a_case_that_fires() -> None:
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    cases = (ROOT / "tests/data/alerts_test.yaml").read_text()
    assert len(rules) == 11
    assert [rule["alert"] for rule in rules if f'"{rule["alert"]}"' not in cases] == []


@pytest.mark.parametrize("file", [BOARD, ALERTS], ids=lambda file: file.name)
def test_each_metric_is_one_that_the_exporter_has(file: Path) -> None:
    assert names_in(file) - EXPORTED == set()
    assert len(names_in(file)) > 10


@pytest.mark.parametrize("file", [BOARD, ALERTS], ids=lambda file: file.name)
def test_every_status_without_a_score_counts_as_missing(file: Path) -> None:
    excluded = re.findall(r'status!~"([^"]*)"', " ".join(expressions(file)))
    assert [set(one.split("|")) for one in excluded] == [set(SETTLED)]


def test_the_boards_panels_do_not_overlap_and_have_their_own_ids() -> None:
    panels: list[dict[str, Any]] = json.loads(BOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: list[tuple[int, int]] = []
    for place in (panel["gridPos"] for panel in panels):
        assert place["x"] + place["w"] <= 24
        cells += [
            (place["x"] + i, place["y"] + k) for i in range(place["w"]) for k in range(place["h"])
        ]
    assert len(set(cells)) == len(cells)
