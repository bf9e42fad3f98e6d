"""Configuration of judges, fallbacks and budgets."""

from typing import Any

import pytest

from oyer.config.loading import validate
from oyer.config.reward import plan_of
from oyer.config.urls import names_host
from oyer.protocol.errors import InvalidConfig

ENDPOINTS = {
    "a": {"base_url": "http://a/v1", "prices": {"m": {"prompt_usd": 1, "completion_usd": 2}}},
    "b": {"base_url": "http://b/v1"},
}


def config(judge: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    judges = [{"name": "q", "endpoint": "a", "model": "m", **(judge or {})}]
    return {"endpoints": ENDPOINTS, "judges": judges, **fields}


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        (config({"fallback": {"endpoint": "c", "model": "m"}}), r"judges\[0\].fallback.endpoint"),
        (config({"fallback": {"endpoint": "a"}}), "fallback.model"),
        (config({"model": "n"}, budget={"usd": 1}), "endpoints.a.prices: lacks 'n'"),
        (
            config({"fallback": {"endpoint": "b", "model": "m"}}, budget={"usd": 1}),
            "endpoints.b.prices: lacks 'm'",
        ),
        (config(budget={"usd": 0}), "budget.usd"),
        (config(budget={"usd": 1, "soft_fraction": 1.5}), "budget.soft_fraction"),
        (
            config(reward={"min_valid_judges": 2}),
            "reward.min_valid_judges: 2 is more than `judges` has",
        ),
        (config({"expected_score": True, "scale": (0, 0.5)}), "expected_score"),
        (config({"samples": 2, "min_valid": 3}), "min_valid"),
    ],
)
def test_an_invalid_judge_is_refused_by_key(raw: dict[str, Any], names: str) -> None:
    with pytest.raises(InvalidConfig, match=names):
        validate(raw)


def test_a_trainer_without_endpoints_leaves_prices_to_the_workers() -> None:
    raw = config({"fallback": {"endpoint": "c", "model": "m"}}, budget={"usd": 1})
    assert validate({**raw, "endpoints": {}}).budget is not None


def test_a_plan_holds_budget_and_fallback_and_no_endpoints() -> None:
    raw = config({"fallback": {"endpoint": "b", "model": "m"}})
    plan = plan_of(validate(raw))
    assert plan["judges"][0]["fallback"] == {"endpoint": "b", "model": "m"}
    assert plan["budget"] is None
    assert "endpoints" not in plan


def test_a_fallback_is_the_judge_with_another_endpoint_and_model() -> None:
    judge = validate(
        config({"fallback": {"endpoint": "b", "model": "n"}, "samples": 3, "version": "7"})
    ).judges[0]
    substitute = judge.substitute
    assert substitute is not None
    assert (substitute.name, substitute.endpoint, substitute.model) == ("q/fallback", "b", "n")
    assert (substitute.rubric, substitute.samples) == (judge.rubric, 3)
    assert substitute.substitute is None
    # A version names a state of the judge's model only.
    assert substitute.version is None


def test_a_normalized_judge_has_scores_from_zero_to_one() -> None:
    judge = validate(config({"scale": (2, 12), "normalize": True})).judges[0]
    assert judge.counted_scale == (0, 1)
    assert [judge.counted(score) for score in (2, 7, 12)] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    "host", ["judge", "a_b.example.com.", "10.0.0.7:8000", "[::1]:80", "u:p@h"]
)
def test_hosts_are_names_or_addresses(host: str) -> None:
    assert names_host(f"https://{host}/v1")
