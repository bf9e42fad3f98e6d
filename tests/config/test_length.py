"""A method's parameters are separated from common keys; invalid settings are refused by key."""

from typing import Any

import pytest

from oyer.config.length import LengthConfig, term_names
from oyer.config.length_methods import catalogue
from oyer.config.loading import validate
from oyer.config.reward import RewardConfig, plan_of
from oyer.protocol.errors import InvalidConfig

JUDGE = {"name": "q", "endpoint": "e", "model": "m"}


def config(*length: Any, judges: Any = (JUDGE,), **keys: Any) -> RewardConfig:
    return validate({"judges": list(judges), "length": list(length), **keys})


def method(name: str, **keys: Any) -> LengthConfig:
    return config({"method": name, **keys}).length[0]


@pytest.mark.parametrize("nested", [False, True])
def test_parameters_are_beside_the_method_or_in_params(nested: bool) -> None:
    own = {"max_len": 100, "cache_len": 10}
    keys: dict[str, Any] = {"params": own} if nested else own
    item = method("soft_overlong", weight=2, **keys)
    assert item.params == {"max_len": 100, "cache_len": 10, "penalty_factor": 1.0, "clamp": True}
    assert item.weight == 2


def test_a_key_that_is_also_a_parameter_is_the_parameter() -> None:
    kimi, repetition = method("kimi_length_reward", weight=0.4), method("repetition", unit="words")
    assert (kimi.weight, kimi.params["weight"]) == (1.0, 0.4)
    assert (repetition.unit, repetition.params["unit"]) == ("tokens", "words")


def test_methods_with_a_parameter_named_like_a_common_key() -> None:
    shared = {
        (name, key)
        for name, found in catalogue.METHODS.items()
        for key in found.params.model_fields.keys() & LengthConfig.model_fields.keys()
    }
    assert shared == {
        ("kimi_length_reward", "weight"),
        ("diet_token_score", "weight"),
        ("repetition", "unit"),
        ("repetition_penalty", "unit"),
    }


def test_a_plan_keeps_the_length_methods() -> None:
    sent = config(
        {"method": "kimi_length_reward", "weight": 0.4, "correct": "judge >= 6"},
        {"method": "grlc", "unit": "bytes", "quality": "judge:q", "think": {"close": "</t>"}},
        {"method": "lcpo_max", "columns": {"target_lengths": "metadata.t"}, "name": "target"},
    )
    assert RewardConfig.model_validate(plan_of(sent)).length == sent.length


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"method": "gr3", "alpah": 1}, "length[0].alpah: unknown key; did you mean `alpha`?"),
        ({"method": "gr4"}, "'gr4' is not a length method; did you mean `gr3`"),
        ({"method": "gr3", "params": {}, "alpha": 1}, "length[0].alpha: unknown key"),
        ({"method": "gr3", "weight": 2}, "weight: gr3 has values of kind 'multiply'"),
        ({"method": "qglas", "weight": 2}, "weight: qglas has values of kind 'advantage'"),
        ({"method": "repetition_dense"}, "method: repetition_dense gives a value to each token"),
        ({"method": "length_controlled_winrate"}, "measures and shapes no reward"),
        ({"method": "gr3", "correct": "judge > 3"}, "correct: gr3 does not use correctness"),
        (
            {"method": "median_band", "quality": "judge"},
            "quality: median_band does not use a score",
        ),
        ({"method": "effort_shaping", "quality": "judge"}, "`base_score` or `unshaped_reward`"),
        ({"method": "jet", "correct": "judge"}, "length[0].correct: 'judge' is not a condition"),
        (
            {"method": "gr3", "quality": "judges"},
            "length[0].quality: must be `base_score`, `judge`, `judge:<name>` or `unshaped_reward`",
        ),
        ({"method": "gr3", "quality": "judge:x"}, "length[0].quality: no judge is called 'x'"),
        ({"method": "jet", "correct": "judge:x > 1"}, "length[0].correct: no judge is called 'x'"),
        ({"method": "gr3", "unit": "words"}, "length[0].unit: must be 'tokens'"),
        ({"method": "gr3", "name": "judge"}, "length[0].name: 'judge' is taken"),
        (
            {"method": "lcpo_max", "columns": {"turns": "metadata.t"}},
            "columns.turns: is not an input of lcpo_max that metadata can give (inputs: target_lengths)",
        ),
        (
            {"method": "lcpo_max", "columns": {"target_lengths": "t"}},
            "columns.target_lengths: must be `metadata.<key>`",
        ),
    ],
)
def test_an_invalid_method_is_refused_by_key(item: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        config(item)
    assert message in str(caught.value)


def test_scores_of_judges_need_a_judge() -> None:
    with pytest.raises(InvalidConfig, match=r"length\[0\]\.quality: 'judge' needs a judge"):
        config({"method": "gr3", "quality": "judge"}, judges=[])
    config({"method": "gr3", "quality": "unshaped_reward"}, judges=[])


def test_a_scale_below_zero_is_refused_for_multiplying_methods() -> None:
    signed = {**JUDGE, "scale": [-5, 5]}
    with pytest.raises(InvalidConfig, match=r"scale of judge 'q' begins at -5; set `normalize"):
        config({"method": "gr3", "quality": "judge"}, judges=[signed])
    config({"method": "gr3", "quality": "judge"}, judges=[{**signed, "normalize": True}])


def test_two_methods_cannot_both_make_the_whole_reward() -> None:
    with pytest.raises(InvalidConfig, match=r"length\[1\]\.method: dast and cosine each make"):
        config({"method": "cosine"}, {"method": "dast"})


def test_terms_are_named_by_method_and_number_or_by_name() -> None:
    items = config(
        {"method": "median_band"},
        {"method": "soft_overlong"},
        {"method": "median_band"},
        {"method": "soft_overlong", "name": "hard"},
    ).length
    assert term_names(items) == ["length_penalty", "soft_overlong", "length_penalty_2", "hard"]
    with pytest.raises(InvalidConfig, match=r"length\[1\]\.name: 'gr3' is taken"):
        config({"method": "gr3"}, {"method": "soft_overlong", "name": "gr3"})


@pytest.mark.parametrize(
    ("item", "follows"),
    [
        ({"method": "median_band"}, False),
        ({"method": "gr3"}, False),
        ({"method": "gr3", "quality": "judge"}, True),
        ({"method": "gr3", "quality": "unshaped_reward"}, True),
        ({"method": "jet", "correct": "base_score > 0"}, False),
        ({"method": "jet", "correct": "judge:q > 5"}, True),
        ({"method": "gdpo"}, True),
    ],
)
def test_lengths_follow_the_judges_only_if_they_need_scores(
    item: dict[str, Any], follows: bool
) -> None:
    assert config({"method": "soft_overlong"}, item).length_follows_judges is follows


def test_lengths_without_judges_follow_nothing() -> None:
    assert not config({"method": "gdpo"}, judges=[]).length_follows_judges


@pytest.mark.parametrize(
    ("unless", "message"),
    [
        ("better", "is not a condition"),
        ("judge:x > 1", "reward.zero_unless: no judge is called 'x'"),
    ],
)
def test_an_undecidable_zero_unless_is_refused(unless: str, message: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        config(reward={"zero_unless": unless})
    assert message in str(caught.value)
