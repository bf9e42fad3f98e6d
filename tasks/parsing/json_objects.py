"""Finds verdict objects: JSON and Python dicts that hold a score.

- A verdict object is the whole reply, or opens or ends it; one in the middle may be quoted.
- `ReplyDecoder` reads JSON also with the slips that change no value: trailing commas, comments,
  single quotes, Python's `True`, `False` and `None`, and backslashes of LaTeX in texts. Nothing is
  added to a text that is cut off.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any

from oyer.tasks.parsing.candidates import Candidate, Rank
from oyer.tasks.parsing.object_values import stated_score
from oyer.tasks.parsing.vocabulary import finder

MAX_OBJECTS = 64
"""Objects parsed, counted from the end of the reply."""

_QUOTES = finder(
    """call, calls, called, tool, argument, arguments, invok*, return, returns, returned, output, outputs,
    wrote, writes, says, said, contain, contains, generated, produced, emit*, inject*, example, format,
    expected, reference, 调用, 参数, 返回, 自带, 附带, 嵌入, 写着, 输出了, 工具, 注入, 示例, 例如, 格式, 内容, 参考"""
)
_SENTENCE = re.compile(r"[.!?。)]\W*$")
_PARAGRAPH = re.compile(r"\n[ \t]*\n")
_INTRODUCED = re.compile(
    r"\b(?:here\s+(?:it\s+is|is)|here's|my\s+(?:final\s+|overall\s+|own\s+|revised\s+)?(?:verdict|evaluation|assessment|rating|score|judge?ment|answer))\b"
    r"[^:\n]{0,40}:\s*$|(?:如下|我的(?:评分|评价|评估|判断|结论)[^:\n]{0,10}):\s*$",
    re.IGNORECASE,
)
_BRACE = re.compile(r"(?<!\\)[{}]")
_OPEN_BRACE = re.compile(r"(?<!\\)\{")
_DECODER = json.JSONDecoder(strict=False)
_NEXT_OBJECT = re.compile(r"\n[ \t]*(?=\{\s*[\"'“])")
_OPENING = re.compile(r"\{(?:\s|//[^\n]{0,200}\n|/\*[^*]{0,200}\*/|\#[^\n]{0,200}\n)*[\"'“\w]")
_FENCE_MARK = re.compile(r"(?:`{3}|~{3})[\w-]*")
_FENCED = re.compile(r"[ \t]*(?:`{3,}|~{3,})[\w-]*[ \t]*|json", re.IGNORECASE)

MAX_RELAXED_CHARS = 32_768
"""A longer text is decoded strictly only."""

MAX_RELAXED = 4
"""Most values of one reply whose slips are mended; this bounds the work on any reply."""

_TOKEN = re.compile(
    # A string without an end takes the rest, so that no search starts again at its escaped quotes.
    r"""(?P<double>"(?:[^"\\]|\\.)*(?:"|\\?\Z))
      | (?P<single>(?<=[{\[,:\s])'(?:[^'\\\n]|\\.)*'(?=\s{0,9}[:,}\]]))
      | (?P<comment>//[^\n]*|/\*.{0,500}?\*/|\#[^\n]*)
      | (?P<comma>,(?=(?:\s|//[^\n]{0,200}\n|\#[^\n]{0,200}\n){0,80}[}\]]))
      | (?P<word>\b(?:True|False|None)\b)""",
    re.VERBOSE | re.DOTALL,
)
_VALUE_OPENS = re.compile(
    r"[{\[](?:\s|//[^\n]{0,200}\n|/\*[^*]{0,200}\*/|\#[^\n]{0,200}\n){0,80}[\"'{\[]"
)
_PYTHON = {"True": "true", "False": "false", "None": "null"}
_BAD_ESCAPE = re.compile(r'\\(?!["\\/bfnrtu])|\\u(?![0-9a-fA-F]{4})')
_LOOK_ALIKE = "\u29f5"
"""Stands for a backslash that JSON does not allow, as in `\\(x\\)`."""


class ReplyDecoder:
    """Decodes the JSON values of one reply; slips are mended up to `MAX_RELAXED` times."""

    def __init__(self, pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> None:
        self._strict = json.JSONDecoder(strict=False, object_pairs_hook=pairs_hook)
        self._left = MAX_RELAXED

    def at(self, text: str, start: int) -> tuple[Any, int]:
        """Decode the value at `start`; returns it and its end.

        Raises:
            ValueError: there is none, even with slips mended.
            RecursionError: it is nested too deeply.
        """
        try:
            return self._strict.raw_decode(text, start)
        except ValueError:
            # The braces of LaTeX, as in `\frac{1}{2}`, open no value.
            if not _VALUE_OPENS.match(text, start):
                raise
            if self._left == 0 or len(text) - start > MAX_RELAXED_CHARS:
                raise
            self._left -= 1
            value, end = self._strict.raw_decode(_TOKEN.sub(_mended, text[start:]))
            return value, start + end


def object_candidates(
    text: str, scale: tuple[float, float]
) -> tuple[list[Candidate], list[tuple[int, int]]]:
    """Find the scores in verdict objects, and the (start, end) of every closed object.

    Args:
        text: the normalised reply, with fences and quotations.
    """
    spans = _objects(text)
    found = [
        (span, value)
        for span in spans[-MAX_OBJECTS:]
        if (value := stated_score(text[slice(*span)], scale)) is not None
    ]
    candidates = []
    for i, ((start, end), value) in enumerate(found):
        rank = rank_at(text, start, end)
        between = _FENCE_MARK.sub("", text[found[i - 1][0][1] : start]) if i else ""
        if i and value != found[i - 1][1] and not between.strip(" \n,;"):
            rank, value = Rank.FINAL, math.nan
        if rank is not None:
            number = None if math.isnan(value) else value
            candidates.append(Candidate(start, text[start:end], number, rank, "object"))
    closed = [(start, end) for start, end in spans if text[end - 1] == "}"]
    return candidates, closed


def ends_with_verdict(text: str, scale: tuple[float, float]) -> bool:
    """Whether the reply ends with a complete JSON object that states a score."""
    spans = _objects(text)
    if not spans:
        return False
    start, end = spans[-1]
    whole = _json_end(text, start) == end and not text[end:].strip(" \n`~")
    return whole and stated_score(text[start:end], scale) is not None


def _objects(text: str) -> list[tuple[int, int]]:
    """Find (start, end) of the outermost objects; a truncated one ends at the next or with the reply."""
    spans: list[tuple[int, int]] = []
    at = cut = 0
    while brace := _OPEN_BRACE.search(text, at):
        start = brace.start()
        exact = _json_end(text, start) if len(spans) < MAX_OBJECTS else None
        end = exact or _balanced_end(text, start)
        if end is None:
            cut += 1
            following = _NEXT_OBJECT.search(text, start) if cut < MAX_OBJECTS else None
            end = following.start() if following else len(text)
        at = end
        spans.append((start, end))
    return [span for span in spans if _is_object(text, *span)]


def _json_end(text: str, start: int) -> int | None:
    try:
        return _DECODER.raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return None


def _balanced_end(text: str, start: int) -> int | None:
    depth = 0
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.end()
    return None


def _is_object(text: str, start: int, end: int) -> bool:
    """Whether braces hold keys and values, rather than the argument of a LaTeX command."""
    argument = re.search(r"\\[A-Za-z]{1,20}$", text[max(0, start - 21) : start])
    return not argument and bool(_OPENING.match(text, start)) and ":" in text[start:end]


def rank_at(text: str, start: int, end: int) -> Rank | None:
    """Return an object's rank by its position; None if it is part of a sentence or quoted."""
    lead = text[max(0, start - 600) : start]
    before = [line for line in lead.split("\n") if line.strip()]
    while before and _FENCED.fullmatch(before[-1].strip()):
        before.pop()
    after = text[end : end + 600].strip(" \n`~.,;]。")
    if not before:
        return Rank.FINAL if start <= 600 else Rank.LABEL
    own_lines = not lead.rpartition("\n")[2].strip(" \t`")
    gap = lead[lead.rindex(before[-1]) + len(before[-1]) :]
    apart = own_lines and bool(_PARAGRAPH.search(gap) or _SENTENCE.search(before[-1]))
    announced = not apart or before[-1].rstrip(" *`").endswith(":")
    announced = announced and not before[-1].startswith("{")  # another answer introduces nothing
    introduced = _INTRODUCED.search(before[-1])
    if announced and not introduced and _QUOTES.search(before[-1][-120:]):
        return None
    if not after:
        return Rank.FINAL
    if _QUOTES.search(after[:80]):
        return None
    if own_lines:
        return Rank.LABEL
    return Rank.PROSE if introduced else None


def _mended(token: re.Match[str]) -> str:
    """Return a token as JSON has it, with as many characters."""
    found = token[0]
    if token["word"]:
        return _PYTHON[found]
    if token["comment"] or token["comma"]:
        return re.sub(r"[^\n]", " ", found)
    if token["single"]:
        found = '"' + found[1:-1].replace('"', "'").replace("\\'", " '") + '"'
    return _BAD_ESCAPE.sub(lambda slip: _LOOK_ALIKE + slip[0][1:], found)
