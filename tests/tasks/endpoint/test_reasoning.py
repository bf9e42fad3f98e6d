"""The reasoning of a judge's model is found wherever an endpoint puts it, and kept from the reply."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from oyer.tasks.endpoint.reasoning import reasoning_of
from oyer.tasks.endpoint.responses import read_response
from oyer.tasks.endpoint.types import Reply


def replied(message: Any) -> Reply:
    body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
    result = read_response(200, {}, body, now=datetime(2026, 1, 1, tzinfo=UTC))
    assert isinstance(result, Reply)
    return result


@pytest.mark.parametrize(
    ("message", "reasoning", "text"),
    [
        ({"content": "8"}, None, "8"),
        ({"content": "8", "reasoning_content": ""}, None, "8"),
        ({"content": "8", "reasoning_content": "Hm, 2?"}, "Hm, 2?", "8"),
        ({"content": "8", "reasoning": "Hm, 2?", "reasoning_content": None}, "Hm, 2?", "8"),
        ({"content": None, "reasoning": "Hm, 2?"}, "Hm, 2?", ""),
        (
            {
                "content": "8",
                "reasoning_details": [
                    {"type": "reasoning.summary", "summary": "Hm, "},
                    {"type": "reasoning.encrypted", "data": "9f2c"},
                    {"type": "reasoning.text", "text": "2?", "signature": "s"},
                ],
            },
            "Hm, 2?",
            "8",
        ),
        # OpenRouter sends the same text in two fields.
        (
            {"content": "8", "reasoning": "Hm.", "reasoning_details": [{"text": "Hm."}]},
            "Hm.",
            "8",
        ),
        (
            {"content": "8", "thinking_blocks": [{"type": "thinking", "thinking": "Hm."}]},
            "Hm.",
            "8",
        ),
        (
            {"content": [{"type": "reasoning", "text": "2?"}, {"type": "text", "text": "8"}]},
            "2?",
            "8",
        ),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "2?"}]},
                    {"type": "text", "text": "8"},
                ]
            },
            "2?",
            "8",
        ),
        ({"content": "<think>2?</think>8"}, "2?", "<think>2?</think>8"),
        ({"content": "2?</think>\n8"}, "2?", "2?</think>\n8"),
        ({"content": "<think>2?"}, "2?", "<think>2?"),
        (
            {"content": "[THINK]a[/THINK]8<think>b</think>"},
            "a\nb",
            "[THINK]a[/THINK]8<think>b</think>",
        ),
        ({"content": "The `<think>` tag is missing: 8"}, None, "The `<think>` tag is missing: 8"),
        ({"content": "8", "reasoning_content": "nul \0 half \ud83d"}, "nul  half ?", "8"),
        ({"content": "8", "reasoning": {"tokens": 3}, "thinking": 7}, None, "8"),
    ],
    ids=repr,
)
def test_reasoning_is_separated_from_the_reply(
    message: Any, reasoning: str | None, text: str
) -> None:
    reply = replied(message)
    assert (reply.reasoning, reply.text) == (reasoning, text)


def test_reasoning_nested_without_end_is_read_to_a_depth_that_endpoints_use() -> None:
    nested: Any = "deep"
    for _ in range(10_000):
        nested = [nested]
    assert reasoning_of({"reasoning": nested}) == ""
