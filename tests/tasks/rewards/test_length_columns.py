"""Lengths by unit, and the split into thinking and answer."""

from typing import Any

import numpy as np
import pytest

from tests.support.length_batches import NAN, shaped

OVERLONG = {"method": "soft_overlong", "max_len": 10, "cache_len": 10, "name": "long"}


def counted(responses: list[Any], ids: list[list[int]] | None = None, **keys: Any) -> list[float]:
    """Return the lengths that a method gets, from a penalty of 0.1 per unit."""
    part = shaped(
        {**OVERLONG, **keys},
        n=len(responses),
        responses=responses,
        ids=ids,
        response_tokens=[7] * len(responses),
    )
    return [round(-10 * value, 6) for value in part.added["long"].tolist()]


def test_lengths_are_counted_in_the_configured_unit() -> None:
    assert counted(["abc", "äöü"]) == [7, 7]
    assert counted(["abc", "äöü"], unit="chars") == [3, 3]
    assert counted(["abc", "äöü"], unit="bytes") == [3, 6]


@pytest.mark.parametrize(
    ("response", "missing_close", "think", "answer"),
    [
        ("<think>abc</think>de", "think", 3, 2),
        (" <think>abc</think>de", "think", 3, 2),
        ("abc</think>de", "think", 3, 2),
        ("a</think>b</think>", "think", 1, 9),
        ("</think>", "think", 0, 0),
        ("<think>abc", "think", 3, 0),
        ("abc", "think", 3, 0),
        ("abc", "answer", 0, 3),
        ("", "think", 0, 0),
        ("<think>abc", "invalid", NAN, NAN),
    ],
)
def test_thinking_ends_at_the_first_closing_marker(
    response: str, missing_close: str, think: float, answer: float
) -> None:
    keys: dict[str, Any] = {"unit": "chars", "think": {"missing_close": missing_close}}
    found = [counted([response], part=part, **keys) for part in ("think", "answer")]
    np.testing.assert_array_equal(found, [[think], [answer]])


@pytest.mark.parametrize(
    ("ids", "missing_close", "think", "answer"),
    [
        ([1, 5, 5, 8, 9, 6], "think", 2, 1),
        ([5, 5, 8, 9, 6], "think", 2, 1),
        ([5, 8, 9, 8, 9], "think", 1, 2),
        ([5, 8, 6], "think", 3, 0),
        ([5, 8, 6], "answer", 0, 3),
        ([], "think", 0, 0),
        ([5, 8, 6], "invalid", NAN, NAN),
    ],
)
def test_token_ids_are_split_at_the_markers_ids(
    ids: list[int], missing_close: str, think: float, answer: float
) -> None:
    marks = {"open_ids": [1], "close_ids": [8, 9], "missing_close": missing_close}
    # The row before ends with the marker's first id: a marker must not span two rows.
    rows = [[7, 8], ids]
    found = [counted(["", ""], rows, part=part, think=marks)[1] for part in ("think", "answer")]
    np.testing.assert_array_equal(found, [think, answer])


CALL = {"function": {"name": "f", "arguments": "{}"}}
TRAJECTORY = [
    {"role": "assistant", "content": "ab", "reasoning_content": "123"},
    {"role": "tool", "content": "what a tool returned is nobody's length"},
    {"role": "assistant", "content": "cd", "reasoning_content": "45"},
    {"role": "assistant", "content": "e"},
]


def test_of_messages_only_the_policys_own_words_count() -> None:
    wide: dict[str, Any] = {"max_len": 100, "cache_len": 100, "unit": "chars"}
    words = "<think>123</think>ab\n<think>45</think>cd\ne"
    assert counted([TRAJECTORY], **wide) == [len(words) / 10]
    own = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    called = [{"role": "assistant", "content": None, "tool_calls": [CALL]}]
    assert counted([called], **wide) == [len(own) / 10]


def test_reasoning_of_messages_is_thinking() -> None:
    marks: dict[str, Any] = {"think": {"open": "<r>", "close": "</r>"}}
    for keys in ({}, marks):
        assert counted([TRAJECTORY], part="think", unit="chars", **keys) == [len("123\n45")]
        assert counted([TRAJECTORY], part="answer", unit="chars", **keys) == [len("ab\ncd\ne")]
    open_end = [*TRAJECTORY, {"role": "assistant", "content": "<think>cut"}]
    assert counted([open_end], part="think", unit="chars") == [len("123\n45\ncut")]


def test_custom_markers_split_texts() -> None:
    marks = {"open": "[[", "close": "]]"}
    assert counted(["[[ab]]cde"], unit="chars", part="think", think=marks) == [2]
    assert counted(["[[ab]]cde"], unit="chars", part="answer", think=marks) == [3]


def test_a_response_without_closing_marker_is_excluded_under_invalid() -> None:
    grlc = {"method": "grlc", "unit": "chars", "think": {"missing_close": "invalid"}}
    closed = ["ab</think>c", "abcd</think>c", "abcdef</think>c"]
    part = shaped(grlc, responses=[*closed, "no end of thinking"], base_score=[1, 1, 0, 1])
    alone = shaped(grlc, n=3, responses=closed, base_score=[1, 1, 0])
    assert np.isnan(part.added["grlc"][3])
    np.testing.assert_array_equal(part.added["grlc"][:3], alone.added["grlc"])
    assert part.kept is not None
    assert part.kept.tolist() == [True, True, True, False]
