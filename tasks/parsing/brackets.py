"""Finds scores between brackets: `[[7]]`, `[7]` at the end, `\\boxed{7}` and `<score>7</score>`."""

import re
from collections.abc import Iterator

from oyer.tasks.parsing.candidates import Candidate, Rank
from oyer.tasks.parsing.context import (
    WINDOW,
    clause,
    disowned_after,
    disowned_before,
    only_neutral,
    quoted_before,
)
from oyer.tasks.parsing.normalize import unmark
from oyer.tasks.parsing.numbers import read_value
from oyer.tasks.parsing.vocabulary import finder

MAX_BRACKETS = 64
"""Double brackets read, counted from the end of the reply."""

_BRACKETS = re.compile(r"\[\[\s{0,9}([^\[\]\n]{1,30}?)\s{0,9}\]\]")
# FastChat's fallback; with further brackets it may be a citation.
_SINGLE = re.compile(
    r"(?:[.!:。]|^)[ \t]*(?P<box>\[ ?(?P<value>[0-9.]{1,5}) ?\])\W*\Z", re.MULTILINE
)
_BOX = re.compile(
    r"(?P<box>\\boxed\{\s{0,9}(?:\\text\{)?(?P<value>[^{}\n]{1,20}?)\s{0,9}\}{1,2})[\s$.*。!)\]\\]*\Z"
)
_BETWEEN_PAIR = re.compile(
    r"[ \n,;/|&]{0,9}(?:(?:vs\.?|versus|and|和|与|对|比)[ \n]{0,9})?", re.IGNORECASE
)
"""Text between two scores that are stated side by side, e.g. for two responses."""
_SCORING = finder("score, rating, grade, verdict, final, rate, 评分, 得分, 打分, 分数, 总分, 最终")
_ELEMENT = re.compile(
    r"<(?P<tag>(?:(?:final|overall|total)_?)?(?:score|rating|grade)|overall|total|final|verdict|answer|result"
    r"|评分|得分|最终评分)>"
    r"\s{0,40}(?P<value>[^<>\s][^<>\n]{0,40}?)\s{0,40}</(?P=tag)>",
    re.IGNORECASE,
)
_NAME = re.compile(r"\W*[^\W\d][\w -]{0,30}:\s*")
_CITING = re.compile(
    r"(?:\b(?:see|cf\.?|source|cit\w{1,6}|references?|document|passage)|参见|见|引用|文献)\s*:?\s*$",
    re.IGNORECASE,
)
_CLOSING_TAG = re.compile(r"\s{0,40}</")
_WHOLE_TAG = re.compile("final|overall|total|最终", re.IGNORECASE)
_PLAIN_TAG = re.compile("score|rating|grade|评分|得分", re.IGNORECASE)
_PAIRWISE = re.compile(r"[ABC<>=≈~\s]{1,8}|tie|N/?A", re.IGNORECASE)


def bracket_candidates(text: str, scale: tuple[float, float]) -> Iterator[Candidate]:
    """Find scores in double brackets, as FastChat's single-answer judge writes, or in a final `[7]`."""
    last: re.Match[str] | None = None
    for match in list(_BRACKETS.finditer(text))[-MAX_BRACKETS:]:
        value = read_value(match[1], 0, scale)
        readable = value is not None and value.end == len(match[1])
        if readable or _PAIRWISE.fullmatch(match[1]):
            between = text[last.end() : match.start()] if last else "-"
            pair = bool(_BETWEEN_PAIR.fullmatch(between))
            pair = pair and ("\n" not in between or bool(last and last[1] != match[1]))
            number = value.number if value and readable and not pair else None
            last = match
            before = _on_line(text, match.start())
            disowned = disowned_before(before) or bool(_CITING.search(before))
            disowned = disowned or disowned_after(text[match.end() :][:60])
            whole = not _NAME.fullmatch(before) or _SCORING.search(before) or only_neutral(before)
            rank = Rank.FINAL if whole else Rank.PART
            yield Candidate(match.start(), match[0], number, rank, "bracket", disowned)
    single = _SINGLE.search(text, max(0, len(text) - WINDOW))
    if single and text.count("[") == 1:
        value = read_value(single["value"], 0, scale)
        if value and value.end == len(single["value"]):
            yield Candidate(single.start("box"), single["box"], value.number, Rank.PROSE, "bracket")


def boxed_candidates(text: str, scale: tuple[float, float]) -> Iterator[Candidate]:
    """Find the score in a `\\boxed{}` at the end of the reply, if its sentence is about the score.

    Judges of mathematics quote boxed answers; a box on a separate line is read like any bare
    number.
    """
    at = text.rfind("\\boxed{")
    box = _BOX.match(text, at) if at >= 0 else None
    value = read_value(box["value"], 0, scale) if box else None
    if box is None or value is None or value.end < len(box["value"]):
        return
    before = unmark(_on_line(text, at))
    own = clause(before)
    if before.strip() and (_SCORING.search(own) or only_neutral(own)):
        disowned = disowned_before(before)
        yield Candidate(at, box["box"], value.number, Rank.FINAL, "boxed", disowned)


def element_candidates(text: str, scale: tuple[float, float]) -> Iterator[Candidate]:
    """Find scores between tags such as `<score>` and `</score>`."""
    matches = list(_ELEMENT.finditer(text))
    # Several different `<score>` inside other elements are scores of criteria, as is one beside an
    # element of the whole, such as `<overall>`.
    inner = {
        match.start(): match["value"]
        for match in matches
        if _PLAIN_TAG.fullmatch(match["tag"]) and _CLOSING_TAG.match(text, match.end())
    }
    several = len(set(inner.values())) > 1 or any(
        _WHOLE_TAG.match(match["tag"]) and read_value(match["value"], 0, scale) for match in matches
    )
    last: re.Match[str] | None = None
    for match in matches:
        value = read_value(match["value"], 0, scale)
        if value is None or value.end < len(match["value"]):
            if match["tag"].lower() in {"answer", "result", "verdict"}:
                continue
            value = None
        if last and last["tag"] == match["tag"] and last["value"] != match["value"]:
            beside = _BETWEEN_PAIR.fullmatch(text, last.end(), match.start())
            value = None if beside else value
        last = match
        rank = Rank.PART if several and match.start() in inner else Rank.FINAL
        before = _on_line(text, match.start()).rpartition(">")[2]
        disowned = quoted_before(before) or disowned_after(text[match.end() :][:60])
        number = value.number if value else None
        yield Candidate(match.start(), match[0], number, rank, "element", disowned)


def _on_line(text: str, at: int) -> str:
    """Return the text before an offset on its line."""
    return text[max(text.rfind("\n", 0, at) + 1, at - WINDOW) : at]
