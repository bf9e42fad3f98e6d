"""The embedded backend on a host with a GPU."""

import os
from pathlib import Path

import pytest

from oyer.manager import RewardManager, Rollout
from tests.support.devices import GPUS

LENGTH = [{"method": "median_band"}, {"method": "repetition", "unit": "token_ids"}]


def rollouts(count: int) -> list[Rollout]:
    return [
        Rollout(
            prompt="p",
            response="r",
            group_id=f"g{i // 8}",
            base_score=1.0,
            token_ids=[j % (3 + i % 50) for j in range(100 + 37 * (i % 8))],
        )
        for i in range(count)
    ]


def terms(folder: Path) -> tuple[str, dict[str, list[float]]]:
    """Score rollouts in a backend of its own; returns the length worker's line, and the terms."""
    parts: dict[str, str] = {}
    config = {"length": LENGTH, "store": {"url": f"sqlite:///{folder}/record.db"}}
    with RewardManager.local(config, judge_processes=1, report=parts.__setitem__) as manager:
        batch = manager.submit(rollouts(256)).result(timeout_s=60)
    return parts["length-1"], {name: values.tolist() for name, values in batch.terms.items()}


@pytest.mark.gpu
@pytest.mark.skipif(not GPUS, reason="no CUDA device")
def test_the_length_worker_computes_on_the_gpu_what_it_computes_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    on_gpu, found = terms(tmp_path)
    assert torch.cuda.get_device_name(GPUS[0]) in on_gpu
    (tmp_path / "record.db").unlink()
    monkeypatch.setitem(os.environ, "CUDA_VISIBLE_DEVICES", "")
    on_cpu, expected = terms(tmp_path)
    assert on_cpu.endswith("on cpu")
    assert found.keys() == expected.keys()
    assert any(value < 0 for value in found["repetition"])
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-9, abs=1e-12)
