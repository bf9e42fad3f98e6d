"""Inputs of length methods, and the terms of excluded rows."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from oyer.config.length_methods.catalogue import METHODS
from oyer.protocol.errors import InvalidLengthCall
from oyer.protocol.partial_results import LengthResult
from oyer.protocol.status import Status
from oyer.tasks.lengths import Inputs, compute, pack
from tests.support.length_batches import LENGTHS, shaped

BAND = {"method": "median_band", "peak_ratio": 0.0}
TRUNCATED = [False, False, False, True]


def test_a_masked_truncated_row_is_neutral_and_excluded_from_statistics() -> None:
    methods: list[dict[str, Any]] = [
        {**BAND, "truncated": "mask"},
        {"method": "gr3", "truncated": "mask"},
    ]
    part = shaped(*methods, truncated=TRUNCATED)
    alone = shaped(*methods, n=3)
    assert part.added["length_penalty"].tolist() == [*alone.added["length_penalty"], 0.0]
    assert part.multiplied["gr3"].tolist() == [*alone.multiplied["gr3"], 1.0]
    assert part.kept is not None
    assert part.kept.tolist() == [True, True, True, False]


def test_if_all_rows_are_masked_all_terms_are_neutral() -> None:
    part = shaped({**BAND, "truncated": "mask"}, truncated=[True] * 4)
    assert part.added["length_penalty"].tolist() == [0.0] * 4
    assert part.kept is not None
    assert not part.kept.any()


def test_statistics_of_other_rows_exclude_a_wrong_truncated_row() -> None:
    part = shaped({**BAND, "truncated": "wrong"}, truncated=TRUNCATED)
    alone, together = shaped(BAND, n=3), shaped(BAND)
    expected = [*alone.added["length_penalty"], together.added["length_penalty"][3]]
    assert part.added["length_penalty"].tolist() == expected
    assert part.kept is not None
    assert part.kept.all()


def test_a_wrong_truncated_row_counts_as_wrong_in_the_pass_rate() -> None:
    alp = {"method": "alp", "beta": 1.0, "norm": 100}
    part = shaped({**alp, "truncated": "wrong"}, truncated=TRUNCATED)
    expected = shaped(alp, correct=[True, True, True, False])
    assert part.added["alp"].tolist() == expected.added["alp"].tolist()


def test_correctness_comes_from_the_rollout_the_base_score_or_a_condition() -> None:
    jet = {"method": "jet", "name": "j"}

    def right(**fields: Any) -> list[bool]:
        item = {**jet, **fields.pop("item", {})}
        return [value > 0 for value in shaped(item, **fields).added["j"].tolist()]

    assert right(base_score=[1, 0, -1, 0.5]) == [True, False, False, True]
    stated = [False, True, None, None]
    assert right(correct=stated, base_score=[1, 0, 1, 0]) == [False, True, True, False]
    by_base = {"item": {"correct": "base_score > 0.5"}, "base_score": [1, 0.5, 0, 0.6]}
    assert right(**by_base) == [True, False, False, True]
    by_judge = {"item": {"correct": "judge >= 5"}, "scores": [5.0, 4.9, Status.GATED, 6.0]}
    assert right(**by_judge) == [True, False, False, True]


def test_a_row_of_unknown_correctness_is_excluded() -> None:
    kimi = {"method": "kimi_length_reward", "correct": "judge >= 5"}
    part = shaped(kimi, scores=[6.0, 6.0, 6.0, Status.TIMEOUT])
    alone = shaped(kimi, n=3, scores=[6.0, 6.0, 6.0])
    values = part.added["kimi_length_reward"]
    assert values[:3].tolist() == alone.added["kimi_length_reward"].tolist()
    assert np.isnan(values[3])
    assert part.kept is not None
    assert part.kept.tolist() == [True, True, True, False]


def test_quality_is_the_judge_score_the_base_score_or_their_sum() -> None:
    scores: list[float | Status] = [2.0, 4.0, 9.0, Status.GATED]
    base = [0.5, 1.0, 1.0, 0.0]
    expected = {
        "base_score": base,
        "judge": [2.0, 4.0, 9.0, 1.0],
        "judge:q": [2.0, 4.0, 9.0, 1.0],
        "unshaped_reward": [0.7, 1.4, 1.9, 0.0],
    }
    for source, quality in expected.items():
        part = shaped(
            {"method": "qglas", "quality": source, "name": "a"}, scores=scores, base_score=base
        )
        one_group = Inputs(
            lengths=torch.tensor(LENGTHS),
            group_ids=torch.zeros(4, dtype=torch.int64),
            quality=torch.tensor(quality, dtype=torch.float64),
        )
        alone = compute("qglas", {}, one_group).values.numpy()
        np.testing.assert_allclose(part.advantages["a"], alone, atol=1e-12)


BY_SCORE: dict[str, dict[str, Any]] = {
    "linear": {"scale_by": "reward"},
    "brevity_bonus": {},
    "linear_pass_rate": {},
    "grlc": {"unit": "chars"},
    "length_controlled": {"phi": -1.0, "scale_len": 100.0, "reference_len": 100.0},
    "qglas": {},
    "advantage_reweight": {},
    "gfpo": {"k": 2},
    "gfpo_mask": {"k": 2, "metric": "efficiency"},
    "grpo_lead_advantage": {},
    "gr3": {},
}
"""The methods that look at a score, with parameters under which they do."""


def test_methods_that_need_a_score() -> None:
    shaping = {name: m for name, m in METHODS.items() if m.kind != "measure"}
    by_score = {
        name for name, m in shaping.items() if "quality" in m.columns or "quality>=0" in m.needs
    }
    assert by_score == BY_SCORE.keys()


@pytest.mark.parametrize("name", BY_SCORE)
def test_a_missing_score_does_not_affect_other_rows(name: str) -> None:
    item = {"method": name, "quality": "judge", "name": "x", **BY_SCORE[name]}
    texts = ["ab</think>c", "abcd</think>cd", "abcdef</think>c", "a</think>b"]
    gap: list[float | Status] = [6.0, 8.0, 9.0, Status.TIMEOUT]
    part = shaped(item, scores=gap, responses=texts)
    alone = shaped(item, scores=gap[:3], responses=texts[:3], n=3)
    for kind in ("added", "multiplied", "advantages"):
        for term, values in getattr(alone, kind).items():
            np.testing.assert_allclose(getattr(part, kind)[term][:3], values, atol=1e-12)
    assert part.kept is not None
    assert alone.kept is not None
    assert part.kept.tolist() == [*alone.kept.tolist(), False]


def test_the_failure_policy_applies_to_missing_scores() -> None:
    item = {"method": "qglas", "quality": "judge"}
    gap: list[float | Status] = [6.0, 8.0, 9.0, Status.TIMEOUT]
    part = shaped(item, scores=gap, rules={"on_missing": {"value": 3}})
    whole = shaped(item, scores=[6.0, 8.0, 9.0, 3.0])
    assert part.advantages["qglas"].tolist() == whole.advantages["qglas"].tolist()


def test_a_method_of_the_whole_reward_contributes_its_change() -> None:
    cosine = shaped({"method": "cosine", "max_len": 400, "weight": 0.5}, correct=[True] * 4)
    whole = [1.0 - 0.25 * (1 - np.cos(np.pi * length / 400)) for length in LENGTHS]
    np.testing.assert_allclose(cosine.changed["cosine"], [0.5 * (w - 1) for w in whole])
    effort = {"method": "effort_shaping", "low_ub": 200, "quality": "unshaped_reward"}
    part = shaped(effort, scores=[5.0] * 4)
    shares = [min(1.0, 1 - length / 200) for length in LENGTHS]
    expected = [1.5 * max(s, 0) + min(s, 0) for s in shares]
    np.testing.assert_allclose(part.changed["effort_shaping"], expected)


def test_an_override_of_truncated_rows_replaces_base_score_and_judges() -> None:
    item = {"method": "stop_properly_penalty", "coef": -1.0, "quality": "unshaped_reward"}
    part = shaped(item, scores=[5.0] * 4, truncated=TRUNCATED)
    np.testing.assert_allclose(part.changed["stop_properly_penalty"], [0, 0, 0, -2.5])


def test_a_mask_excludes_rows_and_adds_no_term() -> None:
    part = shaped({"method": "gfpo_mask", "k": 2}, BAND)
    assert part.kept is not None
    assert part.kept.tolist() == [True, True, False, False]
    assert (list(part.added), part.advantages) == (["length_penalty"], {})


def test_an_aggregate_method_combines_all_terms_into_one_advantage() -> None:
    part = shaped(
        {"method": "aggregate", "mode": "sum"},
        {"method": "soft_overlong", "max_len": 200, "cache_len": 100, "weight": 3.0},
        {"method": "gr3"},
        scores=[2.0, 4.0, 6.0, Status.TIMEOUT],
    )
    factor = part.multiplied["gr3"][:3]
    rewards = factor * (1 + np.array([0.2, 0.4, 0.6])) + part.added["soft_overlong"][:3]
    np.testing.assert_allclose(part.advantages["aggregate"][:3], rewards - rewards.mean())
    assert np.isnan(part.advantages["aggregate"][3])


def test_a_gate_affects_the_aggregate_advantage() -> None:
    aggregate = {"method": "aggregate", "mode": "sum", "baseline": "none"}
    part = shaped(aggregate, scores=[5.0, 8.0, 2.0, 9.0], rules={"zero_unless": "judge > 4"})
    np.testing.assert_allclose(part.advantages["aggregate"], [1.5, 1.8, 0, 1.9])


def test_repetition_uses_token_ids_if_all_rows_have_them_else_words() -> None:
    ids = [[1, 2, 3, 1, 2, 3], [1, 2, 3, 4, 5, 6]]
    texts = ["a a a a a a", "a b c d e f"]
    item = {"method": "repetition", "ngram_size": 1}
    by_ids = shaped(item, n=2, ids=ids)
    np.testing.assert_allclose(by_ids.added["repetition"], [-0.5, 0])
    by_words = shaped(item, n=2, responses=texts)
    np.testing.assert_allclose(by_words.added["repetition"], [-5 / 6, 0])


def test_only_token_ids_of_included_rows_are_passed() -> None:
    rows = [[1, 1, 1], [2, 2, 3], [4, 5, 6], [7, 7, 8]]
    item = {"method": "repetition", "ngram_size": 1, "truncated": "mask"}
    part = shaped(item, ids=rows, truncated=[True, False, True, False])
    expected = compute("repetition", {"ngram_size": 1}, Inputs(token_ids=pack(rows))).values
    np.testing.assert_allclose(part.added["repetition"], [0, expected[1], 0, expected[3]])


def test_an_excluded_row_keeps_its_history() -> None:
    hapo = {"method": "hapo", "truncated": "mask", "columns": {"history_lengths": "metadata.h"}}
    part = shaped(
        hapo,
        group_ids=["a", "a", "b", "b"],
        truncated=TRUNCATED,
        metadata={"h": [105, 105, None, 500]},
    )
    np.testing.assert_array_equal(part.history["hapo"], [100, 100, 120, 500])


def test_an_input_that_only_scores_show_missing_is_refused() -> None:
    with pytest.raises(InvalidLengthCall, match=r"gr3 needs `quality` of at least 0"):
        shaped({"method": "gr3", "quality": "unshaped_reward"}, base_score=[-3.0] * 4)


def test_length_results_survive_encoding() -> None:
    part = shaped(BAND, {"method": "gr3"}, {"method": "cosine"}, {"method": "gfpo_mask", "k": 1})
    read = LengthResult.from_wire(part.to_wire())
    for field in dataclasses.fields(LengthResult):
        sent, got = getattr(part, field.name), getattr(read, field.name)
        np.testing.assert_equal(got, sent)


def test_no_term_is_negative_zero() -> None:
    values = shaped({"method": "median_band"}).added["length_penalty"]
    assert values.tolist() == [0.0, 0.0, 0.0, -1.0]
    assert np.signbit(values).tolist() == [False, False, False, True]
