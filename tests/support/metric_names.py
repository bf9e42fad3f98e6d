"""The names of metrics: those that the exporter has, and those that deploy/ uses."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from oyer.metrics.gauges import GAUGES
from oyer.protocol.measuring.measured import MEASURED
from tests.support.paths import ROOT

ALERTS = ROOT / "deploy/alerts.yaml"
BOARD = ROOT / "deploy/grafana/oyer.json"

EXPORTED = {gauge.name for gauge in GAUGES} | {
    f"{one.name}{suffix}"
    for one in MEASURED
    for suffix in (("_bucket", "_count", "_sum") if one.buckets_s else ("_total",))
}
"""Names of the samples that a scrape may hold."""


def expressions(file: Path) -> list[str]:
    """Return the PromQL of the board or of the alerts."""
    if file == BOARD:
        panels: list[dict[str, Any]] = json.loads(file.read_text())["panels"]
        return [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return [rule["expr"] for rule in yaml.safe_load(file.read_text())["groups"][0]["rules"]]


def names_in(file: Path) -> set[str]:
    """Return the names of the samples that a file uses."""
    return set(re.findall(r"\boyer_\w+", " ".join(expressions(file))))
