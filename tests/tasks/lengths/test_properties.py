"""Properties of every batch: order, group labels, precision, and each formula's guarantees."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oyer.tasks.lengths import Inputs, PackedTokens, compute
from tests.support.devices import GPUS
from tests.support.length_inputs import BY_ROW, NEEDED, SHAPING, make_batch, pick

BATCHES = st.builds(make_batch, st.integers(1, 4), st.integers(1, 5), st.integers(0, 10_000))

CLOSE: dict[str, Any] = {"rel": 1e-9, "abs": 1e-12}


def values(name: str, inputs: Inputs, **params: Any) -> list[float]:
    found: list[float] = compute(name, {**NEEDED.get(name, {}), **params}, inputs).values.tolist()
    return found


@settings(deadline=None, max_examples=8)
@given(BATCHES, st.randoms(use_true_random=False))
@pytest.mark.parametrize("name", BY_ROW)
def test_permuted_rows_permute_the_values(name: str, inputs: Inputs, random: Any) -> None:
    assert inputs.lengths is not None
    order = list(range(len(inputs.lengths)))
    random.shuffle(order)
    permuted = values(name, pick(inputs, torch.tensor(order)))
    plain = values(name, inputs)
    assert permuted == pytest.approx([plain[i] for i in order], **CLOSE)


@settings(deadline=None, max_examples=5)
@given(BATCHES)
@pytest.mark.parametrize("name", BY_ROW)
def test_group_labels_do_not_matter(name: str, inputs: Inputs) -> None:
    assert inputs.group_ids is not None
    renamed = replace(inputs, group_ids=1000 - 13 * inputs.group_ids)
    assert values(name, renamed) == pytest.approx(values(name, inputs), **CLOSE)


@pytest.mark.parametrize("name", BY_ROW)
def test_values_are_float64_and_no_step_is_single_precision(name: str) -> None:
    inputs = make_batch(6, 7)
    term = compute(name, NEEDED.get(name, {}), inputs)
    real: dict[str, Any] = {
        field.name: column.double()
        for field in fields(inputs)
        if isinstance(column := getattr(inputs, field.name), Tensor)
        and column.dtype == torch.int64
        and field.name != "group_ids"
    }
    assert term.values.dtype == torch.float64
    assert len(term.values) == 42
    again = values(name, replace(inputs, **real))
    assert term.values.tolist() == pytest.approx(again, rel=1e-14, abs=1e-14)


@pytest.mark.parametrize("name", SHAPING)
def test_numpy_and_torch_give_the_same_values_each_in_its_own_arrays(name: str) -> None:
    batch = make_batch(6, 7)
    arrays: dict[str, Any] = {
        field.name: column.numpy()
        for field in fields(batch)
        if isinstance(column := getattr(batch, field.name), Tensor)
    }
    params = NEEDED.get(name, {})
    tensors, plain = compute(name, params, batch), compute(name, params, replace(batch, **arrays))
    assert isinstance(tensors.values, Tensor)
    assert isinstance(plain.values, np.ndarray)
    assert plain.values.dtype == np.float64
    assert plain.values.tolist() == pytest.approx(tensors.values.tolist(), **CLOSE)
    assert (plain.history is None) == (tensors.history is None)


@pytest.mark.parametrize("name", BY_ROW)
def test_inputs_are_not_modified(name: str) -> None:
    inputs, twin = make_batch(), make_batch()
    compute(name, NEEDED.get(name, {}), inputs)
    for field in fields(inputs):
        column, other = getattr(inputs, field.name), getattr(twin, field.name)
        if isinstance(column, PackedTokens):
            column, other = column.ids, other.ids
        if isinstance(column, Tensor):
            assert torch.equal(column.nan_to_num(-1), other.nan_to_num(-1))


@settings(deadline=None, max_examples=25)
@given(BATCHES, st.integers(1, 9), st.integers(0, 500))
@pytest.mark.parametrize("name", ["kimi_length_reward", "sigmoid_length", "grpo_lead", "jet"])
def test_shift_and_scale_of_lengths_cancel(
    name: str, inputs: Inputs, scale: int, shift: int
) -> None:
    assert inputs.lengths is not None
    moved = replace(inputs, lengths=scale * inputs.lengths + shift)
    assert values(name, moved) == pytest.approx(values(name, inputs), rel=1e-7, abs=1e-9)


@settings(deadline=None, max_examples=25)
@given(BATCHES, st.integers(1, 9))
@pytest.mark.parametrize("name", ["median_band", "gr3", "brevity_bonus", "lc_r1_length"])
def test_scale_of_lengths_cancels(name: str, inputs: Inputs, scale: int) -> None:
    assert inputs.lengths is not None
    scaled = replace(inputs, lengths=scale * inputs.lengths)
    assert values(name, scaled) == pytest.approx(values(name, inputs), **CLOSE)


@settings(deadline=None, max_examples=25)
@given(BATCHES)
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("median_band", -1, 0),
        ("soft_overlong", -1, 0),
        ("linear", -0.25, 0),
        ("target_range", -1, 0),
        ("kimi_length_reward", -0.5, 0.5),
        ("short_rl", -0.5, 0.5),
        ("sigmoid_length", 0, 1),
        ("gr3", 0, 1),
        ("brevity_bonus", 1, 2),
        ("lcpo_max", 0, 1),
        ("jet", 0, 1.19),
        ("cosine", -1, 1),
        ("dast", -1, 1),
        ("hapo", -1, 1),
        ("o1_pruner", -2, 4),
        ("laser_de", -0.5, 0.5),
        ("repetition", -1, 0),
        ("shorterbetter", -999, 2),
        ("length_controlled", -1, 1),
    ],
)
def test_values_stay_in_their_range(name: str, low: float, high: float, inputs: Inputs) -> None:
    found = values(name, inputs)
    assert low <= min(found)
    assert max(found) <= high


@settings(deadline=None, max_examples=25)
@given(BATCHES)
@pytest.mark.parametrize("name", ["qglas", "advantage_reweight", "grpo_lead_advantage"])
def test_reshaped_advantages_keep_their_sign(name: str, inputs: Inputs) -> None:
    assert inputs.quality is not None
    given_ = replace(inputs, advantages=None)
    mean = compute(
        "aggregate", {"mode": "sum"}, replace(inputs, components=inputs.quality[:, None])
    )
    assert torch.equal(torch.tensor(values(name, given_)).sign(), mean.values.sign().float())


@settings(deadline=None, max_examples=25)
@given(BATCHES)
def test_reweighted_advantages_keep_the_sum_of_each_group(inputs: Inputs) -> None:
    assert inputs.advantages is not None
    assert inputs.group_ids is not None
    found = compute("advantage_reweight", {"tau": 0.0}, inputs).values
    for group in inputs.group_ids.unique(sorted=True):
        rows = inputs.group_ids == group
        assert float(found[rows].sum()) == pytest.approx(float(inputs.advantages[rows].sum()))


@settings(deadline=None, max_examples=25)
@given(BATCHES, st.integers(1, 6))
def test_gfpo_keeps_k_rows_of_each_group(inputs: Inputs, k: int) -> None:
    assert inputs.group_ids is not None
    kept = compute("gfpo_mask", {"k": k}, inputs)
    assert kept.kind == "mask"
    for group in inputs.group_ids.unique(sorted=True):
        rows = inputs.group_ids == group
        assert int(kept.values[rows].sum()) == min(k, int(rows.sum()))


def test_special_cases_of_linear_are_the_methods_they_replace() -> None:
    inputs = make_batch()
    alp = values("linear", inputs, norm=1000, coef=0.1, scale_by="pass_rate", pass_rate_floor="1/K")
    assert alp == pytest.approx(values("alp", inputs))
    leash = values("linear", inputs, norm=300, coef=0.3, free_len=300)
    assert leash == pytest.approx(values("lagrangian_over_budget", inputs, target=300))
    prime = values("linear", inputs, norm=8192, scale_by="reward")
    assert prime == pytest.approx(values("linear_pass_rate", inputs, norm="max_seq_len"))


def test_a_frozen_bias_is_removed_from_a_score() -> None:
    logit = torch.tensor([-1.0, 0.2, 2.0], dtype=torch.float64)
    lengths = torch.tensor([100, 400, 900])
    bias = -1.5 * torch.tanh((400 - lengths.double()) / 300)
    inputs = Inputs(lengths=lengths, quality=1 + 9 * torch.sigmoid(logit + bias))
    term = compute(
        "length_controlled", {**NEEDED["length_controlled"], "low": 1, "high": 10}, inputs
    )
    assert inputs.quality is not None
    fair = 1 + 9 * torch.sigmoid(logit)
    assert (inputs.quality + term.values).tolist() == pytest.approx(fair.tolist())


@pytest.mark.gpu
@pytest.mark.parametrize("name", SHAPING)
def test_a_gpu_gives_the_values_of_the_cpu(name: str) -> None:
    if not GPUS:
        pytest.skip("no CUDA device")
    inputs = make_batch(50, 8)
    moved: dict[str, Any] = {}
    for field in fields(inputs):
        column = getattr(inputs, field.name)
        if isinstance(column, Tensor):
            moved[field.name] = column.cuda()
        elif isinstance(column, PackedTokens):
            ids, offsets = torch.from_numpy(column.ids), torch.from_numpy(column.cu_seqlens)
            moved[field.name] = PackedTokens(ids.cuda(), offsets.cuda())
    term = compute(name, NEEDED.get(name, {}), replace(inputs, **moved))
    assert term.values.device.type == "cuda"
    assert term.values.tolist() == pytest.approx(values(name, inputs), **CLOSE)
