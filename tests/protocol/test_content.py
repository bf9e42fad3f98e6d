"""Chat content with parts becomes text with placeholders."""

import base64
import io
import json
from typing import Any

import numpy as np
import PIL.Image
import pytest

from oyer.config.rubrics.template import flatten
from oyer.protocol.content import (
    as_messages,
    content_text,
    images_as_text,
    plain_json,
    plain_messages,
    policy_text,
    tool_calls_of,
)
from oyer.protocol.images import image_url, unusable_image

BASE64 = "data:image/png;base64," + "iVBORw0KGgo" * 200


class Image:
    """Replaces Pillow's class of this name."""


class PngImageFile(Image):
    """Pillow has one class per file format."""


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("as it is", "as it is"),
        ([{"type": "text", "text": "答案是五。"}, {"type": "text", "text": "b"}], "答案是五。\nb"),
        ([{"type": "image", "image": PngImageFile()}, {"type": "text", "text": "q"}], "[image]\nq"),
        # Data sets often give each part all keys.
        ([{"type": "image", "text": None}, {"type": "text", "text": "q", "image": None}], "[image]\nq"),
        ([{"image": PngImageFile()}, {"text": "q"}], "[image]\nq"),
        ([{"type": "image_url", "image_url": {"url": BASE64}}], "[image]"),
        ([{"type": "input_audio", "input_audio": {"data": "UklGR", "format": "wav"}}], "[audio]"),
        ([{"type": "video", "video": "clip.mp4"}, "bare text"], "[video]\nbare text"),
        (np.array([{"type": "text", "text": "from parquet"}], dtype=object), "from parquet"),
        ([PngImageFile()], "[image]"),
        ([{"type": "tool_result", "content": [{"type": "text", "text": "4"}]}], "4"),
        ({"type": "text", "text": "one part"}, "one part"),
        (b"\x89PNG", "[bytes]"),
        ([np.zeros((4, 4, 3))], "[array]"),
    ],
)  # fmt: skip
def test_parts_become_text_or_placeholders(content: Any, text: str) -> None:
    assert content_text(content) == text
    (message,) = plain_messages(np.array([{"role": "user", "content": content}, None])[:1])
    assert message == {"role": "user", "content": text}
    assert json.loads(json.dumps(message)) == message
    assert flatten([{"role": "user", "content": content}]) == f"[user]\n{text}"


def test_other_fields_of_a_message_keep_json_values_without_media() -> None:
    call = {"function": {"name": "见", "arguments": {"picture": BASE64, "n": np.int64(2)}}}
    (message,) = plain_messages([{"role": "assistant", "content": None, "tool_calls": [call]}])
    assert message["content"] is None
    assert "base64" not in json.dumps(message)
    assert json.loads(plain_json(call))["function"]["arguments"] == {"picture": "[image]", "n": 2}


def test_anything_but_a_list_of_messages_is_unchanged() -> None:
    assert plain_messages("text") == "text"
    assert plain_messages(None) is None
    assert plain_messages(["no message"]) == ["no message"]


def messages_of(value: Any, **options: Any) -> list[dict[str, Any]]:
    found = as_messages(value, **options)
    assert isinstance(found, list)
    return found


def test_messages_of_a_trainer_become_json() -> None:
    picture = PIL.Image.new("RGB", (2, 2))
    completion = np.array(
        [
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm"},
                    {"type": "text", "text": "a", "image": None},
                    {"type": "text", "text": "b"},
                ],
                "tool_calls": [{"name": "f", "n": np.int64(2), "x": float("nan")}],
                "name": None,
            },
            {"role": "tool", "content": [{"type": "image", "image": picture}], "tool_call_id": "1"},
            {"content": {"type": "text", "text": "c"}, "reasoning": "so"},
        ],
        dtype=object,
    )
    first, second, third = messages_of(completion)
    assert first == {
        "role": "assistant",
        "content": "a\nb",
        "reasoning_content": "hm",
        "tool_calls": [{"name": "f", "n": 2, "x": "NaN"}],
    }
    (part,) = second["content"]
    assert part["image_url"]["url"].startswith("data:image/png;base64,iVBORw0KGgo")
    assert third == {"role": "user", "content": "c", "reasoning_content": "so"}
    json.dumps([first, second, third], allow_nan=False)
    assert messages_of(completion, images=False)[1]["content"] == "[image]"


@pytest.mark.parametrize("image", [None, "dot.png", {"path": "dot.png"}, b"BM"], ids=repr)
def test_an_image_that_cannot_be_sent_stays_an_image(image: Any) -> None:
    value = [{"role": "user", "content": [{"type": "image", "image": image}, {"text": "q"}]}]
    messages = messages_of(value)
    assert unusable_image(messages) == "[0].content[0]"
    shown = [{"role": "user", "content": "[image]\nq"}]
    assert images_as_text(messages) == messages_of(value, images=False) == shown


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", "text"),
        (None, ""),
        (3, "3"),
        ([], []),
        (["a", "b"], "a\nb"),
        ({"role": "assistant", "content": "x"}, [{"role": "assistant", "content": "x"}]),
        (({"role": "user", "content": None},), [{"role": "user", "content": None}]),
        ([{"role": 3, "content": b"x"}], [{"role": "user", "content": "[bytes]"}]),
    ],
    ids=repr,
)
def test_odd_values_become_text_or_messages(value: Any, expected: Any) -> None:
    assert as_messages(value) == expected


def test_a_value_that_holds_itself_becomes_a_placeholder() -> None:
    circular: dict[str, Any] = {}
    circular["self"] = circular
    deep: Any = "end"
    for _ in range(100):
        deep = [deep]
    message = {"role": "tool", "content": circular, "extra": circular, "deep": deep}
    assert as_messages([message]) == [
        {"role": "tool", "content": "[dict]", "extra": "[dict]", "deep": "[list]"}
    ]


JPEG = b"\xff\xd8\xff rest"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": JPEG},
        {"type": "image", "image": {"bytes": JPEG, "path": None}},
        {"type": "image_url", "image_url": "data:image/jpeg;base64,/9j/IHJlc3Q="},
        {"type": "image", "source": {"media_type": "image/jpeg", "data": "/9j/IHJlc3Q="}},
        JPEG,
    ],
    ids=str,
)
def test_images_of_many_forms_become_one(part: Any) -> None:
    (message,) = messages_of([{"role": "user", "content": [part]}])
    url = "data:image/jpeg;base64,/9j/IHJlc3Q="
    assert message == {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": url}}],
    }


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "F", "I;16"])
def test_a_picture_of_any_mode_is_encoded(mode: str) -> None:
    url = image_url(PIL.Image.new(mode, (2, 2)))
    assert url is not None
    data = base64.b64decode(url.partition(",")[2])
    assert PIL.Image.open(io.BytesIO(data)).size == (2, 2)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": "x", "image": None},
        {"type": "text", "text": "data:image/png;base64,AA"},
        {"type": "image", "image": PngImageFile()},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "video", "image": JPEG},
        "data:image/png;base64,AA",
        None,
    ],
)
def test_what_is_no_image_that_can_be_sent_has_no_url(part: Any) -> None:
    assert image_url(part) is None


def test_images_become_placeholders_and_other_messages_stay() -> None:
    picture = {"type": "image_url", "image_url": {"url": BASE64}}
    plain = {"role": "assistant", "content": "x"}
    messages = [plain, {"role": "user", "content": [picture, {"type": "text", "text": "q"}]}]
    assert images_as_text(messages) == [plain, {"role": "user", "content": "[image]\nq"}]
    assert images_as_text([plain, None]) == [plain, None]
    assert images_as_text("text") == "text"


def test_the_policys_words_are_those_of_the_assistant() -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": '{"a":  1}'}}
    messages: list[dict[str, Any]] = [
        {"role": "assistant", "content": "a", "reasoning_content": "r", "tool_calls": [call]},
        {"role": "tool", "content": "t"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": [{"type": "text", "text": "b"}]},
    ]
    called = '<tool_call>\n{"name": "f", "arguments": {"a":  1}}\n</tool_call>'
    assert policy_text(messages) == f"<think>r</think>a\n{called}\nb"
    assert policy_text("as it is") == "as it is"
    assert policy_text([]) == ""


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ({"name": "f", "arguments": {"a": 1}}, '{"name": "f", "arguments": {"a": 1}}'),
        ({"name": "f", "arguments": "not JSON"}, '{"name": "f", "arguments": "not JSON"}'),
        ({"name": "f"}, '{"name": "f", "arguments": null}'),
        ({"odd": 1}, '{"odd": 1}'),
    ],
)
def test_a_tool_call_is_shown_with_its_arguments_verbatim(call: Any, text: str) -> None:
    assert tool_calls_of({"tool_calls": [call]}) == [text]
    assert tool_calls_of({"function_call": call}) == [text]
