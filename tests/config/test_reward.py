"""Validation of a configuration, and the plan made from it."""

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from oyer.cli.support.field_docs import field_docs
from oyer.config.length_methods import catalogue
from oyer.config.loading import validate
from oyer.config.reward import EndpointConfig, JudgeConfig, RewardConfig, RewardRules, plan_of
from oyer.protocol.errors import InvalidConfig

JUDGE = {"name": "q", "endpoint": "e", "model": "m"}
ENDPOINT = {"base_url": "http://localhost:8000/v1"}
REWARDING = [
    method.name
    for method in catalogue.METHODS.values()
    if method.kind not in ("measure", "per_token")
    and not any(field.is_required() for field in method.params.model_fields.values())
]


def refusal(**keys: Any) -> str:
    with pytest.raises(InvalidConfig) as caught:
        validate(keys)
    return str(caught.value)


def with_judge(**keys: Any) -> dict[str, Any]:
    return {"judges": [{**JUDGE, **keys}]}


def with_endpoint(**keys: Any) -> dict[str, Any]:
    return {"endpoints": {"e": {**ENDPOINT, **keys}}}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"judge": []}, "judge: unknown key"),
        (with_judge(weigth=1), "judges[0].weigth: unknown key"),
        (with_judge(name="two words"), "judges[0].name: "),
        (with_judge(name=""), "judges[0].name: "),
        (
            {"judges": [{**JUDGE, "name": "length_penalty"}], "length": {"method": "median_band"}},
            "length[0].name: 'length_penalty' is also the name of a judge",
        ),
        ({"judges": [JUDGE, JUDGE]}, "judges[1].name: 'q' is taken; names are unique"),
        (with_judge(scale=[10, 1]), "judges[0].scale: must be [lowest, highest]"),
        (with_judge(scale=[1, 1]), "judges[0].scale: must be [lowest, highest]"),
        (with_judge(scale=[1, float("inf")]), "judges[0].scale: must be [lowest, highest]"),
        (with_judge(scale=[1]), "judges[0].scale"),
        (with_judge(weight=float("nan")), "judges[0].weight: "),
        (with_judge(temperature=2.5), "judges[0].temperature: "),
        (with_judge(max_tokens=0), "judges[0].max_tokens: "),
        (with_judge(samples=0), "judges[0].samples: "),
        (with_judge(samples=2, min_valid=3), "judges[0]: `min_valid` 3 is more than `samples` 2"),
        (with_judge(aggregate="max"), "judges[0].aggregate: "),
        (with_judge(rubric="no_such"), "judges[0].rubric: 'no_such' is neither a built-in"),
        (with_judge(rubric="Rate {this}."), "judges[0].rubric: unknown placeholder {this}"),
        (
            with_judge(rubric="Rate it.\nNow."),
            "judges[0].rubric: has no place for the resp",
        ),
        (with_endpoint(base_url="http://%"), "endpoints.e.base_url: must name a host and a port"),
        (
            with_endpoint(base_url="http://¡/v1"),
            "endpoints.e.base_url: must name a host and a port",
        ),
        (
            with_endpoint(base_url="http://999.1.1.1"),
            "endpoints.e.base_url: must name a host and a port",
        ),
        (with_judge(rubric="/no/such.md"), "judges[0].rubric: there is no file"),
        ({**with_judge(), "endpoints": {"x": ENDPOINT}}, "judges[0].endpoint: 'e' is not in"),
        (with_endpoint(api_key_env="sk-123"), "endpoints.e.api_key_env: must be the *name*"),
        (with_endpoint(api_key="x"), "endpoints.e.api_key: unknown key"),
        (with_endpoint(base_url="localhost:8000"), "endpoints.e.base_url: "),
        (with_endpoint(base_url=None), "endpoints.e: give either `base_url` or `base_urls`"),
        (
            with_endpoint(base_urls=[{"url": "http://h"}]),
            "endpoints.e: give either `base_url` or `base_urls`",
        ),
        (with_endpoint(timeout_s=0), "endpoints.e.timeout_s: "),
        (with_endpoint(timeout_s=float("inf")), "endpoints.e.timeout_s: "),
        (with_endpoint(max_in_flight=0), "endpoints.e.max_in_flight: "),
        (
            with_endpoint(prices={"m": {"prompt_usd": -1, "completion_usd": 0}}),
            "endpoints.e.prices",
        ),
        (
            {"length": {"method": "median_bnad"}},
            "length[0].method: 'median_bnad' is not a length method; did you mean `median_band`",
        ),
        ({"length": {"method": "median_band", "peak": 1}}, "peak: "),
        ({"length": {"method": "median_band", "peak_ratio": "x"}}, "peak_ratio: "),
        ({"length": {"method": "median_band", "weight": float("inf")}}, "length[0].weight: "),
        ({"length": {"peak_ratio": 0.1}}, "length[0].method: "),
        ({"length": {"method": "brpo"}}, "`oyer length list` has those that do"),
        ({"reward": {"gate": "correct"}}, "reward.gate: "),
        ({"reward": {"on_missing": "zero"}}, "reward.on_missing: "),
        ({"reward": {"on_missing": "value"}}, "reward: `on_missing: value` and `value: <score>`"),
        ({"reward": {"value": 5}}, "reward: `on_missing: value` and `value: <score>`"),
        ({"reward": {"on_missing": {"value": 5, "x": 1}}}, "reward.on_missing"),
        ({"reward": {"max_failed_fraction": 1.1}}, "reward.max_failed_fraction: "),
        ({"broker": {"url": "amqp://h"}}, "broker.url: "),
        ({"broker": {"url": "unix://host"}}, "broker.url: "),
        ({"broker": {"url": "rediss://h/0"}}, "broker.url: append `?ssl_cert_reqs=required`"),
        ({"broker": {"result_expires_s": 60}}, "broker.result_expires_s: "),
        (
            {"deadline_s": 100_000},
            "broker.result_expires_s: 86400 is less than `deadline_s` 100000",
        ),
        ({"deadline_s": float("inf")}, "deadline_s: "),
        ({"deadline_s": 0}, "deadline_s: "),
        ({"stall_timeout_s": float("inf")}, "stall_timeout_s: "),
        ({"store": {"url": "mysql://h/db"}}, "store.url: "),
        ({"reuse": True}, "reuse: "),
        ({"max_rollout_bytes": 1}, "max_rollout_bytes: "),
        ({"tokenizer": 3}, "tokenizer: "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_key_is_named(keys: dict[str, Any], message: str) -> None:
    assert message in refusal(**keys)
    assert refusal(**keys).startswith("configuration: ")


def test_all_wrong_keys_are_named_at_once() -> None:
    message = refusal(deadline_s=-1, tokenizer=3, x=1)
    assert all(f"{key}: " in message for key in ("deadline_s", "tokenizer", "x"))


def test_an_error_does_not_show_the_value_which_may_be_a_secret() -> None:
    assert "sk-abcdef" not in refusal(**with_endpoint(api_key_env="sk-abcdef"))


def test_the_default_is_the_replaced_system() -> None:
    judge = JudgeConfig.model_validate(JUDGE)
    assert (judge.weight, judge.scale, judge.samples) == (0.1, (1.0, 10.0), 1)
    rules = RewardRules()
    assert (rules.gate, rules.on_missing, rules.max_failed_fraction) == ("base_score", "skip", 1.0)
    [item] = validate({"length": {"method": "median_band"}}).length
    assert item.params == {
        "peak_ratio": 0.3,
        "outer_ratio": 0.5,
        "max_penalty": 1.0,
        "penalty_scale": 1.0,
    }


def test_an_empty_configuration_has_the_defaults() -> None:
    assert validate({}) == RewardConfig()


@pytest.mark.parametrize("off", ["off", False])
def test_a_bare_off_of_yaml_turns_reuse_off(off: Any) -> None:
    assert validate({"reuse": off}).reuse == "off"


def test_on_missing_may_hold_the_value() -> None:
    rules = RewardRules.model_validate({"on_missing": {"value": 5}})
    assert rules == RewardRules.model_validate({"on_missing": "value", "value": 5})


def test_one_length_method_needs_no_list() -> None:
    one = validate({"length": {"method": "median_band"}})
    assert one == validate({"length": [{"method": "median_band"}]})
    assert validate({"length": None}).length == validate({"length": []}).length == ()


def test_a_configuration_is_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(RewardRules(), "gate", "none")  # noqa: B010 - mypy would refuse the assignment


def test_an_endpoint_has_one_server_or_several() -> None:
    one = EndpointConfig.model_validate(ENDPOINT)
    assert [(s.url, s.weight) for s in one.servers] == [(ENDPOINT["base_url"], 1.0)]
    urls = [{"url": "http://a", "weight": 2}, {"url": "http://b"}]
    several = EndpointConfig.model_validate({"base_urls": urls})
    assert [(s.url, s.weight) for s in several.servers] == [("http://a", 2.0), ("http://b", 1.0)]


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ({"X-Team": "a\nb"}, "the value of 'X-Team' holds a line break"),
        ({"X-Team": "a\r\nHost: b"}, "the value of 'X-Team' holds a line break"),
        ({"X-Team": "团队"}, "printable ASCII on one line"),
        ({"X Team": "a"}, "'X Team' is no header name"),
        ({"": "a"}, "'' is no header name"),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused(headers: dict[str, str], problem: str) -> None:
    with pytest.raises(InvalidConfig, match=r"endpoints\.e\.headers: ") as refused:
        validate(with_judge() | with_endpoint(headers=headers))
    assert problem in str(refused.value)


def test_headers_that_can_be_sent_are_kept() -> None:
    headers = {"X-Team": "rl 1; q=0.5", "x_api-key": "sk~1"}
    assert EndpointConfig.model_validate(ENDPOINT | {"headers": headers}).headers == headers


def test_a_plan_holds_the_text_of_the_rubric() -> None:
    judge = validate(with_judge(rubric="tool_call_zh")).judges[0]
    assert "{" in judge.rubric
    assert JudgeConfig.model_validate(judge.model_dump()) == judge


def test_a_plan_holds_nothing_of_the_workers_part() -> None:
    plan = plan_of(validate(with_judge() | with_endpoint(api_key_env="KEY")))
    assert {"judges", "length", "reward", "reuse", "tokenizer"} <= set(plan)
    assert not {"endpoints", "broker", "store"} & set(plan)


@pytest.mark.parametrize("method", REWARDING)
def test_a_plan_keeps_a_length_method_with_its_defaults(method: str) -> None:
    config = validate({"judges": [JUDGE], "length": [{"method": method}]})
    assert RewardConfig.model_validate(plan_of(config)).length == config.length
    assert config.length[0].params == catalogue.resolve(method, {})


@pytest.mark.parametrize(
    ("method", "outer", "own"),
    [("median_band", 0.5, None), ("kimi_length_reward", 1.0, 0.5), ("diet_token_score", 1.0, 0.5)],
)
def test_a_plan_keeps_the_weight_of_a_method(method: str, outer: float, own: float | None) -> None:
    config = validate({"length": [{"method": method, "weight": 0.5}]})
    [item] = RewardConfig.model_validate(plan_of(config)).length
    assert (item.weight, item.params.get("weight")) == (outer, own)


def _sections(model: type[BaseModel] = RewardConfig) -> set[type[BaseModel]]:
    """Return the model of a configuration and those of its sections."""
    found = {model}
    for field in model.model_fields.values():
        for part in _types(field.annotation):
            found |= _sections(part)
    return found


def _types(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _types(part)


@pytest.mark.parametrize("section", sorted(_sections(), key=str))
def test_every_key_is_documented(section: type[BaseModel]) -> None:
    assert field_docs(section).keys() == section.model_fields.keys()


def test_all_sections_of_a_configuration_are_found() -> None:
    assert {EndpointConfig, JudgeConfig, RewardRules} < _sections()


@pytest.mark.parametrize(
    ("timeouts_s", "stall_timeout_s", "stall_s"),
    [
        ({"e": 90, "unused": 500}, None, 270),
        ({"e": 2}, None, 30),
        ({}, None, 180),
        ({"e": 90}, 7, 7),
    ],
)
def test_the_stall_timeout_is_a_few_times_the_longest_judge_timeout(
    timeouts_s: dict[str, float], stall_timeout_s: float | None, stall_s: float
) -> None:
    endpoints = {name: {**ENDPOINT, "timeout_s": value} for name, value in timeouts_s.items()}
    keys = {"judges": [JUDGE], "endpoints": endpoints, "stall_timeout_s": stall_timeout_s}
    assert validate(keys).stall_s == stall_s
