"""The conditions of a plan, and invalid plans."""

import json
from typing import Any

import pytest

from oyer.demo.request_log import RequestEntry
from oyer.demo.responses import ACTIONS, Action, action_from_json, named
from oyer.demo.scenarios import plan_from_json
from oyer.protocol.errors import InvalidConfig


def fails(when: dict[str, Any], arrivals: list[RequestEntry], seed: int = 0) -> list[bool]:
    plan = plan_from_json({"seed": seed, "rules": [{"when": when, "then": "unavailable"}]})
    return [plan(each).name == "unavailable" for each in arrivals]


def test_a_sequence_is_a_number_or_a_half_open_range() -> None:
    arrivals = [RequestEntry(sequence=i) for i in range(4)]
    assert fails({"sequence": 2}, arrivals) == [False, False, True, False]
    assert fails({"sequence": [1, 3]}, arrivals) == [False, True, True, False]


def test_a_time_window_is_half_open() -> None:
    arrivals = [RequestEntry(since_plan_s=at_s) for at_s in (1.9, 2.0, 21.9, 22.0)]
    assert fails({"between_s": [2, 22]}, arrivals) == [False, True, True, False]


def test_a_fraction_follows_the_seed() -> None:
    arrivals = [RequestEntry(sequence=i) for i in range(2000)]
    first = fails({"fraction": 0.1}, arrivals, seed=1)
    assert 150 < sum(first) < 250
    assert first == fails({"fraction": 0.1}, arrivals, seed=1)
    assert first != fails({"fraction": 0.1}, arrivals, seed=2)


def test_a_pattern_is_searched_in_the_messages() -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "sixteen ducks"}]}).encode()
    arrivals = [
        RequestEntry(body=body),
        RequestEntry(body=b'{"ducks": 1}'),
        RequestEntry(body=b"ducks"),
    ]
    assert fails({"matches": "d.cks"}, arrivals) == [True, False, False]


def test_a_key_of_the_body_and_the_model_are_conditions() -> None:
    arrivals = [
        RequestEntry(body=b'{"response_format": {}}'),
        RequestEntry(model="other"),
        RequestEntry(body=b""),
    ]
    assert fails({"has": "response_format"}, arrivals) == [True, False, False]
    assert fails({"model": "other"}, arrivals) == [False, True, False]


def test_a_concurrency_limit_counts_the_arrival_itself() -> None:
    arrivals = [RequestEntry(in_flight=n) for n in (1, 2, 3)]
    assert fails({"above_in_flight": 2}, arrivals) == [False, False, True]


def test_a_rate_limit_counts_only_the_requests_that_passed() -> None:
    arrivals = [RequestEntry(arrived_at_s=at_s) for at_s in (0.0, 1.0, 2.0, 59.0, 60.0, 60.5, 61.0)]
    assert fails({"above_rate": [2, 60]}, arrivals) == [
        *(False, False, True, True),
        *(False, True, False),
    ]


def test_the_first_arrivals_of_each_body_can_fail() -> None:
    arrivals = [RequestEntry(body_sha256=body) for body in "aabaab"]
    assert fails({"first_of_body": 2}, arrivals) == [True, True, True, False, False, True]


def test_conditions_must_all_hold_and_counting_ones_see_what_came_so_far() -> None:
    arrivals = [RequestEntry(sequence=i, model=model) for i, model in enumerate("abab")]
    when = {"model": "b", "above_rate": [1, 60]}
    assert fails(when, arrivals) == [False, False, False, True]


def test_the_first_rule_that_fits_decides_and_else_the_default() -> None:
    plan = plan_from_json(
        {
            "rules": [
                {"when": {"sequence": 0}, "then": "refusal"},
                {"when": {"sequence": [0, 2]}, "then": "html"},
            ],
            "default": {"text": "Final score: 3"},
        }
    )
    assert [plan(RequestEntry(sequence=i)).name for i in range(2)] == ["refusal", "html"]
    assert plan(RequestEntry(sequence=2)) == Action(text="Final score: 3")


def test_an_object_varies_the_action_it_names() -> None:
    raw = {"name": "rate_limited", "retry_after_s": 2, "retry_after_form": "date"}
    action = named("rate_limited", retry_after_s=2, retry_after_form="date")
    assert action_from_json(raw) == action
    assert action.status == 429


@pytest.mark.parametrize(
    "latency", [{"uniform": [0.1, 0.2]}, {"lognormal": [0.5, 0.8]}, {"pareto": [0.1, 1.5]}]
)
def test_a_latency_distribution_follows_its_seed(latency: dict[str, Any]) -> None:
    def draws(seed: int) -> list[float]:
        action = action_from_json({"latency_s": {**latency, "seed": seed}})
        assert callable(action.latency_s)
        return [action.latency_s() for _ in range(1001)]

    assert draws(1) == draws(1) != draws(2)
    (name, (first, second)) = next(iter(latency.items()))
    ordered = sorted(draws(1))
    if name == "uniform":
        assert first <= ordered[0] < ordered[-1] <= second
    elif name == "lognormal":
        assert 0.9 * first < ordered[500] < 1.1 * first
    else:
        # The median of a Pareto distribution is least * 2 ** (1 / alpha).
        assert ordered[0] >= first
        assert 0.9 < ordered[500] / (first * 2 ** (1 / second)) < 1.1


@pytest.mark.parametrize(
    "plan",
    [
        [],
        {"rule": []},
        {"rules": [{"when": {"moon": "full"}, "then": "reply"}]},
        {"rules": [{"when": {"sequence": [1]}, "then": "reply"}]},
        {"rules": [{"when": {"matches": "("}, "then": "reply"}]},
        {"rules": [{"when": {"fraction": "often"}, "then": "reply"}]},
        {"rules": [{"when": {}}]},
        {"default": "sulk"},
        {"default": {"mood": "bad"}},
        {"default": {"status": 99}},
        {"default": {"status": "429"}},
        {"default": {"fault": "gremlins"}},
        {"default": {"retry_after_form": "telegram"}},
        {"default": {"drip_bytes": 0}},
        {"default": {"latency_s": -1}},
        {"default": {"latency_s": {"normal": [0, 1]}}},
        {"default": {"latency_s": {"uniform": [0.1]}}},
        {"default": {"latency_s": {"lognormal": [0, 1]}}},
    ],
)
def test_an_invalid_plan_is_refused(plan: Any) -> None:
    with pytest.raises(InvalidConfig):
        plan_from_json(plan)


def test_every_action_of_the_catalogue_has_its_name() -> None:
    assert all(action.name == name for name, action in ACTIONS.items())
