"""Batches in a file store and a SQLite store of MLflow, read back with its client."""

import json
from pathlib import Path

import mlflow
import pytest

from oyer.manager import InvalidInput, RewardBatch, tracking


def test_metrics_and_table_are_in_the_run(batch: RewardBatch, offline: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{offline / 'mlflow.db'}")
    mlflow.create_experiment("e", artifact_location=(offline / "artifacts").as_uri())
    mlflow.set_experiment("e")
    with mlflow.start_run() as run:
        tracking.log(batch, to="mlflow", step=3, sample=4)
    tracking.log(batch, to=run, step=4, sample=0)
    client = mlflow.MlflowClient()
    assert client.get_run(run.info.run_id).data.metrics == pytest.approx(batch.metrics())
    steps = [one.step for one in client.get_metric_history(run.info.run_id, "oyer/quality")]
    assert steps == [3, 4]
    (file,) = (offline / "artifacts").rglob("samples_*.json")
    assert file.name == "samples_00000003.json"
    table = json.loads(file.read_text())
    assert len(table["data"]) == 4
    assert table["columns"][-1] == "reason"


def test_without_a_run_the_error_says_what_to_call(batch: RewardBatch, offline: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{offline / 'mlflow.db'}")
    with pytest.raises(InvalidInput, match=r"call mlflow\.start_run"):
        tracking.log(batch, to="mlflow")
