"""Reads a judge's reply: its score, or the status that says why there is none.

- A wrong number is worse than none: what is ambiguous, hedged, quoted or off the scale has no
  score, and nothing weaker in the reply is taken instead.
- The reading depends on the text, the scale and the finish reason only; stored replies can be
  read again by a later `PARSER_VERSION`.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

from oyer.protocol.status import Status
from oyer.tasks.parsing.brackets import boxed_claims, bracket_claims, element_claims
from oyer.tasks.parsing.candidates import Candidate, Rank
from oyer.tasks.parsing.context import ASPECT, compared
from oyer.tasks.parsing.finish_reasons import End, end_of
from oyer.tasks.parsing.json_objects import ends_with_verdict, object_claims
from oyer.tasks.parsing.labels import bare_value, label_claims
from oyer.tasks.parsing.normalize import (
    MASK,
    mask_fences,
    mask_quotations,
    normalise,
    strip_thinking,
    unmark,
    unwrap,
)
from oyer.tasks.parsing.prose import prose_claims
from oyer.tasks.parsing.tables import table_claims
from oyer.tasks.parsing.vocabulary import words

PARSER_VERSION = 4
"""Raised whenever some reply would be read differently."""

MAX_PROSE_CHARS = 16_384
"""A longer reply is read at its two ends, this much of each, in characters."""

MAX_SPAN_CHARS = 200
"""Length to which the text that a score was read from is kept, in characters."""

_DECLINING = words(
    "refuse, decline, unable, cannot, can't, won't, will not, not able, not going, 无法, 不能, 拒绝, 不予, 不便, 难以"
)
_JUDGING = words(
    """rate, rating, score, scoring, grade, grading, evaluat*, judge, judging, assess*, assist, help, comply,
    provide, continue, 评分, 打分, 评价, 评估, 评判, 给分, 协助, 回答, 提供"""
)
_REFUSAL = re.compile(rf"{_DECLINING}[^.。\n]{{0,60}}{_JUDGING}|i'm\s+sorry,?\s+but", re.IGNORECASE)
_RETRACTS = words(
    """wait, hmm*, on second thought, scratch that, let me reconsider, let me rethink, let me re-think,
    等等, 等一下, 再想, 重新考虑"""
)
_CORRECTS = words("actually, on reflection, correction, 更正, 不对, 修正")
_SECOND_THOUGHT = re.compile(
    rf"(?:^|[.!?。;\n])[\s*\-–—]{{0,20}}(?:{_RETRACTS}|(?:{_CORRECTS}|(?:edit|update):|no,)[^\n]{{0,80}}?[0-9])",
    re.IGNORECASE,
)
_WHOLE_ANSWER = re.compile(
    r"[\s*-]*(?:答案(?:是|为|:)|an?\s+(?=[0-9])|(?:an?\s+)?(?:solid|strong|clear|weak)(?=\s+[0-9])|(?:(?:the|my)\s+)?(?:final\s+)?answer(?:\s+is|\s*:)"
    rf"|{ASPECT}\s*:)" + r"\s*(.{1,30}?)[\s.。!]*",
    re.IGNORECASE,
)

# Selene's form.
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
    """What was read from a reply."""

    score: float
    """On the judge's scale; NaN when there is none."""
    status: Status
    layer: str
    """Which reader found the score, or what kept it from being one."""
    span: str
    """The text it was read from."""


def parse_score(
    text: str,
    *,
    scale: tuple[float, float],
    finish_reason: str | None = "stop",
    refusal: str | None = None,
) -> ParsedScore:
    """Read the score that a judge's reply gives.

    Args:
        text: the reply as received.
        scale: lowest and highest score; what lies outside is no score.
        finish_reason: the endpoint's; a reply that was cut or broken off holds no verdict. After an
            unknown one, a reply is read only if it ends with a whole JSON verdict.
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
    claims = _after_second_thought(_claims(reply, scale), reply) or _fenced_claims(reply, scale)
    if not claims and _REFUSAL.search(reply):
        return _none(Status.REFUSED, "refusal", reply)
    return _settle(claims, reply, scale)


def response_format(scale: tuple[float, float]) -> dict[str, Any]:
    """Value of a chat completion's `response_format`: JSON with the reasons before the score."""
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


def _claims(reply: str, scale: tuple[float, float]) -> list[Candidate]:
    """All scores that a reply states, in order."""
    claims, objects = object_claims(reply, scale)
    prose = list(reply)
    for start, end in objects:
        prose[start:end] = (MASK if char != "\n" else char for char in prose[start:end])
    fenced, opened = mask_fences("".join(prose))
    text = mask_quotations(fenced)
    elements = [*element_claims(text, scale), *boxed_claims(text, scale)]
    text = unmark(_masked(text, elements))
    brackets = list(bracket_claims(text, scale))
    stated = [*elements, *brackets, *_line_claims(_masked(text, brackets), scale)]
    if opened is not None and any(claim.start > opened for claim in stated):
        # Whether this is quoted, nobody can tell.
        stated.append(Candidate(len(text), "", None, Rank.FINAL, "fence"))
    return sorted(claims + stated, key=lambda claim: claim.start)


def _after_second_thought(claims: list[Candidate], reply: str) -> list[Candidate]:
    """Drop what the reply takes back: claims before `Wait, …`, if it states a score after that."""
    thoughts = [thought.start() for thought in _SECOND_THOUGHT.finditer(reply)]
    if not thoughts or not claims:
        return claims
    later = [claim for claim in claims if claim.start > thoughts[-1]]
    stated = any(claim.rank >= Rank.PROSE and not claim.disowned for claim in later)
    return later if stated else claims


def _fenced_claims(reply: str, scale: tuple[float, float]) -> list[Candidate]:
    """The one line of a fence that ends the reply, unless the sentence above announces a quotation."""
    fence = _LAST_FENCE.search(reply)
    if fence is None:
        return []
    above = reply[: fence.start()].rstrip().rpartition("\n")[2]
    if above.endswith(":"):
        return list(label_claims(above, 0, scale, "", fence["line"]))
    quoted = not above.endswith((".", "!", "。"))
    return [] if quoted else _line_claims(" " * fence.start("line") + fence["line"], scale)


def _masked(text: str, claims: list[Candidate]) -> str:
    """Mask what was read already."""
    chars = list(text)
    for claim in claims:
        chars[claim.start : claim.start + len(claim.span)] = MASK * len(claim.span)
    return "".join(chars)


def _line_claims(text: str, scale: tuple[float, float]) -> list[Candidate]:
    lines, at = [], 0
    for line in text.split("\n"):
        near_an_end = at + len(line) <= MAX_PROSE_CHARS or at >= len(text) - MAX_PROSE_CHARS
        if near_an_end and line.strip():
            lines.append((at, line))
        at += len(line) + 1
    claims: list[Candidate] = []
    tables = {claim.start: claim for claim in table_claims(lines, scale)}
    for i, (start, line) in enumerate(lines):
        if start in tables:
            claims.append(tables[start])
            continue
        above = lines[i - 1][1] if i else ""
        below = lines[i + 1][1] if i + 1 < len(lines) else ""
        found = list(label_claims(line, start, scale, above, below))
        claims += found
        if all(claim.disowned or claim.rank is Rank.LOOSE for claim in found):
            claims += prose_claims(line, start, scale)
    return claims + _bare_claims(lines, scale, claims)


def _bare_claims(
    lines: list[tuple[int, str]], scale: tuple[float, float], others: list[Candidate]
) -> list[Candidate]:
    """A number that has the last line to itself, or the first; or a whole reply `答案是7`."""
    if not lines:
        return []
    (first_at, first), (last_at, last) = lines[0], lines[-1]
    if len(lines) == 1 and len(last) <= MAX_SPAN_CHARS:
        only = _WHOLE_ANSWER.fullmatch(last) or _COMMENTED.fullmatch(last)
        last = only[1] if only else last
    elif _REASONING.match(first) and (result := _RESULT.fullmatch(last)):
        last = result[1]
    above = lines[-2][1].strip() if len(lines) > 1 else ""
    claims = []
    if not above.endswith((":", "=")) and (value := bare_value(last, scale)):
        other = bare_value(above, scale)
        number = value.number if other is None or other.number == value.number else None
        claims.append(Candidate(last_at, last.strip(), number, Rank.LABEL, "bare"))
    elif not others and (value := bare_value(first, scale)):
        claims.append(Candidate(first_at, first.strip(), value.number, Rank.PROSE, "bare"))
    return claims


def _settle(claims: list[Candidate], reply: str, scale: tuple[float, float]) -> ParsedScore:
    """Let the weightiest claim stand, unless another one contradicts it."""
    own = [claim for claim in claims if not claim.disowned and claim.rank > Rank.LOOSE]
    if not own:
        return _none(Status.UNPARSEABLE, "disowned" if claims else "none", "")
    rank = max(claim.rank for claim in own)
    peers = [claim for claim in own if claim.rank is rank]
    winner = peers[-1]
    if winner.value is None:
        return _none(Status.UNPARSEABLE, "unreliable", winner.span)
    if _contradicted(winner, peers, claims, reply):
        return _none(Status.UNPARSEABLE, "conflict", winner.span)
    if not scale[0] <= winner.value <= scale[1] or not math.isfinite(winner.value):
        return _none(Status.UNPARSEABLE, "off_scale", winner.span)
    return ParsedScore(winner.value, Status.SCORED, winner.layer, _short(winner.span))


def _contradicted(
    winner: Candidate, peers: list[Candidate], claims: list[Candidate], reply: str
) -> bool:
    """Whether the reply says something else with enough weight to doubt the winner."""
    others = [claim for claim in claims if claim.value != winner.value]
    if any(_outweighs(claim, winner) for claim in others):
        return True
    rivals = [claim for claim in peers if claim.value != winner.value]
    if winner.layer == "object" and any(claim.layer == "label" for claim in rivals):
        return True
    if rivals and winner.rank in {Rank.PART, Rank.PROSE, Rank.FINAL_INLINE}:
        return True
    if rivals and winner.rank is Rank.LABEL:
        mixed = any((claim.layer == "label") is not (winner.layer == "label") for claim in rivals)
        if mixed or any(claim.under_heading for claim in peers):
            return True
    if rivals and _compares(reply):
        return True
    return bool(_SECOND_THOUGHT.search(reply, winner.start + len(winner.span)))


def _outweighs(claim: Candidate, winner: Candidate) -> bool:
    """Whether a claim of another value, at its place, makes the winner doubtful."""
    if claim.disowned:
        return claim.rank > winner.rank
    if claim.start < winner.start and winner.rank is not Rank.PART:
        return False
    if claim.rank is Rank.LOOSE:
        return winner.rank <= Rank.PROSE
    if claim.layer == "bare":
        return True
    if winner.rank is Rank.FINAL:
        return claim.rank is Rank.FINAL_INLINE
    return claim.rank >= Rank.PROSE


def _compares(reply: str) -> bool:
    """Whether the reply speaks of two responses, so that two scores belong to two of them."""
    names = compared(reply)
    return any(pair <= names for pair in ({"a", "b"}, {"1", "2"}, {"甲", "乙"}, {"一", "二"}))


def _none(status: Status, layer: str, span: str) -> ParsedScore:
    return ParsedScore(math.nan, status, layer, _short(span))


def _short(span: str) -> str:
    """A span as it is kept: white space folded, cut."""
    return " ".join(span[: 4 * MAX_SPAN_CHARS].split())[:MAX_SPAN_CHARS]
