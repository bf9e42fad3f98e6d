"""The tokens that a response was billed for, in each form in which endpoints report them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.tasks.endpoint.token_usage import MAX_COUNT, token_usage

OPENAI = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


def details(reasoning_tokens: int) -> dict[str, Any]:
    return {"completion_tokens_details": {"reasoning_tokens": reasoning_tokens}}


@pytest.mark.parametrize(
    ("usage", "prompt", "completion"),
    [
        (OPENAI, 100, 20),
        # OpenAI's completion holds the thinking:
        ({**OPENAI, **details(15)}, 100, 20),
        # Only the total holds it:
        ({**OPENAI, "total_tokens": 2120}, 100, 2020),
        # xAI: beside the completion, and in the total:
        ({**OPENAI, **details(300), "total_tokens": 420}, 100, 320),
        # Only the details hold it:
        ({**OPENAI, **details(3000)}, 100, 3020),
        ({"prompt_tokens": 100, "completion_tokens": 0, **details(3000)}, 100, 3000),
        ({"prompt_tokens": 100, **details(3000)}, 100, 3000),
        ({**OPENAI, "reasoning_tokens": 400}, 100, 420),
        ({"prompt_tokens": 100, "total_tokens": 120}, 100, 20),
        ({"completion_tokens": 20, "total_tokens": 120}, 100, 20),
        ({"total_tokens": 120}, 0, 120),
        ({**OPENAI, "total_tokens": 7}, 100, 20),
        ({**OPENAI, "total_tokens": None}, 100, 20),
        # Anthropic: what was cached is beside `input_tokens`:
        (
            {
                "input_tokens": 100,
                "cache_read_input_tokens": 50,
                "cache_creation_input_tokens": 7,
                "output_tokens": 20,
            },
            157,
            20,
        ),
        # Bedrock: `totalTokens` includes what was cached.
        (
            {
                "inputTokens": 10,
                "outputTokens": 5,
                "totalTokens": 115,
                "cacheReadInputTokens": 60,
                "cacheWriteInputTokens": 40,
            },
            110,
            5,
        ),
        ({**OPENAI, "cache_read_input_tokens": 50}, 100, 20),
        ({"input_tokens": 100, "output_tokens": 20, "output_tokens_details": {}}, 100, 20),
        (
            {
                "input_tokens": 9,
                "output_tokens": 4,
                "output_tokens_details": {"reasoning_tokens": 6},
            },
            9,
            10,
        ),
        ({"inputTokens": 100, "outputTokens": 20, "totalTokens": 120}, 100, 20),
        ({"billed_units": {"input_tokens": 100, "output_tokens": 20}}, 100, 20),
        ({"input_token_count": 100, "generated_token_count": 20}, 100, 20),
        ({"prompt_tokens": 100.0, "completion_tokens": "20"}, 100, 20),
    ],
)
def test_the_larger_reading_counts(usage: dict[str, Any], prompt: int, completion: int) -> None:
    found = token_usage({"usage": usage})
    assert (found["prompt_tokens"], found["completion_tokens"]) == (prompt, completion)
    assert found["usage_reported"] is True


@pytest.mark.parametrize(
    ("usage", "cached", "reasoning"),
    [
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 20,
                "prompt_tokens_details": {"cached_tokens": 64},
                "completion_tokens_details": {"reasoning_tokens": 12},
            },
            64,
            12,
        ),
        ({"prompt_tokens": 100, "completion_tokens": 20, "prompt_cache_hit_tokens": 80}, 80, 0),
        ({"input_tokens": 10, "output_tokens": 20, "cache_read_input_tokens": 90}, 90, 0),
        ({"prompt_tokens": 10, "completion_tokens": 2, "prompt_cache_hit_tokens": 99}, 10, 0),
    ],
)
def test_cached_and_reasoning_tokens_are_parts_of_the_others(
    usage: dict[str, Any], cached: int, reasoning: int
) -> None:
    found = token_usage({"usage": usage})
    assert (found["cached_tokens"], found["reasoning_tokens"]) == (cached, reasoning)


GEMINI = {"promptTokenCount": 100, "candidatesTokenCount": 20, "thoughtsTokenCount": 15}


@pytest.mark.parametrize(
    ("data", "completion"),
    [
        ({"usageMetadata": GEMINI}, 35),
        ({"usage_metadata": {**GEMINI, "totalTokenCount": 135}, "usage": None}, 35),
        ({"x_groq": {"usage": OPENAI}}, 20),
        ({"choices": [{"usage": OPENAI}]}, 20),
        ({"usage": OPENAI, "x_groq": {"usage": {**OPENAI, "completion_tokens": 9}}}, 20),
    ],
)
def test_the_counts_are_found_where_providers_put_them(data: Any, completion: int) -> None:
    found = token_usage(data)
    assert (found["prompt_tokens"], found["completion_tokens"]) == (100, completion)
    assert found["usage_reported"]


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"usage": []},
        {"usage": {}},
        {"usage": {"prompt_tokens": 12}},
        {"usage": {"completion_tokens": 12}},
        {"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}},
        {"usage": {"prompt_tokens": "x", "completion_tokens": -1, "total_tokens": "nan"}},
        {"usage": {"total_tokens": 10 * MAX_COUNT}},
    ],
)
def test_what_is_missing_or_absurd_is_not_reported(data: Any) -> None:
    assert token_usage(data)["usage_reported"] is False


counts = st.integers(0, MAX_COUNT)


@given(prompt=counts, completion=counts, total=counts, thinking=counts)
def test_no_field_is_larger_than_what_is_counted(
    prompt: int, completion: int, total: int, thinking: int
) -> None:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
    found = token_usage({"usage": {**usage, **details(thinking)}})
    assert found["prompt_tokens"] == prompt
    assert min(MAX_COUNT, max(completion, thinking, total - prompt)) <= found["completion_tokens"]
    assert found["completion_tokens"] <= MAX_COUNT
