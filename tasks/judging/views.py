"""Decides what a judge is shown of a rollout, and renders its messages; pure.

A response of messages becomes parts: the policy's words, reasoning and tool calls, and what tools and
users answered. The judge's `view` selects parts, `max_view_chars` cuts them, and `images` says what
happens to images.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from oyer.config import rubric as rubrics
from oyer.config.judge import JudgeConfig
from oyer.config.rubrics.template import TranscriptPart
from oyer.protocol.content import content_text, tool_calls_of
from oyer.protocol.images import image_url, images_in
from oyer.protocol.rollout import Message
from oyer.tasks.judging.empty_response import has_content

MAX_IMAGES = 20
"""Most images of one request; common limits of endpoints are 20 to 100 and more."""

MAX_IMAGE_BYTES = 16 * 2**20
"""Largest total of the image URLs of one request, in bytes; `max_rollout_bytes` is usually lower."""

_THINKING = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_TOOL_CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)

_OWN = ("words", "reasoning", "call")
"""Kinds of parts that the policy wrote."""


@dataclass(frozen=True, slots=True)
class ViewSettings:
    """The settings of a judge that decide what it is shown; defaults as in `JudgeConfig`."""

    view: str = "full"
    max_view_chars: int | None = None
    images: str = "placeholder"

    @classmethod
    def of(cls, judge: JudgeConfig) -> "ViewSettings":
        """Return a judge's settings."""
        return cls(judge.view, judge.max_view_chars, judge.images)

    @property
    def changed(self) -> dict[str, Any]:
        """The settings that differ from the defaults, by name."""
        return {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if getattr(self, one.name) != one.default
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownRollout:
    """The texts of a rollout from which a request is rendered."""

    prompt: str | Sequence[Message]
    response: str | Sequence[Message]
    reference: str | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The texts for the rubric's placeholders of metadata, by placeholder."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """The messages for a judge, or why there are none."""

    messages: list[Message] = field(default_factory=list)
    truncated: bool = False
    """Whether `max_view_chars` cut the response."""
    error: str | None = None
    """Why the rollout cannot be shown to this judge."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """As in `ShownRollout`."""


class Selected(NamedTuple):
    """What a view shows of a response."""

    response: str | list[TranscriptPart]
    truncated: bool


def render_request(
    rubric: rubrics.RubricTemplate,
    rollout: ShownRollout,
    *,
    scale: tuple[float, float],
    settings: ViewSettings,
) -> Rendered:
    """Render a rubric with what a judge is to be shown of a rollout."""
    prompt, response, urls = rollout.prompt, rollout.response, []
    if settings.images != "placeholder":
        urls = [*images_in(prompt), *images_in(response)]
        error = images_problem(urls, settings)
        if error is not None:
            return Rendered(error=error)
        prompt, response = numbered(prompt, 1), numbered(response, 1 + len([*images_in(prompt)]))
    shown = selected(response, settings)
    messages = rubrics.render(
        rubric,
        prompt=prompt,
        response=shown.response,
        reference=rollout.reference,
        tools=rollout.tools,
        scale=scale,
        cut=shown.truncated,
        metadata=rollout.metadata,
    )
    images = [(f"[image {number}]", url) for number, url in enumerate(urls, start=1)]
    return Rendered(with_images(messages, images), shown.truncated, metadata=rollout.metadata)


def shows_nothing(response: str | Sequence[Message], settings: ViewSettings) -> bool:
    """Whether a view without thinking leaves nothing of a response that is not empty itself."""
    if settings.view not in ("last_reply", "no_thinking"):
        return False
    shown = _viewed(response, settings.view)
    if not isinstance(shown, str):
        shown = "\n".join(part.text for part in shown if part.kind in _OWN)
    return not has_content(shown)


def without_thinking(text: str) -> str:
    """Remove `<think>…</think>`; an opening marker may be missing at the start, or a closing one."""
    head, closing, rest = text.partition("</think>")
    if closing and "<think>" not in head:
        text = rest
    return _THINKING.sub("", text).strip() if closing or "<think>" in text else text


def selected(response: str | Sequence[Message], settings: ViewSettings) -> Selected:
    """Select and cut the parts of a response that a judge is shown."""
    shown = _viewed(response, settings.view)
    if settings.max_view_chars is None:
        return Selected(shown, False)
    texts = [shown] if isinstance(shown, str) else [part.text for part in shown]
    cut = cut_middles(texts, settings.max_view_chars)
    if cut == texts:
        return Selected(shown, False)
    if isinstance(shown, str):
        return Selected(cut[0], True)
    return Selected([part._replace(text=text) for part, text in zip(shown, cut, strict=True)], True)


def _viewed(response: str | Sequence[Message], view: str) -> str | list[TranscriptPart]:
    if isinstance(response, str):
        if view in ("last_reply", "no_thinking"):
            return without_thinking(response)
        if view == "tool_calls":
            return [TranscriptPart("assistant", "call", call) for call in _calls_in(response)]
        return response
    if view == "last_reply":
        own = [message for message in response if message.get("role") == "assistant"]
        return without_thinking(content_text(own[-1].get("content") or "")) if own else ""
    parts = transcript(response)
    if view == "tool_calls":
        return [one for part in parts for one in _tool_parts(part)]
    if view == "no_thinking":
        kept = [part for part in parts if part.kind != "reasoning"]
        bare = [
            part._replace(text=without_thinking(part.text)) if part.kind == "words" else part
            for part in kept
        ]
        return [part for part in bare if part.text.strip()]
    return parts


def _tool_parts(part: TranscriptPart) -> list[TranscriptPart]:
    """Return a part if it is a tool call or result, or the calls in the policy's words."""
    if part.kind == "words":
        return [TranscriptPart("assistant", "call", call) for call in _calls_in(part.text)]
    return [part] if part.kind == "call" or part.role in ("tool", "function") else []


def _calls_in(text: str) -> list[str]:
    return [call for call in _TOOL_CALL.findall(text) if call]


def transcript(messages: Sequence[Message]) -> list[TranscriptPart]:
    """Split messages into parts, each written by one author.

    Tool calls are numbered, and results name the number: ids differ between equal rollouts.
    """
    parts: list[TranscriptPart] = []
    numbers: dict[str, int] = {}
    made = 0
    for message in messages:
        role, text = str(message.get("role")), content_text(message.get("content") or "")
        if role != "assistant":
            number = numbers.get(str(message.get("tool_call_id")))
            name = message.get("name")
            parts.append(TranscriptPart(role, "answer", text, number, str(name) if name else None))
            continue
        if message.get("reasoning_content"):
            reasoning = content_text(message["reasoning_content"])
            parts.append(TranscriptPart(role, "reasoning", reasoning))
        calls = tool_calls_of(message)
        if text or not calls:
            parts.append(TranscriptPart(role, "words", text))
        ids = [call.get("id") for call in message.get("tool_calls") or () if isinstance(call, dict)]
        for i, call in enumerate(calls):
            made += 1
            if i < len(ids) and ids[i]:
                numbers[str(ids[i])] = made
            parts.append(TranscriptPart(role, "call", call, made))
    return parts


def cut_middles(texts: Sequence[str], limit: int) -> list[str]:
    """Cut the middle of the longest texts so that at most `limit` characters are left in total.

    The note in the place of what was cut is not counted.
    """
    left, cap = limit, limit
    for rank, size in enumerate(sorted(map(len, texts))):
        cap = left // (len(texts) - rank)
        if size > cap:
            break
        left -= size
    else:
        return list(texts)
    return [text if len(text) <= cap else _cut(text, cap) for text in texts]


def _cut(text: str, cap: int) -> str:
    tail = cap // 2
    head = cap - tail
    removed = len(text) - cap
    return f"{text[:head]}\n[… {removed} characters cut …]\n{text[len(text) - tail :]}"


def images_problem(
    urls: Sequence[str], settings: ViewSettings, of: str = "the rollout"
) -> str | None:
    """Return why images cannot be shown to a judge, or None.

    Args:
        of: what has them, for the message.
    """
    if not urls:
        return None
    if settings.images == "reject":
        return (
            f"{of} has images ({len(urls)}), and the judge's `images` is `reject`; set it to"
            " `send`, or to `placeholder` to judge the text alone"
        )
    if len(urls) > MAX_IMAGES:
        return f"{of} has {len(urls)} images, and a request has at most {MAX_IMAGES}"
    size = sum(len(url.encode()) for url in urls)
    if size > MAX_IMAGE_BYTES:
        return f"the images have {size} bytes, and a request has at most {MAX_IMAGE_BYTES}"
    return None


def numbered(messages: Any, first: int = 1) -> Any:
    """Replace each image by the text `[image N]`, counted from `first`."""
    if isinstance(messages, str):
        return messages
    number = first
    found = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            parts = []
            for part in content:
                image = image_url(part) is not None
                parts.append({"type": "text", "text": f"[image {number}]"} if image else part)
                number += image
            message = {**message, "content": parts}
        found.append(message)
    return found


def with_images(messages: list[Message], images: Sequence[tuple[str, str]]) -> list[Message]:
    """Put images behind the text of the user message, each under its label.

    Args:
        images: label and URL of each.
    """
    if not images:
        return messages
    *before, user = messages
    parts: list[Message] = [{"type": "text", "text": user["content"]}]
    for label, url in images:
        parts.append({"type": "text", "text": label})
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return [*before, {**user, "content": parts}]
