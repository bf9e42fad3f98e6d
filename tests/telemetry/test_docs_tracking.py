"""The snippets of docs/tracking.md, and the names that it lists."""

import re
from typing import Any

import pytest
import yaml

from oyer.config.loading import validate
from oyer.manager import tracking
from oyer.manager.batch import RewardBatch
from oyer.telemetry import provider
from tests.manager.conftest import outcome_of
from tests.support.paths import ROOT

PAGE = (ROOT / "docs/tracking.md").read_text()


def blocks(language: str) -> list[str]:
    """Give the page's code blocks in one language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_python_logs_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """With TensorBoard itself: `make test-trackers`."""
    logged: list[Any] = []
    monkeypatch.setitem(tracking.LIBRARIES, "tensorboard", lambda *given: logged.append(given))
    batch = RewardBatch.of(outcome_of("b"))
    (code,) = blocks("python")
    exec(compile(code, "docs/tracking.md", "exec"), {"batch": batch, "step": 3})  # noqa: S102 - the page of this repository
    ((_, metrics, name, table, step),) = logged
    assert metrics == batch.metrics()
    assert (name, len(table.rows), step) == ("oyer/samples", 4, 3)


def test_the_yaml_is_a_key_of_the_configuration() -> None:
    (text,) = blocks("yaml")
    judge = {"name": "q", "endpoint": "e", "model": "m"}
    assert validate({**yaml.safe_load(text), "judges": [judge]}).tracing == "spans"


def test_each_metric_has_a_row() -> None:
    named = set(re.findall(r"`(oyer/[^`]+)`", PAGE))
    batch = RewardBatch.of(
        outcome_of("b", judge_latency_ms={"p50": 1.0, "p95": 2.0}, groups=[0] * 4)
    )
    names = {re.sub("missing/.*", "missing/<status>", name) for name in batch.metrics()}
    assert names <= named


def test_the_limits_are_those_of_the_code() -> None:
    assert f"`sample` is at most {tracking.MAX_SAMPLE}" in PAGE
    assert f"a queue of {provider._QUEUE:,}" in PAGE
    assert f"waits at most {provider.FLUSH_S:.0f} s to send the rest" in PAGE
