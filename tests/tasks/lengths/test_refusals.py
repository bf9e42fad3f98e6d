"""A call with a missing or invalid input is refused with the reason."""

from dataclasses import replace

import pytest
import torch

from oyer.config.length_methods.catalogue import METHODS
from oyer.protocol.errors import InvalidConfig, InvalidLengthCall
from oyer.tasks.lengths import Inputs, compute, evaluate, pack
from tests.support.length_inputs import NEEDED, SHAPING, make_batch


@pytest.mark.parametrize(
    ("name", "need"),
    [(name, need) for name in SHAPING for need in sorted(METHODS[name].needs) if "|" not in need],
)
def test_a_missing_column_is_named(name: str, need: str) -> None:
    column = need.partition(">=")[0]
    dropped = {column: None, **({"base_reward": None} if column == "quality" else {})}
    with pytest.raises(InvalidLengthCall, match=rf"{name} needs `{column}`"):
        compute(name, NEEDED.get(name, {}), replace(make_batch(), **dropped))


def test_either_of_two_columns_is_enough_and_both_are_named() -> None:
    inputs = replace(make_batch(), token_ids=None)
    assert compute("repetition", {}, inputs).values.shape == (20,)
    with pytest.raises(InvalidLengthCall, match=r"repetition needs `token_ids` or `texts`"):
        compute("repetition", {}, replace(inputs, texts=None))


def test_gr3_refuses_a_negative_score() -> None:
    inputs = {"lengths": [10, 20], "base_reward": [1.0, -0.5], "group_ids": [0, 0]}
    with pytest.raises(InvalidLengthCall, match=r"gr3 needs `quality` of at least 0.*\[0, 1\]"):
        evaluate("gr3", {}, inputs)


def test_gr3_accepts_a_missing_score() -> None:
    inputs = {"lengths": [10, 10, 20], "base_reward": [1.0, None, 0.5], "group_ids": [0, 0, 0]}
    assert evaluate("gr3", {}, inputs)[1] == 0.0


@pytest.mark.parametrize("name", ["gr3", "median_band", "gdpo", "linear"])
def test_an_incomplete_group_is_refused(name: str) -> None:
    inputs = replace(make_batch(4, 5), group_size=5)
    assert compute(name, {}, inputs).values.shape == (20,)
    assert inputs.group_ids is not None
    ids = inputs.group_ids.clone()
    ids[0] = 99
    with pytest.raises(InvalidLengthCall, match=rf"{name} needs groups of 5 rows; 2 of 5 groups"):
        compute(name, {}, replace(inputs, group_ids=ids))


def test_a_method_without_groups_ignores_the_group_size() -> None:
    inputs = Inputs(lengths=torch.tensor([3, 4]), group_size=8)
    assert compute("soft_overlong", {}, inputs).values.tolist() == [0.0, 0.0]


def test_a_group_size_is_checked_on_plain_lists() -> None:
    rewards = {"rewards_per_func": [[1.0], [2.0], [3.0]], "group_ids": [0, 0, 1]}
    with pytest.raises(InvalidLengthCall, match=r"groups of 2 rows; 1 of 2 groups"):
        evaluate("trl_aggregate", {"num_generations": 2}, rewards)


def test_columns_of_different_lengths_are_refused() -> None:
    inputs = {"lengths": [1, 2, 3], "correct": [1, 1], "group_ids": [0, 0, 0]}
    with pytest.raises(InvalidLengthCall, match=r"correct 2, group_ids 3, lengths 3"):
        evaluate("kimi_length_reward", {}, inputs)


def test_a_negative_token_id_is_refused() -> None:
    with pytest.raises(InvalidLengthCall, match=r"token_ids: an id is negative"):
        compute("repetition", {}, Inputs(token_ids=pack([[1, -100, 2]])))


def test_words_are_not_counted_in_token_ids() -> None:
    inputs = Inputs(token_ids=pack([[1, 2, 3]]))
    with pytest.raises(InvalidLengthCall, match=r"repetition needs `texts`"):
        compute("repetition", {"unit": "words"}, inputs)


def test_an_unknown_method_and_an_unknown_parameter_are_refused() -> None:
    with pytest.raises(InvalidConfig, match=r"'gr4' is not a length method; did you mean `gr3`"):
        evaluate("gr4", {}, {"lengths": [1]})
    with pytest.raises(InvalidConfig, match=r"gr3: tau: unknown key"):
        compute("gr3", {"tau": 2}, make_batch())
