"""What cannot be scored is refused with the row, the field and the fix."""

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oyer.config.reward import RewardConfig
from oyer.manager.backend.prepare import prepare
from oyer.manager.validation import check
from oyer.protocol.errors import InvalidRollout
from oyer.protocol.rollout import Rollout

JUDGE = {"name": "q", "endpoint": "e", "model": "m"}
BAND = {"method": "median_band"}


def config(**keys: Any) -> RewardConfig:
    return RewardConfig.model_validate({"judges": [JUDGE], **keys})


PLAIN = config()


def rollout(**fields: Any) -> Rollout:
    return Rollout(**{"prompt": "p", "response": "r", **fields})


def refusal(*rollouts: Any, **keys: Any) -> str:
    with pytest.raises(InvalidRollout) as caught:
        check(list(rollouts), config(**keys))
    return str(caught.value)


def test_a_plain_rollout_is_accepted() -> None:
    check([rollout()], config())


@pytest.mark.parametrize("batch", [None, "text", b"text", 3, {rollout: 1}, iter([rollout()])])
def test_a_batch_that_is_not_a_list_is_refused(batch: Any) -> None:
    with pytest.raises(InvalidRollout, match=r"rollouts: must be a list of Rollout"):
        check(batch, config())


def test_an_empty_batch_is_refused() -> None:
    assert refusal() == "rollouts: the batch is empty; submit at least one rollout"


def test_the_first_wrong_row_is_named() -> None:
    assert refusal(rollout(), rollout(response=None), rollout(prompt=3)).startswith(
        "rollouts[1].response: is missing"
    )


def test_an_item_that_is_not_a_rollout_is_refused() -> None:
    said = "rollouts[1]: is of type dict; pass an oyer.manager.Rollout"
    assert refusal(rollout(), {"prompt": "p"}) == said


SAID = {"role": "assistant", "content": "x"}
DEEP: Any = "end"
for _ in range(300):
    DEEP = [DEEP]
CIRCULAR: dict[str, Any] = {}
CIRCULAR["self"] = CIRCULAR


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"response": None}, "response: is missing"),
        ({"response": 3}, "response: must be text or a list of chat messages, but is int"),
        ({"response": "half \ud83d"}, "response: contains a lone surrogate"),
        ({"reference": "\udc00"}, "reference: contains a lone surrogate"),
        ({"prompt": "\udc00"}, "prompt: contains a lone surrogate"),
        ({"metadata": {"k": "\udc00"}}, "metadata: contains a lone surrogate"),
        ({"group_id": "\udc00"}, "group_id: contains a lone surrogate"),
        (
            {"prompt": [{"role": "user", "content": "\udc00"}]},
            "prompt: contains a lone surrogate",
        ),
        ({"prompt": None}, "prompt: must be text or a list"),
        ({"prompt": ({"role": "user", "content": "x"},)}, "prompt: must be text or a list"),
        ({"prompt": ["hi"]}, "prompt[0]: is 'hi', and must be a chat message"),
        ({"prompt": [{"role": "user"}, {"content": "x"}]}, "prompt[1].role: is missing"),
        ({"prompt": [{"role": 3, "content": "x"}]}, "prompt[0].role: is 3; name the author"),
        ({"prompt": [{"role": "user", 1: "x"}]}, "prompt[0]: is {'role': 'user', 1"),
        ({"prompt": [{"role": "user", "content": b"x"}]}, "prompt: has a value that is not JSON"),
        (
            {"prompt": [{"role": "user", "content": DEEP}]},
            "prompt: is nested deeper",
        ),
        ({"response": [3]}, "response[0]: is 3, and must be a chat message"),
        ({"response": [{"content": "x"}]}, "response[0].role: is missing; name the author"),
        (
            {"response": [SAID, {"role": "tool", "content": 3}]},
            "response[1].content: is 3; give text",
        ),
        (
            {"response": [{"role": "tool", "content": [3]}]},
            "response[0].content[0]: is 3; give parts",
        ),
        ({"response": [{**SAID, "tool_calls": "f()"}]}, "response[0].tool_calls: is 'f()'"),
        ({"response": [{**SAID, "tool_calls": ["f()"]}]}, "response[0].tool_calls: is ['f()']"),
        ({"response": [{**SAID, "reasoning_content": 3}]}, "response[0].reasoning_content: is 3"),
        ({"response": [{**SAID, "n": math.nan}]}, "response: has a value that is not JSON"),
        ({"response": [{**SAID, "content": "\udc00"}]}, "response: contains a lone surrogate"),
        ({"tools": {"name": "f"}}, "tools: must be a list of tool definitions, but is dict"),
        ({"tools": ["f"]}, "tools[0]: is 'f'; give a definition"),
        ({"tools": [{"name": math.inf}]}, "tools: has a value that is not JSON"),
        ({"reference": 42}, "reference: must be text or None"),
        ({"metadata": None}, "metadata: must be a dict"),
        ({"metadata": {1: 2}}, "metadata: must be a dict of JSON values with text as keys"),
        ({"metadata": {"k": math.nan}}, "metadata: has a value that is not JSON"),
        ({"metadata": {"k": {1, 2}}}, "metadata: has a value that is not JSON"),
        (
            {"metadata": {"k": np.float32(1)}},
            "metadata: has a value that is not JSON",
        ),
        ({"metadata": CIRCULAR}, "metadata: has a value that is not JSON"),
        ({"metadata": {"k": DEEP}}, "metadata: is nested deeper than 64 levels"),
        ({"base_score": math.nan}, "base_score: is nan; give a finite number"),
        ({"base_score": math.inf}, "base_score: is inf"),
        ({"base_score": 1e39}, "base_score: is 1e+39"),
        ({"base_score": 10**400}, "base_score: is 1000"),
        ({"base_score": "1"}, "base_score: is '1'"),
        ({"base_score": True}, "base_score: is True"),
        ({"base_score": Decimal(1)}, "base_score: is Decimal('1')"),
        ({"response_tokens": -1}, "response_tokens: is -1; give a count"),
        ({"response_tokens": 2**31}, "response_tokens: is 2147483648"),
        ({"response_tokens": 1.5}, "response_tokens: is 1.5"),
        ({"response_tokens": True}, "response_tokens: is True"),
        ({"token_ids": 3}, "token_ids: must be a sequence"),
        ({"token_ids": "123"}, "token_ids: must be a sequence"),
        ({"correct": 1}, "correct: is 1; give True, False or None"),
        ({"truncated": None}, "truncated: is None; give True or False"),
        ({"group_id": ""}, "group_id: is ''"),
        ({"group_id": 1.5}, "group_id: is 1.5"),
    ],
)
def test_a_wrong_field_is_refused_with_the_fix(fields: dict[str, Any], message: str) -> None:
    assert refusal(rollout(**fields)).startswith(f"rollouts[0].{message}")


@pytest.mark.parametrize(
    "fields",
    [
        {"response": ""},
        {"prompt": []},
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
        {"prompt": [{"role": "assistant", "content": None, "tool_calls": []}]},
        {"response": []},
        {"response": [{"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}]},
        {"response": [{"role": "tool", "content": [{"type": "text", "text": "x"}], "name": "f"}]},
        {"tools": []},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"base_score": np.float32(0.5)},
        {"base_score": Fraction(1, 2)},
        {"base_score": -3},
        {"response_tokens": np.int64(3)},
        {"correct": np.bool_(True)},
        {"truncated": np.bool_(False)},
        {"group_id": np.int64(4)},
        {"group_id": 0},
        {"metadata": {"a": {"b": [1, None, "x"]}}},
        {"token_ids": np.array([1, 2])},
    ],
)
def test_what_a_trainer_has_at_hand_is_accepted_and_can_travel(fields: dict[str, Any]) -> None:
    batch = [rollout(**fields)]
    check(batch, config())
    assert prepare(batch, config(), run="r", step=None).manifest.size == 1


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=50)
@given(
    prompt=st.text()
    | st.lists(st.dictionaries(st.just("role") | st.text(), JSON_VALUES, max_size=3), max_size=3),
    response=st.text(st.characters(codec=None)),
    group_id=st.none() | st.text(st.characters(codec=None)) | st.integers(),
    base_score=st.none() | st.floats() | st.integers(),
    metadata=st.dictionaries(st.text(st.characters(codec=None)), JSON_VALUES, max_size=3),
)
def test_what_is_accepted_can_travel(**fields: Any) -> None:
    batch = [Rollout(**fields)]
    try:
        check(batch, PLAIN)
    except InvalidRollout:
        return
    assert prepare(batch, PLAIN, run="r", step=None).manifest.size == 1


def test_a_rollout_over_the_limit_is_refused_with_its_size() -> None:
    batch = [rollout(prompt="", response="é" * 1000, reference="x")]
    check(batch, config(max_rollout_bytes=2001))
    message = refusal(rollout(prompt="p", response="é" * 1000), max_rollout_bytes=2000)
    assert "2001 bytes in total, more than max_rollout_bytes = 2000" in message


def test_metadata_counts_towards_the_limit() -> None:
    assert "metadata and tools have" in refusal(
        rollout(metadata={"k": "x" * 2000}), max_rollout_bytes=2000
    )


def test_a_group_method_needs_group_ids() -> None:
    fields = {"response_tokens": 3}
    assert "group_id: is missing" in refusal(rollout(**fields), length=BAND)
    check([rollout(**fields, group_id="g")], config(length=BAND))


def test_the_mean_of_a_group_needs_group_ids() -> None:
    keys = {"reward": {"on_missing": "group_mean"}}
    assert "group_id: is missing; `on_missing: group_mean`" in refusal(rollout(), **keys)
    check([rollout(group_id=1)], config(**keys))


def test_a_length_method_needs_lengths_or_a_tokenizer() -> None:
    batch = [rollout(group_id="g")]
    assert "response_tokens: is missing" in refusal(*batch, length=BAND)
    check(batch, config(length=BAND, tokenizer="gpt2"))
    check([rollout(group_id="g", token_ids=[1])], config(length=BAND))


def test_a_method_for_correct_rollouts_needs_correctness() -> None:
    keys = {"length": {"method": "linear", "norm": 1000, "gate_by_correctness": True}}
    assert "correct: is missing" in refusal(rollout(response_tokens=3), **keys)
    check([rollout(response_tokens=3, correct=False)], config(**keys))
    check([rollout(response_tokens=3, base_score=1.0)], config(**keys))


def test_without_length_methods_no_length_is_needed() -> None:
    check([rollout()], config())
