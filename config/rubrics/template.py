"""Renders a rubric and a rollout into the chat messages for a judge.

- Placeholders are filled in one pass: a placeholder inside a value is never filled.
- Each part of the rollout, its metadata included, is fenced by more backticks than any run of them
  inside it. In a response of messages, each author's part has its own fence under a role line.
"""

import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from oyer.config.criteria.criterion import Criterion
from oyer.config.rubrics.metadata import is_metadata
from oyer.config.rubrics.wording import WORDS
from oyer.protocol.content import PLACEHOLDERS, content_text, plain_json

ROLLOUT_PARTS = ("prompt", "tools", "reference", "response")
"""Placeholders of one part of the rollout, which is fenced."""

PLACEHOLDER = re.compile(r"\\[A-Za-z]+\{[\w.]*\}|(\{*)\{([A-Za-z_]\w*(?:\.[\w-]+)*)\}")
"""A name in braces, or names with dots (group 2; group 1: doubled braces), or a LaTeX argument (no group),
kept as is."""

_ROLE_LINE = re.compile(rf"(?m)^(?=\s*\[(?!(?:{'|'.join(PLACEHOLDERS)})\])\w+\]\s*$)")
"""The start of a content line that looks like a role line; media placeholders are excepted."""

_NOT_A_NAME = re.compile(r"[^\w.:/-]+")
_MAX_NAME = 60
"""Longest role or tool name in a role line, in characters."""


class ScoreBand(BaseModel):
    """One criterion of a rubric."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    name: str = Field(min_length=1)
    text: str = ""
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    choices: tuple[str, ...] = ()


class Responses(NamedTuple):
    """The responses of a group, each as text or as the parts of messages."""

    shown: Sequence["str | Sequence[TranscriptPart]"]


class TranscriptPart(NamedTuple):
    """A part of a response of messages, written by one author."""

    role: str
    kind: Literal["words", "reasoning", "call", "answer"]
    """`answer` is what a tool or user wrote; the others are the policy's."""
    text: str
    number: int | None = None
    """Of a tool call, or of the one that is answered."""
    name: str | None = None
    """Of the tool or user that answered."""


@dataclass(frozen=True, slots=True)
class RubricTemplate:
    """A parsed rubric, for `render`."""

    system: str
    """Template of the system message; empty if there is none."""
    user: str
    """Template of the user message."""
    name: str | None = None
    language: Literal["en", "zh"] = "en"
    scale: tuple[float, float] | None = None
    """Scale that the text was written for; None if the text fits any scale."""
    reason_first: bool = True
    levels: tuple[str, ...] = ()
    """The meaning of the scores, from worst to best."""
    criteria: tuple[ScoreBand, ...] = ()
    places: frozenset[str] = frozenset()
    """The placeholders of the user message."""
    reply: Literal["score", "verdicts", "comparison"] = "score"
    """`verdicts`: the judge is asked for a verdict on each criterion, not for one score."""
    verdicts_on: tuple[Criterion, ...] = ()
    """The criteria of a rubric that asks for verdicts."""

    @property
    def metadata_places(self) -> list[str]:
        """The placeholders that a rollout's metadata fill, e.g. `metadata.topic`."""
        return sorted(place for place in self.places if is_metadata(place))


def render(
    rubric: RubricTemplate,
    *,
    prompt: str | Sequence[Mapping[str, Any]],
    response: str | Sequence[TranscriptPart] | Responses,
    reference: str | None,
    scale: tuple[float, float],
    tools: Sequence[Mapping[str, Any]] | None = None,
    cut: bool = False,
    verdict: str | None = None,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Render a rubric with one rollout, or with the rollouts of a group.

    Args:
        prompt: text or chat messages; messages become text with a `[role]` line before each.
        response: text, or the parts of a response of messages; those of a group are shown under the
            headings `## Response 1`, `## Response 2` ….
        reference: the reference answer, or None.
        scale: lowest and highest score the judge may give.
        tools: definitions of the tools that the policy could call. A rubric without a place for them
            shows them behind the prompt, or before the response.
        cut: whether parts of the response were shortened, which the judge is told.
        verdict: the form of the reply, in place of a verdict line; ends the system message by default.
        metadata: the texts for `rubric.metadata_places`, by placeholder.

    Returns:
        Chat messages: the system message, if the rubric has one, and the user message.
    """
    words = WORDS[rubric.language]
    parts = _context(prompt, reference, tools, words)
    parts["response"] = _response(response, cut, words)
    title = "" if isinstance(response, Responses) else f"{words['response']}\n"
    titles = {part: f"{words[part]}\n" for part in ROLLOUT_PARTS} | {"response": title}
    absent = {"tools": not tools, "reference": reference is None}
    whole = [titles[part] + parts[part] for part in ROLLOUT_PARTS if not absent.get(part)]
    if tools and not {"tools", "rollout"} & rubric.places:
        _place_tools(parts, rubric, words, title)
    values = {
        **parts,
        "rollout": "\n\n".join([*whole, words["guard"]]),
        **_scale_values(rubric, scale),
        **{place: fence(text) for place, text in metadata.items()},
    }
    return _messages(rubric, values, verdict)


def _context(
    prompt: str | Sequence[Mapping[str, Any]],
    reference: str | None,
    tools: Sequence[Mapping[str, Any]] | None,
    words: Mapping[str, str],
) -> dict[str, str]:
    return {
        "prompt": fence(prompt if isinstance(prompt, str) else flatten(prompt)),
        "tools": fence("\n".join(map(plain_json, tools))) if tools else words["none"],
        "reference": fence(reference) if reference is not None else words["none"],
    }


def _messages(
    rubric: RubricTemplate, values: Mapping[str, str], verdict: str | None
) -> list[dict[str, Any]]:
    if verdict is not None:
        values = {**values, "verdict": verdict}
    messages = [{"role": "user", "content": _fill(rubric.user, values)}]
    if rubric.system:
        messages.insert(0, {"role": "system", "content": _fill(rubric.system, values)})
    if verdict is not None and "{verdict}" not in rubric.system + rubric.user:
        messages[0]["content"] += f"\n\n{verdict}"
    return messages


def _place_tools(
    parts: dict[str, str], rubric: RubricTemplate, words: Mapping[str, str], title: str
) -> None:
    """Show the tools behind the prompt, or before the response if the rubric shows no prompt."""
    heading = f"{words['tools']}\n{parts['tools']}"
    if "prompt" in rubric.places:
        parts["prompt"] += f"\n\n{heading}"
    else:
        parts["response"] = f"{heading}\n\n{title}{parts['response']}"


def fence(content: str) -> str:
    """Fence content with backticks that it cannot close."""
    runs = re.findall(r"`+", content) if "`" in content else ()
    longest = max(map(len, runs), default=0)
    bar = "`" * max(3, longest + 1)
    return f"{bar}\n{content}\n{bar}"


def flatten(messages: Sequence[Mapping[str, Any]]) -> str:
    """Convert chat messages to text: a `[role]` line, the content as text, tool calls as JSON.

    A content line that looks like a role line is escaped, so that no message can start another.
    """
    blocks = []
    for message in messages:
        role = str(message.get("role", "user"))
        lines = [f"[{role}]"]
        if message.get("content"):
            lines.append(_ROLE_LINE.sub(r"\\", content_text(message["content"])))
        extra = {k: v for k, v in message.items() if k not in {"role", "content"} and v}
        lines += [f"{k}: {plain_json(v)}" for k, v in extra.items()]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _response(
    response: str | Sequence[TranscriptPart] | Responses, cut: bool, words: Mapping[str, str]
) -> str:
    notes = [words["cut"]] if cut else []
    if isinstance(response, Responses):
        blocks = [
            f"## Response {number}\n{_response(one, False, words)}"
            for number, one in enumerate(response.shown, start=1)
        ]
        return "\n\n".join([*notes, *blocks])
    if isinstance(response, str):
        return "\n\n".join([*notes, fence(response)])
    if not response:
        return words["none"]
    blocks = [f"{_role_line(part, words)}\n{fence(part.text)}" for part in response]
    return "\n\n".join([words["authors"], *notes, *blocks])


def _role_line(part: TranscriptPart, words: Mapping[str, str]) -> str:
    """Return the line above a part, e.g. `[tool] (result of tool call 1)`; names are made harmless."""
    role = _NOT_A_NAME.sub("_", part.role)[:_MAX_NAME]
    if part.kind == "reasoning":
        remark = words["reasoning"]
    elif part.number is not None:
        remark = words[f"numbered_{part.kind}"].format(number=part.number)
    elif part.kind == "call":
        remark = words["call"]
    else:
        remark = f"({_NOT_A_NAME.sub('_', part.name)[:_MAX_NAME]})" if part.name else ""
    return f"[{role}] {remark}".rstrip()


def _fill(template: str, values: Mapping[str, str]) -> str:
    return PLACEHOLDER.sub(lambda m: values[m[2]] if m[2] else m[0], template)


@functools.lru_cache(maxsize=64)
def _scale_values(rubric: RubricTemplate, scale: tuple[float, float]) -> dict[str, str]:
    words = WORDS[rubric.language]
    bounds = {"low": f"{scale[0]:g}", "high": f"{scale[1]:g}"}
    total = sum(criterion.weight for criterion in rubric.criteria)
    criteria = []
    for criterion in rubric.criteria:
        share = f"{criterion.weight / total:.0%}"
        criteria.append(
            words["criterion"].format(name=criterion.name, share=share, text=criterion.text)
        )
        if criterion.choices:
            criteria.append(words["choices"].format(choices=" < ".join(criterion.choices)))
    bands = score_bands(len(rubric.levels), scale)
    levels = [
        words["level"].format(band=band, text=text)
        for band, text in zip(bands, rubric.levels, strict=True)
    ]
    verdict = words["reason_first" if rubric.reason_first else "verdict_only"]
    return {
        **bounds,
        "criteria": "\n".join(criteria),
        "levels": "\n".join(levels),
        "verdict": verdict.format(**bounds),
    }


def score_bands(count: int, scale: tuple[float, float]) -> list[str]:
    """Spread `count` levels evenly over a scale: `1-2`, `3-4` … on [1, 10], points on [0, 1]."""
    low, high = map(float, scale)
    whole = high - low + 1
    if count and low.is_integer() and high.is_integer() and whole >= count:
        edges = [int(low + whole * i // count) for i in range(count + 1)]
        return [f"{a}" if b - a == 1 else f"{a}-{b - 1}" for a, b in itertools.pairwise(edges)]
    step = (high - low) / max(1, count - 1)
    return [f"{low + step * i:.3g}" for i in range(count)]
