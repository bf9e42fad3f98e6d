"""JSON with the slips of judges is decoded, and nothing is added to it."""

import json
from typing import Any

import pytest

from oyer.tasks.parsing.json_objects import MAX_RELAXED, ReplyDecoder
from oyer.tasks.parsing.normalize import unescaped


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1,}', {"a": 1}),
        ('{"a": [1, 2, ], // two\n}', {"a": [1, 2]}),
        ('{"a": 1, # one\n "b": /* two */ 2}', {"a": 1, "b": 2}),
        ("{'a': True, 'b': None, 'c': False}", {"a": True, "b": None, "c": False}),
        ("{'a': 'it\\'s \"so\"'}", {"a": "it 's 'so'"}),
        ('{"a": "\\(x\\)"}', {"a": "⧵(x⧵)"}),
        ('{"a": "1, // 2, ] True \'b\'",}', {"a": "1, // 2, ] True 'b'"}),
        ('{"a": "\\"",}', {"a": '"'}),
    ],
)
def test_slips_change_no_value(text: str, value: Any) -> None:
    decoder = ReplyDecoder()
    assert decoder.at(f"Here: {text} and more", 6) == (value, 6 + len(text))


@pytest.mark.parametrize(
    "text", ['{"a": 1', '{"a": 1 "b": 2}', "{a: 1}", "{'a': 'it's'}", '{"a": }', ""]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Expecting"):
        ReplyDecoder().at(text, 0)


def test_slips_are_mended_a_few_times_only() -> None:
    decoder = ReplyDecoder()
    for _ in range(MAX_RELAXED):
        assert decoder.at('{"a": 1,}', 0)[0] == {"a": 1}
    with pytest.raises(ValueError, match="property name"):
        decoder.at('{"a": 1,}', 0)
    assert decoder.at('{"a": 1}', 0)[0] == {"a": 1}


@pytest.mark.parametrize("text", ['{"score": 8}', '{"reason": "it says \\"no\\"",\n "score": 8}'])
def test_an_object_that_was_encoded_as_a_text_is_taken_out(text: str) -> None:
    encoded = json.dumps(text)
    assert unescaped(encoded) == unescaped(encoded[1:-1]) == unescaped(text) == text


@pytest.mark.parametrize("text", ['"{', '{\\"a": 1}', '"{}" is empty', '"text"', ""])
def test_another_text_stays_as_it_is(text: str) -> None:
    assert unescaped(text) == text
