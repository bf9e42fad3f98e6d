"""Parses a judge's reply into a score, or into a status that says why there is none.

- A wrong score is worse than none: an ambiguous, hedged, quoted or off-scale number gives no
  score, and no weaker candidate replaces it.
- The result depends only on the text, the scale and the finish reason, so a later
  `PARSER_VERSION` can parse stored replies again.
"""

import math
import re
from dataclasses import dataclass, replace
from typing import Any

from oyer.protocol.status import Status
from oyer.tasks.parsing.brackets import boxed_candidates, bracket_candidates, element_candidates
from oyer.tasks.parsing.candidates import Candidate, Rank
from oyer.tasks.parsing.context import (
    ASPECT,
    NEXT_TURN,
    RECONSIDERATION,
    announces_other_scale,
    compares,
)
from oyer.tasks.parsing.finish_reasons import End, end_of
from oyer.tasks.parsing.json_objects import ends_with_verdict, object_candidates
from oyer.tasks.parsing.labels import bare_value, has_other_parts, label_candidates, names_answer
from oyer.tasks.parsing.normalize import (
    MASK,
    mask_fences,
    mask_quotations,
    normalise,
    strip_thinking,
    unmark,
    unwrap,
)
from oyer.tasks.parsing.prose import prose_candidates
from oyer.tasks.parsing.tables import table_candidates
from oyer.tasks.parsing.vocabulary import words

PARSER_VERSION = 6
"""Increased whenever the result for any reply changes."""

MAX_PROSE_CHARS = 16_384
"""Longest text at each end of a reply that is searched line by line, in characters."""

MAX_SPAN_CHARS = 200
"""Longest `ParsedScore.span`, in characters."""

_DECLINING = words(
    "refuse, decline, unable, cannot, can't, won't, will not, not able, not going, 无法, 不能, 拒绝, 不予, 不便, 难以"
)
_JUDGING = words(
    """rate, rating, score, scoring, grade, grading, evaluat*, judge, judging, assess*, assist, help, comply,
    provide, continue, 评分, 打分, 评价, 评估, 评判, 给分, 协助, 回答, 提供"""
)
_REFUSAL = re.compile(rf"{_DECLINING}[^.。\n]{{0,60}}{_JUDGING}|i'm\s+sorry,?\s+but", re.IGNORECASE)
_WHOLE_ANSWER = re.compile(
    r"[\s*-]*(?:答案(?:是|为|:)|(?:答|输出|结果|thus|so|hence):|an?\s+(?=[0-9])|(?:an?\s+)?(?:solid|strong|clear|weak)(?=\s+[0-9])|(?:(?:the|my)\s+)?(?:final\s+)?answer(?:\s+is|\s*:)"
    rf"|{ASPECT}\s*:)" + r"\s*(.{1,30}?)[\s.。!]*",
    re.IGNORECASE,
)

# The format of the Selene judges.
_REASONING = re.compile(r"\W*reasoning\s*:", re.IGNORECASE)
_RESULT = re.compile(r"\W*result\s*:\s*(.{1,20})", re.IGNORECASE)
_LAST_FENCE = re.compile(
    r"\n[ \t]*(?:`{3}|~{3})\w{0,20}\n+(?P<line>[^\n`~]{1,80})\n+[ \t]*(?:`{3}|~{3})\s*\Z"
)
_COMMENTED = re.compile(
    r"\s*(.{1,20}?)\s*(?:\s[-–—]|:|,\s+(?:because|since|as))\s+[^\W\d_][^\d\n]*"
)


@dataclass(frozen=True, slots=True)
class ParsedScore:
    """The result of parsing a reply."""

    score: float
    """On the judge's scale; NaN without a score."""
    status: Status
    layer: str
    """The reader that found the score, or the reason why there is none."""
    span: str
    """The text that the score was read from."""
    reply: str | None = None
    """The text to keep in place of the reply, if it was put together from several replies."""
    problem: str = ""
    """What the reply lacks, if `layer` and `span` do not say it."""


def parse_score(
    text: str,
    *,
    scale: tuple[float, float],
    finish_reason: str | None = "stop",
    refusal: str | None = None,
) -> ParsedScore:
    """Parse the score that a judge's reply gives.

    Args:
        text: the reply as received.
        scale: lowest and highest score; a number outside is not a score.
        finish_reason: as the endpoint sent it; a truncated or failed reply has no score. With an
            unknown reason, only a reply that ends with a complete JSON verdict has one.
        refusal: the endpoint's refusal message, if it sent one.
    """
    end, reason = end_of(finish_reason), finish_reason or ""
    if refusal or end is End.FILTERED:
        return _none(Status.REFUSED, "refusal", refusal or reason)
    if end is End.BROKEN:
        return _none(Status.UNAVAILABLE, "finish_reason", reason)
    if end is End.CUT:
        return _none(Status.TRUNCATED, "finish_reason", reason)
    visible = strip_thinking(normalise(text))
    if visible is None:
        return _none(Status.UNPARSEABLE, "thinking", "")
    reply = unwrap(visible)
    scale = (float(scale[0]), float(scale[1]))
    if end is End.UNKNOWN and not ends_with_verdict(reply, scale):
        return _none(Status.TRUNCATED, "finish_reason", reason)
    candidates = _after_reconsideration(_candidates(reply, scale), reply)
    candidates = candidates or _fenced_candidates(reply, scale)
    if not candidates and _REFUSAL.search(reply):
        return _none(Status.REFUSED, "refusal", reply)
    return _decide(candidates, reply, scale)


def response_format(scale: tuple[float, float]) -> dict[str, Any]:
    """Return the `response_format` of a chat completion: JSON with the reasons before the score."""
    schema = {
        "type": "object",
        "properties": {
            "reasoning": {"type": "string", "description": "The reasons for the score, briefly."},
            "score": {"type": "number", "minimum": scale[0], "maximum": scale[1]},
        },
        "required": ["reasoning", "score"],
        "additionalProperties": False,
    }
    return {
        "type": "json_schema",
        "json_schema": {"name": "verdict", "strict": True, "schema": schema},
    }


def _candidates(reply: str, scale: tuple[float, float]) -> list[Candidate]:
    """Find all candidates of a reply, in order of position."""
    candidates, objects = object_candidates(reply, scale)
    prose = list(reply)
    for start, end in objects:
        prose[start:end] = (MASK if char != "\n" else char for char in prose[start:end])
    fenced, opened = mask_fences("".join(prose))
    text = mask_quotations(fenced)
    elements = [*element_candidates(text, scale), *boxed_candidates(text, scale)]
    text = unmark(_masked(text, elements))
    brackets = list(bracket_candidates(text, scale))
    stated = [*elements, *brackets, *_line_candidates(_masked(text, brackets), scale)]
    if opened is not None and any(c.start > opened for c in stated):
        # The text after an unclosed fence may be a quotation.
        stated.append(Candidate(len(text), "", None, Rank.FINAL, "fence"))
    return sorted(candidates + stated, key=lambda c: c.start)


def _after_reconsideration(candidates: list[Candidate], reply: str) -> list[Candidate]:
    """Drop candidates before the last `Wait, …`, if a score follows it."""
    thoughts = [thought.start() for thought in RECONSIDERATION.finditer(reply)]
    if not thoughts or not candidates:
        return candidates
    later = [c for c in candidates if c.start > thoughts[-1]]
    stated = any(c.rank >= Rank.PROSE and not c.disowned for c in later)
    return later if stated else candidates


def _fenced_candidates(reply: str, scale: tuple[float, float]) -> list[Candidate]:
    """Read a one-line fence at the end of the reply, unless the line above introduces a quotation."""
    fence = _LAST_FENCE.search(reply)
    if fence is None:
        return []
    above = reply[: fence.start()].rstrip().rpartition("\n")[2]
    if above.endswith(":"):
        return list(label_candidates(above, 0, scale, "", fence["line"]))
    quoted = not above.endswith((".", "!", "。"))
    return [] if quoted else _line_candidates(" " * fence.start("line") + fence["line"], scale)


def _masked(text: str, candidates: list[Candidate]) -> str:
    """Mask the spans of candidates."""
    chars = list(text)
    for candidate in candidates:
        chars[candidate.start : candidate.start + len(candidate.span)] = MASK * len(candidate.span)
    return "".join(chars)


def _line_candidates(text: str, scale: tuple[float, float]) -> list[Candidate]:
    lines, at = [], 0
    for line in text.split("\n"):
        near_an_end = at + len(line) <= MAX_PROSE_CHARS or at >= len(text) - MAX_PROSE_CHARS
        if near_an_end and line.strip():
            lines.append((at, line))
        at += len(line) + 1
    candidates: list[Candidate] = []
    tables = {c.start: c for c in table_candidates(lines, scale)}
    several = any(names_answer(line) for _, line in lines) and has_other_parts(
        line for _, line in lines
    )
    for i, (start, line) in enumerate(lines):
        if start in tables:
            candidates.append(tables[start])
            continue
        above = lines[i - 1][1] if i else ""
        below = lines[i + 1][1] if i + 1 < len(lines) else ""
        found = list(label_candidates(line, start, scale, above, below))
        if all(c.disowned or c.rank is Rank.LOOSE for c in found):
            found += prose_candidates(line, start, scale)
        if several and names_answer(line):
            found = [
                c if c.rank is Rank.FINAL else replace(c, value=None, rank=min(c.rank, Rank.PART))
                for c in found
            ]
        candidates += found
    candidates += _bare_candidates(lines, scale, candidates)
    other = next((at for at, line in lines if announces_other_scale(line, scale)), len(text))
    whole = re.compile(rf"(?:/|\bof)\s*{scale[1]:g}\b")
    return [
        replace(c, value=None) if c.start > other and not whole.search(c.span) else c
        for c in candidates
    ]


def _bare_candidates(
    lines: list[tuple[int, str]], scale: tuple[float, float], others: list[Candidate]
) -> list[Candidate]:
    """Read a number that is the whole last or first line, or a whole reply such as `答案是7`."""
    if not lines:
        return []
    (first_at, first), (last_at, last) = lines[0], lines[-1]
    if len(lines) == 1 and len(last) <= MAX_SPAN_CHARS:
        only = _WHOLE_ANSWER.fullmatch(last) or _COMMENTED.fullmatch(last)
        last = only[1] if only else last
    elif _REASONING.match(first) and (result := _RESULT.fullmatch(last)):
        last = result[1]
    above = lines[-2][1].strip() if len(lines) > 1 else ""
    candidates = []
    if not above.endswith((":", "=")) and (value := bare_value(last, scale)):
        other = bare_value(above, scale)
        number = value.number if other is None or other.number == value.number else None
        candidates.append(Candidate(last_at, last.strip(), number, Rank.LABEL, "bare"))
    elif not others and (value := bare_value(first, scale)):
        candidates.append(Candidate(first_at, first.strip(), value.number, Rank.PROSE, "bare"))
    return candidates


def _decide(candidates: list[Candidate], reply: str, scale: tuple[float, float]) -> ParsedScore:
    """Choose the last candidate of the highest rank, unless another one contradicts it."""
    own = [c for c in candidates if not c.disowned and c.rank > Rank.LOOSE]
    if not own:
        return _none(Status.UNPARSEABLE, "disowned" if candidates else "none", "")
    rank = max(c.rank for c in own)
    peers = [c for c in own if c.rank is rank]
    winner = peers[-1]
    if winner.value is None:
        return _none(Status.UNPARSEABLE, "unreliable", winner.span)
    if _is_contradicted(winner, peers, candidates, reply):
        return _none(Status.UNPARSEABLE, "conflict", winner.span)
    if not scale[0] <= winner.value <= scale[1] or not math.isfinite(winner.value):
        return _none(Status.UNPARSEABLE, "off_scale", winner.span)
    return ParsedScore(winner.value, Status.SCORED, winner.layer, short_span(winner.span))


def _is_contradicted(
    winner: Candidate, peers: list[Candidate], candidates: list[Candidate], reply: str
) -> bool:
    """Whether another candidate, or a later reconsideration, makes the winner doubtful."""
    others = [c for c in candidates if c.value != winner.value]
    if any(_outweighs(c, winner) for c in others):
        return True
    rivals = [c for c in peers if c.value != winner.value]
    if rivals and NEXT_TURN.search(reply, rivals[0].start, winner.start):
        return True
    if winner.layer == "object" and any(c.layer == "label" for c in rivals):
        return True
    if rivals and winner.rank in {Rank.PART, Rank.PROSE, Rank.FINAL_INLINE}:
        return True
    if rivals and winner.rank is Rank.LABEL:
        mixed = any((c.layer == "label") is not (winner.layer == "label") for c in rivals)
        if mixed or any(c.under_heading for c in peers):
            return True
    at = winner.start
    line = reply[:at].rpartition("\n")[2] + reply[at:].partition("\n")[0]
    if (rivals and compares(reply)) or (winner.layer == "prose" and compares(line)):
        return True
    return bool(RECONSIDERATION.search(reply, winner.start + len(winner.span)))


def _outweighs(candidate: Candidate, winner: Candidate) -> bool:
    """Whether a candidate with another value makes the winner doubtful, by rank and position."""
    if candidate.disowned:
        return candidate.rank > winner.rank
    if candidate.start < winner.start and winner.rank is not Rank.PART:
        return False
    if candidate.rank is Rank.LOOSE:
        return winner.rank <= Rank.PROSE
    if candidate.layer == "bare":
        return True
    if winner.rank is Rank.FINAL:
        return candidate.rank is Rank.FINAL_INLINE
    return candidate.rank >= Rank.PROSE


def _none(status: Status, layer: str, span: str) -> ParsedScore:
    return ParsedScore(math.nan, status, layer, short_span(span))


def short_span(span: str) -> str:
    """Collapse white space, and cut a span to `MAX_SPAN_CHARS`."""
    return " ".join(span[: 4 * MAX_SPAN_CHARS].split())[:MAX_SPAN_CHARS]
