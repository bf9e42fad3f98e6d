"""Chat content with parts becomes text with placeholders."""

import json
from typing import Any

import numpy as np
import pytest

from oyer.config.template import flatten
from oyer.protocol.content import content_text, plain_json, plain_messages

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
