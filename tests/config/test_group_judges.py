"""Group judges in a configuration: defaults, and what is refused."""

from typing import Any

import pytest

from oyer.config.loading import validate
from oyer.config.rubric import parse, resolve
from oyer.protocol.errors import InvalidConfig

GROUP = {"name": "ranking", "kind": "group", "endpoint": "e", "model": "m"}
PAIRS = {**GROUP, "mode": "pairs"}
POINTWISE = {"name": "quality", "endpoint": "e", "model": "m"}


def test_the_rubric_and_the_scale_follow_the_mode() -> None:
    listwise, pairs = validate({"judges": [GROUP, {**PAIRS, "name": "pairs"}], "length": []}).judges
    assert (parse(listwise.rubric).name, listwise.scale) == ("listwise_en", (1, 10))
    assert (parse(pairs.rubric).name, pairs.scale) == ("pairwise_en", (-1, 1))
    assert (pairs.pairs, pairs.both_orders) == ("circular", False)
    own = validate({"judges": [{**GROUP, "scale": [0, 1]}], "length": []}).judges[0]
    assert own.scale == (0, 1)


def test_a_group_judge_stays_the_same_on_its_way_to_the_workers() -> None:
    raw = {**PAIRS, "pairs": {"chunks": 4}, "both_orders": True, "normalize": True}
    config = validate({"judges": [raw], "length": []})
    assert validate(config.model_dump(mode="json")).judges == config.judges
    assert config.judges[0].counted(-0.5) == 0.25


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ({**POINTWISE, "mode": "pairs"}, "`mode` is for `kind: group`"),
        ({**POINTWISE, "pairs": "all"}, "`pairs` is for `kind: group` and `mode: pairs`"),
        ({**POINTWISE, "both_orders": True}, "`both_orders` is for"),
        ({**POINTWISE, "max_list_chars": 5000}, "`max_list_chars` is for"),
        ({**POINTWISE, "rubric": "listwise_en"}, "set `kind: group`"),
        ({**GROUP, "pairs": "all"}, "`pairs` is for `kind: group` and `mode: pairs`"),
        ({**GROUP, "both_orders": True}, "`both_orders` is for"),
        ({**GROUP, "expected_score": True}, "`expected_score` is for `kind: pointwise`"),
        ({**GROUP, "rubric": "tool_call_criteria_en"}, "asks for verdicts"),
        ({**PAIRS, "scale": [0, 1]}, "a net win rate is on"),
        ({**PAIRS, "pairs": {"chunks": 1}}, "greater than or equal to 2"),
        ({**PAIRS, "pairs": "both"}, "circular"),
        ({**PAIRS, "max_list_chars": 5000}, "`max_list_chars` is for"),
        ({**GROUP, "kind": "groups"}, "kind"),
    ],
)
def test_keys_that_do_not_fit_the_kind_are_refused(judge: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        validate({"judges": [judge], "length": []})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("rules", "length", "message"),
    [
        ({"on_missing": "group_mean"}, [], "reward.on_missing"),
        ({"zero_unless": "judge >= 6"}, [], "reward.zero_unless"),
        ({"zero_unless": "judge:ranking > 0"}, [], "reward.zero_unless"),
        ({}, [{"method": "kimi_length_reward", "correct": "judge >= 6"}], "length[0].correct"),
    ],
)
def test_rules_that_compare_scores_of_different_groups_are_refused(
    rules: dict[str, Any], length: list[dict[str, Any]], message: str
) -> None:
    raw = {"judges": [GROUP, POINTWISE], "reward": rules, "length": length}
    with pytest.raises(InvalidConfig, match=r"group judge 'ranking'") as caught:
        validate(raw)
    assert message in str(caught.value)


def test_a_threshold_on_a_pointwise_judge_may_stand_beside_a_group_judge() -> None:
    rules = {"zero_unless": "judge:quality >= 6"}
    assert validate({"judges": [GROUP, POINTWISE], "reward": rules, "length": []})


@pytest.mark.parametrize("name", ["listwise_en", "listwise_zh", "pairwise_en", "pairwise_zh"])
def test_the_rubrics_that_ship_are_for_group_judges(name: str) -> None:
    rubric = parse(resolve(name))
    assert (rubric.name, rubric.reply) == (name, "comparison")
    assert sum(criterion.weight for criterion in rubric.criteria) == 10
