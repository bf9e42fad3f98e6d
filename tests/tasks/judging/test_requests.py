"""The requests of a chunk, their keys, and judgements decided without a call."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.config import rubric
from oyer.config.reward import JudgeConfig, RewardRules
from oyer.protocol.errors import InvalidInput
from oyer.protocol.rollout import Rollout
from oyer.protocol.status import Status
from oyer.tasks.judging.request_key import request_key
from oyer.tasks.judging.requests import (
    JudgeRequest,
    decided_score,
    decided_without_call,
    requests_of,
)

RULES = RewardRules()
UNGATED = RewardRules.model_validate({"gate": "none"})


def judge(**keys: Any) -> JudgeConfig:
    return JudgeConfig.model_validate({"name": "q", "endpoint": "e", "model": "m", **keys})


def rollout(**fields: Any) -> Rollout:
    return Rollout(**{"prompt": "What is 6 times 7?", "response": "42", **fields})


def jobs(*rollouts: Rollout, judges: tuple[JudgeConfig, ...] = (judge(),)) -> list[JudgeRequest]:
    return list(requests_of(dict(enumerate(rollouts)), judges, RULES, {}))


def key(one: Rollout | None = None, **keys: Any) -> str | None:
    return jobs(one or rollout(), judges=(judge(**keys),))[0].key


def test_every_rollout_judge_and_sample_is_one_judgement_in_order() -> None:
    judges = (judge(name="a", samples=2), judge(name="b"))
    chunk = {7: rollout(), 9: rollout(response="41")}
    places = [job.place for job in requests_of(chunk, judges, RULES, {})]
    assert places == [(i, *sample) for i in (7, 9) for sample in (("a", 0), ("a", 1), ("b", 0))]


def test_a_request_shows_prompt_response_and_reference_under_the_judges_settings() -> None:
    one = rollout(reference="forty-two", response="It is 42.")
    settings = {"temperature": 0.5, "max_tokens": 64, "extra_body": {"top_p": 0.9}}
    request = jobs(one, judges=(judge(**settings),))[0].request
    assert request is not None
    shown = "\n".join(message["content"] for message in request.messages)
    assert all(text in shown for text in ("What is 6 times 7?", "It is 42.", "forty-two"))
    assert (request.model, request.temperature, request.max_tokens) == ("m", 0.5, 64)
    assert request.extra_body == {"top_p": 0.9}
    assert request.response_format is None


def test_a_structured_judge_asks_for_json_on_its_scale() -> None:
    request = jobs(rollout(), judges=(judge(structured=True, scale=[0, 5]),))[0].request
    assert request is not None
    assert request.response_format is not None
    schema = request.response_format["json_schema"]["schema"]
    assert schema["properties"]["score"] == {"type": "number", "minimum": 0.0, "maximum": 5.0}


def test_equal_requests_have_equal_keys() -> None:
    first, second, other = jobs(rollout(), rollout(), rollout(response="41"))
    assert first.key == second.key != other.key
    assert first.place != second.place


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "m2"},
        {"endpoint": "e2"},
        {"temperature": 1.0},
        {"max_tokens": 5},
        {"structured": True},
        {"extra_body": {"top_p": 0.9}},
        {"rubric": "tool_call_zh"},
        {"reasoning_effort": "low"},
        {"version": "step-100"},
    ],
    ids=str,
)
def test_judge_settings_that_affect_the_reply_change_the_key(changed: dict[str, Any]) -> None:
    assert key(**changed) != key()


def test_body_fields_added_by_the_worker_change_the_key() -> None:
    bodies: list[dict[str, dict[str, Any]]] = [
        {},
        {"e": {"top_p": 0.9}},
        {"e": {"top_p": 0.5}},
        {"other": {"top_p": 0.5}},
    ]
    keys = [next(iter(requests_of({0: rollout()}, [judge()], RULES, body))).key for body in bodies]
    assert keys[0] == keys[3]
    assert len(set(keys)) == 3
    # A judge's own extra_body overrides the worker's, in the body and in the key.
    own = judge(extra_body={"top_p": 0.9})
    assert {next(iter(requests_of({0: rollout()}, [own], RULES, body))).key for body in bodies} == {
        keys[1]
    }


@pytest.mark.parametrize("changed", [{"weight": 3}, {"name": "r"}, {"reasks": 0}], ids=str)
def test_judge_settings_that_do_not_affect_the_reply_leave_the_key(changed: dict[str, Any]) -> None:
    assert key(**changed) == key()


@pytest.mark.parametrize(
    "fields", [{"prompt": "Other?"}, {"response": "43"}, {"reference": "42"}], ids=str
)
def test_rollout_fields_shown_to_the_judge_change_the_key(fields: dict[str, Any]) -> None:
    assert key(rollout(**fields)) != key()


def test_rollout_fields_not_shown_leave_the_key() -> None:
    one = rollout(group_id="g", base_score=0.5, response_tokens=3, metadata={"k": 1})
    assert key(one) == key()


def test_each_sample_has_its_own_key() -> None:
    keys = [job.key for job in jobs(rollout(), judges=(judge(samples=3),))]
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    ("fields", "rules", "decided"),
    [
        ({"base_score": 1.0}, RULES, None),
        ({"base_score": 0.001}, RULES, None),
        ({"base_score": 0.0}, RULES, Status.GATED),
        ({"base_score": -1.0}, RULES, Status.GATED),
        ({"base_score": None}, RULES, None),
        ({"base_score": 0.0}, UNGATED, None),
        ({"response": ""}, RULES, Status.EMPTY),
        ({"response": " \n"}, UNGATED, Status.EMPTY),
        ({"response": "Thought process:"}, RULES, Status.EMPTY),
        ({"response": "", "base_score": 0.0}, RULES, Status.GATED),
        ({"response": "B"}, RULES, None),
    ],
    ids=str,
)
def test_some_judgements_are_decided_without_a_call(
    fields: dict[str, Any], rules: RewardRules, decided: Status | None
) -> None:
    one = rollout(**fields)
    assert decided_without_call(one, rules) == decided
    [job] = requests_of({0: one}, [judge()], rules, {})
    assert job.decided == decided
    assert (job.request is None) == (job.key is None) == (decided is not None)


@pytest.mark.parametrize(
    ("fields", "keys", "score"),
    [
        ({"response": ""}, {}, 1.0),
        ({"response": ""}, {"scale": [-2, 5]}, -2.0),
        ({"response": ""}, {"empty_score": 3}, 3.0),
        ({"response": ""}, {"empty_score": 0}, 0.0),
        ({"base_score": 0.0}, {"empty_score": 3}, None),
        ({}, {"empty_score": 3}, None),
    ],
    ids=str,
)
def test_only_an_empty_response_has_a_score_without_a_call(
    fields: dict[str, Any], keys: dict[str, Any], score: float | None
) -> None:
    assert decided_score(jobs(rollout(**fields), judges=(judge(**keys),))[0]) == score


def test_a_judgement_has_the_hash_of_its_rubrics_text() -> None:
    [job] = jobs(rollout(), judges=(judge(rubric="tool_call_en"),))
    assert job.rubric_hash == rubric.rubric_hash(rubric.resolve("tool_call_en"))


def test_half_a_surrogate_pair_has_a_key() -> None:
    assert key(rollout(response="half \ud83d pair")) is not None


def test_another_server_or_version_under_the_same_name_changes_the_key() -> None:
    def key_at(server: str, **keys: Any) -> str | None:
        [job] = requests_of({0: rollout()}, [judge(**keys)], RULES, {}, {"e": server})
        return job.key

    assert key_at("a") != key_at("b")
    # A version replaces the servers in the key: the same model may move.
    assert key_at("a", version="1") == key_at("b", version=1) != key_at("b", version="2")
    assert key_at("a", version="1") not in (key_at("a"), key_at("b"))
    # An empty version gives the keys made before versions existed.
    assert key_at("a", version="") == key_at("b", version="") == key()


def test_samples_at_temperature_0_have_different_reproducible_seeds() -> None:
    def seeds(*rollouts: Rollout, **keys: Any) -> list[int | None]:
        asked = [job.request for job in jobs(*rollouts, judges=(judge(**keys),))]
        return [request.seed if request else None for request in asked]

    drawn = seeds(rollout(), rollout(response="43"), samples=3)
    assert len(set(drawn)) == 6
    assert all(seed is not None and 0 <= seed < 2**31 for seed in drawn)
    assert seeds(rollout(), samples=3) == drawn[:3]
    assert seeds(rollout()) == [None]
    assert seeds(rollout(), samples=2, temperature=0.5) == [None] * 2
    assert seeds(rollout(), samples=2, temperature=None) == [None] * 2


REQUEST: dict[str, Any] = {
    "endpoint": "deepseek",
    "model": "deepseek-v3",
    "messages": [{"role": "user", "content": "最终评分"}],
    "sampling": {"temperature": 0.0, "max_tokens": 1024},
    "rubric_hash": "abc",
    "sample": 0,
}
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.mark.parametrize(
    "changed",
    [
        {"endpoint": "other"},
        {"model": "deepseek-v3-0324"},
        {"messages": [{"role": "system", "content": "最终评分"}]},
        {"messages": [{"role": "user", "content": "最终评分 "}]},
        {"messages": [{"role": "user", "content": "最终評分"}]},
        {"messages": [{"role": "user", "content": "\ud83d"}]},
        {"sampling": {"temperature": 0.1, "max_tokens": 1024}},
        {"sampling": {"temperature": 0.0}},
        {"rubric_hash": "abd"},
        {"sample": 1},
    ],
)
def test_each_argument_changes_the_key(changed: dict[str, Any]) -> None:
    assert request_key(**REQUEST) != request_key(**REQUEST | changed)


def test_composed_and_decomposed_characters_are_different_texts() -> None:
    composed, decomposed = ([{"role": "user", "content": text}] for text in ("é", "e\u0301"))
    keys = {request_key(**REQUEST | {"messages": m}) for m in (composed, decomposed)}
    assert len(keys) == 2


def test_mapping_order_and_number_form_do_not_change_the_key() -> None:
    sampling = {"max_tokens": 1024.0, "temperature": -0.0}
    messages = ({"content": "最终评分", "role": "user"},)
    assert request_key(**REQUEST | {"sampling": sampling, "messages": messages}) == request_key(
        **REQUEST
    )


def test_the_key_of_a_request_never_changes_by_accident() -> None:
    assert (
        request_key(**REQUEST) == "a762741168de596dd5a106c4ca761069030e6a9c205d9e16f500be63b9f13db9"
    )


@given(JSON_VALUES, JSON_VALUES)
def test_keys_are_equal_exactly_when_the_values_are(one: Any, other: Any) -> None:
    keys = [request_key(**REQUEST | {"sampling": {"x": value}}) for value in (one, other)]
    # `==` takes True for 1, which JSON does not.
    texts = [json.dumps(_plain(value), sort_keys=True) for value in (one, other)]
    assert (keys[0] == keys[1]) == (texts[0] == texts[1])


def _plain(value: Any) -> Any:
    match value:
        case float() if value == int(value):
            return int(value)
        case list():
            return [_plain(item) for item in value]
        case dict():
            return {key: _plain(item) for key, item in value.items()}
    return value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x"])
def test_a_value_that_is_not_json_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match="finite numbers"):
        request_key(**REQUEST | {"sampling": {"x": value}})
