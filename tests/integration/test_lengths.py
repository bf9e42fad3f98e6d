"""Length methods in whole batches: in parallel with the judges, after them, and on every input."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action, named
from oyer.manager import BatchFailed, RewardBatch, RewardManager, Rollout
from oyer.tasks.lengths.tokens import count_tokens
from tests.integration.test_main_job import band, read
from tests.support.rollouts import rollouts_of

Sibling = Callable[..., RewardManager]

LENGTHS = [100, 110, 120, 130, 140, 150, 160, 170]
"""Of `rollouts_of`, in two groups of four."""


def by_number(judge: JudgeServer, *scores: int | str) -> None:
    """Let the judge give each of the numbered rollouts its score, or fail on it."""

    def plan(arrival: Any) -> Action:
        text = "\n".join(content for _, content in arrival.messages())
        number = int(text.partition("the answer number ")[2].split()[0])
        score = scores[number % len(scores)]
        return named(score) if isinstance(score, str) else Action(text=f"Final score: {score}")

    judge.set_plan(plan)


def scored(manager: RewardManager, rollouts: list[Rollout]) -> RewardBatch:
    return manager.submit(rollouts, run="lengths").result(timeout_s=60)


def penalty(i: int) -> float:
    group = LENGTHS[i // 4 * 4 : i // 4 * 4 + 4]
    return band(LENGTHS[i], group)


def test_weighted_methods_add_up_and_a_multiplier_takes_base_score_and_judge(
    sibling: Sibling, judge: JudgeServer
) -> None:
    by_number(judge, 5)
    manager = sibling(
        length=[
            {"method": "median_band", "weight": 0.5, "peak_ratio": 0.0, "outer_ratio": 0.5},
            {
                "method": "soft_overlong",
                "max_len": 160,
                "cache_len": 40,
                "weight": 2,
                "name": "long",
            },
            {"method": "gr3", "alpha": 0.5},
        ]
    )
    batch = scored(manager, rollouts_of("weights"))
    for i, length in enumerate(LENGTHS):
        group = LENGTHS[i // 4 * 4 : i // 4 * 4 + 4]
        middle, mean = float(np.median(group)), float(np.mean(group))
        terms = {
            "base_score": 1.0,
            "judge": 0.5,
            "length_penalty": -0.5 * min(1.0, abs(length - middle) / middle / 0.5),
            "long": -2.0 * min(1.0, max(0.0, (length - 120) / 40)),
            "gr3": 1 / (1 + 0.5 * length / mean),
        }
        assert {name: term[i] for name, term in batch.terms.items()} == pytest.approx(terms)
        expected = terms["gr3"] * 1.5 + terms["length_penalty"] + terms["long"]
        assert batch.rewards[i] == pytest.approx(expected)
    np.testing.assert_allclose(batch.unshaped_rewards, [1.5] * 8)
    assert batch.advantages == {}


def test_methods_that_need_the_judge_see_its_scores_and_leave_failures_out(
    sibling: Sibling, judge: JudgeServer
) -> None:
    by_number(judge, 8, 3, "not_found", 9, 7, 7, 2, 7)
    manager = sibling(
        length=[
            {"method": "kimi_length_reward", "correct": "judge >= 6"},
            {"method": "qglas", "quality": "judge", "name": "adv"},
        ]
    )
    batch = scored(manager, rollouts_of("after"))
    # Of 100, 110, 130 the first and last are right; 120 has no verdict and does not count.
    kimi = [0.5, min(0.0, 0.5 - 1 / 3), math.nan, -0.5, 0.5, 0.5 - 1 / 3, min(0, 0.5 - 2 / 3), -0.5]
    np.testing.assert_allclose(batch.terms["kimi_length_reward"], kimi, atol=1e-6)
    assert batch.statuses[2] == "rejected"
    assert np.isnan(batch.rewards[2])
    assert batch.mask.tolist() == [True, True, False] + [True] * 5
    known = [i for i in range(8) if i != 2]
    expected = [1 + 0.1 * batch.judge_scores[i] + kimi[i] for i in known]
    np.testing.assert_allclose(batch.rewards[known], expected, atol=1e-6)
    # QGLAS eqs. 1-8 on the scores 8, 3, 9: advantages 4/3, -11/3, 7/3, mean length of the winners
    # 115, scores' range and 25th percentile 9 and 5.5, winners' range 1.
    weight = 3.5 * (0.3 + 0.3 * (1 - 1 / 3.5))
    saving = (115 - 100) / 115 / 0.5
    np.testing.assert_allclose(
        batch.advantages["adv"][:4], [4 / 3 + weight * saving, -11 / 3, math.nan, 7 / 3], atol=1e-5
    )
    rows = read(manager, "SELECT terms FROM rewards WHERE batch_id = :id", id=batch.id)
    assert len(rows) == 8
    assert all("advantage:adv" in str(row["terms"]) for row in rows)


def test_a_rollout_that_is_not_judged_for_its_base_score_is_wrong_and_stays_trainable(
    sibling: Sibling, judge: JudgeServer
) -> None:
    by_number(judge, 8)
    manager = sibling(length={"method": "sigmoid_length", "correct": "judge >= 1"})
    rollouts = [*rollouts_of("half", 2), *rollouts_of("half", 4, base_score=0.0)[2:]]
    batch = scored(manager, rollouts)
    assert batch.statuses == ["scored", "scored", "gated", "gated"]
    np.testing.assert_array_equal(batch.terms["sigmoid_length"][2:], [0, 0])
    assert (batch.terms["sigmoid_length"][:2] > 0.8).all()
    assert batch.mask.all()


def test_terms_together_become_advantages(sibling: Sibling, judge: JudgeServer) -> None:
    by_number(judge, 4, 6, 8, 10)
    manager = sibling(
        length=[{"method": "median_band", "peak_ratio": 0, "weight": 2.0}, {"method": "gdpo"}]
    )
    batch = scored(manager, rollouts_of("gdpo", 4))
    columns = [batch.terms["judge"], batch.terms["length_penalty"]]
    scores = [(c - c.mean()) / c.std(ddof=1) for c in columns]
    total = sum(scores)
    expected = (total - total.mean()) / total.std(ddof=1)
    np.testing.assert_allclose(batch.advantages["gdpo"], expected, atol=1e-5)
    assert set(batch.terms) == {"base_score", "judge", "length_penalty"}


def test_a_score_that_a_method_cannot_take_ends_the_batch_with_the_reason(
    sibling: Sibling, judge: JudgeServer
) -> None:
    by_number(judge, 1)
    strict = {"name": "q", "endpoint": "fake", "model": "m", "weight": -2.0}
    manager = sibling(judges=[strict], length={"method": "gr3", "quality": "unshaped_reward"})
    future = manager.submit(rollouts_of("negative", 4))
    with pytest.raises(BatchFailed, match=r"gr3 needs `quality` of at least 0"):
        future.result(timeout_s=60)


def distinct_share(ids: list[int], n: int) -> float:
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams)


@pytest.mark.parametrize("as_array", [False, True])
def test_repetition_of_token_ids_is_counted_as_python_sets_count_it(
    sibling: Sibling, as_array: bool
) -> None:
    rng = np.random.default_rng(7)
    rows = [rng.integers(0, int(k), 400).tolist() for k in (3, 9, 40, 150_000)] * 40
    manager = sibling(judges=[], length={"method": "repetition", "unit": "token_ids"})
    rollouts = rollouts_of(f"ids-{as_array}", len(rows))
    given: list[Any] = [np.array(ids, dtype=np.int64) for ids in rows] if as_array else rows
    batch = scored(
        manager,
        [
            Rollout(
                prompt=rollout.prompt,
                response=rollout.response,
                group_id=rollout.group_id,
                base_score=1.0,
                token_ids=ids,
            )
            for rollout, ids in zip(rollouts, given, strict=True)
        ],
    )
    expected = [distinct_share(ids, 3) - 1 for ids in rows]
    np.testing.assert_allclose(batch.terms["repetition"], expected, atol=1e-6)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tokenizer with one token per word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tokenizer")
    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(folder)
    return str(folder)


def test_the_tokenizer_counts_responses_without_a_token_count(
    sibling: Sibling, tokenizer: str
) -> None:
    overlong = {"method": "soft_overlong", "max_len": 10, "cache_len": 10}
    manager = sibling(
        judges=[],
        tokenizer=tokenizer,
        length=[
            {**overlong, "name": "whole"},
            {**overlong, "name": "thinking", "part": "think"},
            {**overlong, "name": "answer", "part": "answer"},
            {**overlong, "name": "bytes", "part": "answer", "unit": "bytes"},
        ],
    )
    response = "<think> a b c d </think> eins zwei drölf"
    counts = [None, 3]
    batch = scored(
        manager,
        [
            Rollout(prompt="p", response=response, base_score=1.0, response_tokens=count)
            for count in counts
        ],
    )
    np.testing.assert_allclose(batch.terms["whole"], [-0.9, -0.3])
    np.testing.assert_allclose(batch.terms["thinking"], [-0.4, -0.4])
    np.testing.assert_allclose(batch.terms["answer"], [-0.3, -0.3])
    np.testing.assert_allclose(batch.terms["bytes"], [-1.0, -1.0])


def test_a_tokenizers_folder_may_begin_with_the_home_folder(
    tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(tokenizer)
    monkeypatch.setenv("HOME", str(folder.parent))
    assert count_tokens(["a b c"], tokenizer=f"~/{folder.name}") == [3]


def truncated_batch(sibling: Sibling, policy: str) -> RewardBatch:
    manager = sibling(
        judges=[],
        length=[
            {"method": "median_band", "peak_ratio": 0.0, "truncated": policy},
            {"method": "kimi_length_reward", "truncated": policy},
        ],
    )
    rollouts = [
        Rollout(
            prompt="p",
            response=f"{policy} {length}",
            group_id="g",
            correct=True,
            response_tokens=length,
            truncated=length == 900,
        )
        for length in (100, 110, 120, 900)
    ]
    return scored(manager, rollouts)


def test_truncated_rollouts_follow_the_configured_policy(sibling: Sibling) -> None:
    as_is, mask, wrong = (truncated_batch(sibling, p) for p in ("as_is", "mask", "wrong"))
    around_110 = [-2 * 10 / 110, 0, -2 * 10 / 110]
    around_115 = [-2 * 15 / 115, -2 * 5 / 115, -2 * 5 / 115, -1]
    np.testing.assert_allclose(as_is.terms["length_penalty"], around_115, atol=1e-6)
    np.testing.assert_allclose(mask.terms["length_penalty"], [*around_110, 0], atol=1e-6)
    np.testing.assert_allclose(wrong.terms["length_penalty"], [*around_110, -1], atol=1e-6)
    kimi = [0.5, 0.5 - 1 / 80, 0.5 - 2 / 80, -0.5]
    np.testing.assert_allclose(as_is.terms["kimi_length_reward"], kimi, atol=1e-6)
    np.testing.assert_allclose(mask.terms["kimi_length_reward"], [0.5, 0, -0.5, 0], atol=1e-6)
    np.testing.assert_allclose(wrong.terms["kimi_length_reward"], kimi, atol=1e-6)
    assert as_is.mask.all()
    assert wrong.mask.all()
    assert mask.mask.tolist() == [True, True, True, False]


def test_targets_and_histories_come_from_metadata_and_the_new_history_comes_back(
    sibling: Sibling,
) -> None:
    manager = sibling(
        judges=[],
        length=[
            {
                "method": "lcpo_exact",
                "alpha": 0.01,
                "columns": {"target_lengths": "metadata.budget"},
            },
            {"method": "hapo"},
        ],
    )
    rollouts = [
        Rollout(
            prompt="p",
            response=f"metadata {length}",
            group_id="g",
            correct=length != 90,
            response_tokens=length,
            metadata={"budget": 100, "history_lengths": history},
        )
        for length, history in ((90, 200), (100, 200), (130, 200))
    ]
    batch = scored(manager, rollouts)
    np.testing.assert_allclose(batch.terms["lcpo_exact"], [-0.1, 0, -0.3], atol=1e-6)
    np.testing.assert_array_equal(batch.history["hapo"], [100, 100, 100])
    cosine = [0, math.cos(math.pi / 4), math.cos(math.pi / 2 * 0.65)]
    np.testing.assert_allclose(batch.terms["hapo"], cosine, atol=1e-6)
