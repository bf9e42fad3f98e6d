"""`oyer length list`: the catalogue of length methods, for eyes and for programs."""

import json
from pathlib import Path

from oyer.tasks.lengths.catalogue import METHODS
from tests.cli.running import oyer


def test_every_method_is_listed_with_its_parameters(tmp_path: Path) -> None:
    done = oyer("length", "list", "--json", cwd=tmp_path)
    listed = {entry["method"]: entry for entry in map(json.loads, done.stdout.splitlines())}
    assert listed.keys() == METHODS.keys()
    for name, method in METHODS.items():
        assert listed[name]["parameters"].keys() == method.params.model_fields.keys()
    assert listed["median_band"]["parameters"]["peak_ratio"]["default"] == 0.3


def test_a_table_explains_one_method(tmp_path: Path) -> None:
    done = oyer("length", "list", "median_band", cwd=tmp_path)
    assert done.returncode == 0
    for shown in ("median_band", "outer_ratio", "0.5", "group_ids"):
        assert shown in done.stdout


def test_an_unknown_method_is_answered_with_near_names(tmp_path: Path) -> None:
    done = oyer("length", "list", "median_bend", cwd=tmp_path)
    assert done.returncode == 1
    assert "median_band" in done.stderr
