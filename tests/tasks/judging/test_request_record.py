"""A request is rebuilt from the record, and a different one is recognised by its hash."""

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest

from oyer.config.reward import JudgeConfig, RewardRules
from oyer.models.base import clean_text, dump_json
from oyer.protocol.rollout import Rollout
from oyer.tasks.judging.judge_call import reask
from oyer.tasks.judging.request_record import (
    Kept,
    body_of,
    changed_on_record,
    first_messages,
    messages_text,
    parameters_text,
    read_parameters,
    seed_of,
    turned,
    turns_of,
)
from oyer.tasks.judging.requests import JudgeRequest, requests_of
from tests.support.request_parameters import parameters_of

JUDGE = JudgeConfig.model_validate(
    {"name": "q", "endpoint": "e", "model": "m", "samples": 2, "scale": [0, 5]}
)
SENT = {"model": "m", "temperature": 0.0, "max_completion_tokens": 1024}


def job_of(rollout: Rollout, bodies: Mapping[str, Any] | None = None) -> JudgeRequest:
    return list(requests_of({0: rollout}, [JUDGE], RewardRules(), bodies or {}))[1]


def recorded_text(value: Any) -> str:
    return clean_text(value) if isinstance(value, str) else dump_json(value, sort_keys=False)


def on_record(rollout: Rollout, job: JudgeRequest, **changed: Any) -> Kept:
    assert job.request is not None
    plain: dict[str, Any] = {
        "request_hash": job.key,
        "sample": job.sample,
        "parameters": parameters_of(job, SENT),
        "messages": messages_text(job.request.messages) if changed_on_record(rollout) else None,
        "rubric": JUDGE.rubric,
        "prompt": recorded_text(rollout.prompt),
        "response": recorded_text(rollout.response),
        "tools": None if rollout.tools is None else recorded_text(rollout.tools),
        "reference": rollout.reference,
    }
    return Kept(**{**plain, **changed})


ROLLOUTS = {
    "text": Rollout(prompt="p", response="r", reference="42"),
    "messages": Rollout(prompt=[{"role": "user", "content": "p"}], response="r"),
    "tools": Rollout(
        prompt=[{"role": "assistant", "tool_calls": [{"name": "f", "a": 1}], "name": "z", "b": 2}],
        response="r",
    ),
    "looks like messages": Rollout(prompt='[{"content":"p","role":"user"}]', response="r"),
    "a list that is no messages": Rollout(prompt="[1, 2]", response="r"),
    "a trajectory": Rollout(
        prompt="p",
        response=[
            {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "id": "1"}]},
            {"tool_call_id": "1", "role": "tool", "content": [{"type": "text", "text": "x"}]},
            {"role": "assistant", "content": "done", "reasoning_content": "so"},
        ],
        tools=[{"type": "function", "function": {"name": "f"}}],
    ),
    "a response that looks like messages": Rollout(
        prompt="p", response='[{"role":"assistant","content":"x"}]'
    ),
    "NUL in a trajectory": Rollout(prompt="p", response=[{"role": "assistant", "content": "r\0"}]),
    "NUL": Rollout(prompt="p\0", response="\0 r"),
    "emoji": Rollout(prompt=[{"role": "user", "content": "\U0001f600"}], response="\U0001f600"),
    "NUL in messages": Rollout(prompt=[{"role": "user", "content": "p\0"}], response="r"),
    "no number": Rollout(prompt=[{"role": "user", "content": "p", "x": math.nan}], response="r"),
}


@pytest.mark.parametrize("rollout", ROLLOUTS.values(), ids=ROLLOUTS)
def test_rebuilt_messages_equal_those_of_the_request(rollout: Rollout) -> None:
    job = job_of(rollout, {"e": {"top_p": 0.5}})
    assert job.request is not None
    assert first_messages(on_record(rollout, job)) == job.request.messages


@pytest.mark.parametrize(
    "keys",
    [
        {"view": "no_thinking"},
        {"view": "last_reply", "max_view_chars": 100},
        {"images": "send"},
    ],
    ids=str,
)
def test_what_a_view_showed_is_rebuilt(keys: dict[str, Any]) -> None:
    url = "data:image/png;base64,AAAA"
    rollout = Rollout(
        prompt=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}],
        response=[{"role": "assistant", "content": "long " * 50, "reasoning_content": "so"}],
    )
    judge = JUDGE.model_copy(update=keys)
    job = next(requests_of({0: rollout}, [judge], RewardRules(), {}))
    assert job.request is not None
    assert first_messages(on_record(rollout, job)) == job.request.messages
    assert json.loads(parameters_text(job, SENT))["view"] == keys
    assert "view" not in json.loads(parameters_text(job_of(rollout), SENT))


def test_messages_are_stored_only_if_the_recorded_texts_do_not_give_them() -> None:
    stored = [name for name, rollout in ROLLOUTS.items() if changed_on_record(rollout)]
    assert stored == ["NUL in a trajectory", "NUL", "NUL in messages", "no number"]


@pytest.mark.parametrize(
    "changed",
    [{"response": "s"}, {"reference": "43"}, {"sample": 0}, {"rubric": None}, {"prompt": None}],
    ids=str,
)
def test_changed_data_does_not_match_the_hash(changed: dict[str, Any]) -> None:
    rollout = ROLLOUTS["text"]
    assert first_messages(on_record(rollout, job_of(rollout), **changed)) is None


def test_requests_that_differ_by_seed_share_their_parameters() -> None:
    job = job_of(ROLLOUTS["text"])
    seeded = [{**SENT, "seed": seed} for seed in (1, 2**63 - 1)]
    assert len({parameters_text(job, sent) for sent in seeded}) == 1
    for sent in seeded:
        body = body_of(parameters_of(job, sent).body or {}, [], seed_of(sent))
        assert body == {**sent, "messages": []}


@pytest.mark.parametrize("seed", [2**63, "7", None, True, 1.5])
def test_a_seed_that_the_column_cannot_hold_stays_in_the_parameters(seed: Any) -> None:
    sent = {**SENT, "seed": seed}
    assert seed_of(sent) is None
    body = parameters_of(job_of(ROLLOUTS["text"]), sent).body or {}
    assert body_of(body, [], None) == {**sent, "messages": []}


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"key": "0"}, "key: "),
        ({"key": {"endpoint": "e"}}, "key.model: "),
        ({"scale": [0]}, "scale"),
        ({"view": "full"}, "view: "),
        ({"criteria": [{"name": "a", "text": "t", "weight": "much"}]}, "criteria[0].weight: "),
        ({"criteria": [{"name": "a", "text": "t", "later": 1}]}, "criteria[0].later: "),
        ({"metadata": {"metadata.a": 1}}, "metadata"),
        ({"group": []}, "group: "),
        ({"group": {"mode": "pairs", "responses": [[]]}}, "group.responses[0]: "),
        ({"body": []}, "body: "),
    ],
    ids=str,
)
def test_parameters_of_another_form_are_a_problem_that_names_the_key(
    changed: dict[str, Any], problem: str
) -> None:
    held = json.loads(parameters_text(job_of(ROLLOUTS["text"]), SENT))
    found = read_parameters(json.dumps(held | changed))
    assert isinstance(found, str)
    assert found.startswith(problem)


@pytest.mark.parametrize("text", ["", "[]", "null", '"text"', "{}", "{"])
def test_parameters_that_are_no_parameters_are_a_problem(text: str) -> None:
    assert isinstance(read_parameters(text), str)


def test_parameters_that_a_later_release_added_are_left_out() -> None:
    held = json.loads(parameters_text(job_of(ROLLOUTS["text"]), SENT))
    read = read_parameters(json.dumps({**held, "later": 1, "view": {"later": 1}}))
    assert read == read_parameters(json.dumps(held))


def test_a_re_ask_is_recorded_by_the_messages_it_adds() -> None:
    request = job_of(ROLLOUTS["text"]).request
    assert request is not None
    again = reask(request, "Hm.", "Which score?")
    turns = turns_of(request.messages, again.messages)
    assert turns is not None
    assert (turns["kept"], [turn["role"] for turn in turns["added"]]) == (2, ["assistant", "user"])
    assert turned(request.messages, turns) == again.messages
    assert turns_of(request.messages, list(request.messages)) is None


def test_messages_that_a_re_ask_changes_are_recorded() -> None:
    first = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    for messages in ([first[0], {"role": "user", "content": "u, again"}], first[:1]):
        assert turned(first, turns_of(first, messages)) == messages
