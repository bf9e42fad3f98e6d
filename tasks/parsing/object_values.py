"""Reads the score that a verdict object states by its keys: JSON, Python dicts and the like.

A key for the overall score (`overall_score`, `综合得分`) beats `score`; aspects never count.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from oyer.tasks.parsing.numbers import names_other_scale, read_value

MAX_OBJECT_CHARS = 65_536
"""A longer object is not a verdict."""

MAX_VALUE_CHARS = 40
"""A longer text that does not start with a number is a comment, in characters."""

MAX_NUMBER = 1e15
"""A larger number is not a score."""

_FINAL_KEY = re.compile(
    r"(?:final|overall|total|aggregate|weighted)(?:score|rating|grade|verdict)?"
    r"|(?:综合|最终|总体|整体|总)(?:得分|评分|分数|分)|总评"
)
_PLAIN_KEY = re.compile(
    r"(?:judge|evaluation|quality|response|answer|model)?(?:score|rating)s?|grade|mark|verdict|judge?ment|reward"
    r"|(?:average|mean|avg)(?:score|rating)?|points(?:awarded|earned)?"
    r"|评分|得分|分数|打分|分值"
)
_ASPECT_KEY = re.compile(r"[a-z]+(?:score|rating)s?")
_JUDGEMENT_KEY = re.compile(r"verdict|judge?ment")
"""Keys whose value may be a sentence."""
_VALUE_KEY = re.compile(r"result|value")
_WRAPPER = re.compile(
    r"evaluation|results?|outputs?|verdict|overall|final|total|response|judge?ment|assessment|scores?|ratings?|review"
    r"|answer|data|总评|评价|评估|结果|评分"
)
_MAXIMUM_KEY = re.compile(
    r"(?:scale)?max(?:imum)?(?:possible)?(?:scores?|points?|total|ratings?|marks?)?|outof|fullscore|denominator"
    r"|(?:total|points?|score)?possible(?:scores?|points?)?|满分|最高分"
)
_CALL_KEYS = frozenset({"arguments", "parameters", "tool_calls", "function", "tool", "tool_name"})
_SCALE_KEY = re.compile(r"(?:score|rating)?(?:scale|range)|评分范围|分制")
_PAIR = re.compile(
    r"""(?:["'“](?P<key>[^"'“”\n{}:]{1,40})["'”]|(?<![\w"'])(?P<bare>[A-Za-z_]\w{0,39}))\s*:\s*
        (?:"(?P<double>[^"\n]{0,60})"|'(?P<single>[^'\n]{0,60})'
          |(?P<plain>[+\-]?\.?[0-9][0-9./]{0,12}|null|None|NaN)(?=\s*(?:[,;}\]\n]|\#|/[/*]|$)))""",
    re.VERBOSE,
)
# `8 - mostly right` or `8 (good)`: words behind a score, without another number.
_COMMENT = re.compile(r"\)?(?:\s*[-–—,:;(][^0-9]*)?")
# `"score": 8, // out of 10` or `"score": 8 # /10`.
_NOTE_ON_SCALE = re.compile(
    r"\s*,?[ \t]*(?://|/\*|\#)[ \t]*((?:(?:out\s+of|of|max|on)\b|/|满分)[^\n*]{0,40})",
    re.IGNORECASE,
)
# `score_out_of_10`, `score 1-5`, `rating_0_to_100`.
_KEY_SCALE = re.compile(
    r"[\s_-]+(?:out[\s_-]?of|[01][\s_-]?(?:to)?)[\s_-]*(?P<top>5|10|100)$", re.IGNORECASE
)
_DOUBLE_BRACKETS = re.compile(r"\[\[\s*([^\[\]]{1,20}?)\s*\]\]")


def stated_score(body: str, scale: tuple[float, float]) -> float | None:
    """Return the score that an object states: NaN if it is unreliable, None if it states none."""
    if len(body) > MAX_OBJECT_CHARS:
        return None
    pairs = _pairs(body)
    stated = _score_value(pairs, scale)
    if stated is None or _CALL_KEYS & {key for key, _ in pairs}:
        return None
    maxima = [_value(value, scale) for key, value in pairs if _MAXIMUM_KEY.fullmatch(_plain(key))]
    maxima += [float(top["top"]) for key, _ in _scores(pairs) if (top := _KEY_SCALE.search(key))]
    if any(maximum != scale[1] for maximum in maxima) or any(
        names_other_scale(note, scale)
        for key, _ in _scores(pairs)
        for note in re.findall(r"\([^()]*\)", key)
    ):
        return math.nan
    scales = [value for key, value in pairs if _SCALE_KEY.fullmatch(_plain(key))]
    if any(isinstance(value, str) and names_other_scale(value, scale) for value in scales):
        return math.nan
    value = _value(stated, scale)
    return math.nan if value is None else value


def _scores(pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return the pairs whose keys name a score of the whole response."""
    return [
        pair
        for pair in pairs
        if _FINAL_KEY.fullmatch(_plain(pair[0])) or _PLAIN_KEY.fullmatch(_plain(pair[0]))
    ]


def _pairs(body: str) -> list[tuple[str, Any]]:
    """Return keys and plain values, by the JSON parser if it is JSON, else by pattern."""
    try:
        return list(_walk(json.loads(body, strict=False, object_pairs_hook=_without_conflicts)))
    except (ValueError, RecursionError):
        return [
            (
                m["key"] or m["bare"],
                next((v for v in m.group("double", "single", "plain") if v), "")
                + (f" {note[1]}" if (note := _NOTE_ON_SCALE.match(body, m.end())) else ""),
            )
            for m in _PAIR.finditer(body)
        ]


def _without_conflicts(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; a key with two different values gets an empty string."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        found[key] = value if found.setdefault(key, value) == value else ""
    return found


def _walk(node: Any) -> Iterator[tuple[str, Any]]:
    """Yield the pairs of an object, and those of nested objects that only wrap the verdict."""
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if isinstance(value, dict) and _WRAPPER.fullmatch(_plain(key)):
            yield from _walk(value)
        else:
            yield key, value


def _score_value(pairs: list[tuple[str, Any]], scale: tuple[float, float]) -> Any:
    """Return the value of the best key for the overall score; None without such a key.

    A comment such as `"overall": "good"` does not count if another key has a number. Two different
    values under keys of the same kind give an empty string, and so do comments only.
    """
    comments = False
    totals = [pair for pair in pairs if _plain(pair[0]) in {"total", "总分"}]
    if totals and any(key in {"score", "points", "得分"} for key in map(_plain, dict(pairs))):
        # `{"score": 8, "total": 10}`: the total is the highest score.
        pairs = [pair for pair in pairs if pair not in totals or _value(pair[1], scale) != scale[1]]
    for keys in (_FINAL_KEY, _PLAIN_KEY, _VALUE_KEY):
        values = [
            value
            for key, value in pairs
            if keys.fullmatch(_plain(key))
            and not (_JUDGEMENT_KEY.fullmatch(_plain(key)) and _is_sentence(value, scale))
        ]
        if keys is _PLAIN_KEY and _only_aspects([_plain(key) for key, _ in pairs]):
            return ""
        numbers = [value for value in values if _may_be_a_score(value, scale)]
        if numbers:
            read = {_value(value, scale) for value in numbers}
            return numbers[0] if len(read) == 1 else ""
        comments = comments or any(len(str(value)) <= MAX_VALUE_CHARS for value in values)
    return "" if comments else None


def _only_aspects(keys: list[str]) -> bool:
    """Whether keys such as `answer_score` score several aspects, and none of them is `score`."""
    aspects = {key for key in keys if _ASPECT_KEY.fullmatch(key)} - {
        key for key in keys if _MAXIMUM_KEY.fullmatch(key)
    }
    plain = {key for key in keys if _PLAIN_KEY.fullmatch(key)}
    return bool(plain) and plain < aspects


def _is_sentence(value: Any, scale: tuple[float, float]) -> bool:
    return isinstance(value, str) and read_value(value.strip(), 0, scale) is None


def _may_be_a_score(value: Any, scale: tuple[float, float]) -> bool:
    """Whether a value holds a number; `"verdict": "pass"` beside a score does not."""
    if value is None or isinstance(value, bool):
        return False
    text = str(value).strip()
    if read_value(text, 0, scale) is not None:
        return True
    return len(text) <= MAX_VALUE_CHARS and bool(re.search("[0-9]", text))


def _plain(key: str) -> str:
    return re.sub(r"\([^()]*\)|[\s_-]", "", _KEY_SCALE.sub("", key)).lower()


def _value(stated: Any, scale: tuple[float, float]) -> float | None:
    if isinstance(stated, list) and len(stated) == 1:
        stated = stated[0]
    if isinstance(stated, bool) or not isinstance(stated, (int, float, str)):
        return None
    if not isinstance(stated, str):
        # JSON integers can exceed every float; they are on no scale.
        return float(stated) if abs(stated) <= MAX_NUMBER else None
    text = stated.strip().removesuffix(".")
    if bracketed := _DOUBLE_BRACKETS.fullmatch(text):
        text = bracketed[1]
    value = read_value(text, 0, scale)
    return value.number if value and _COMMENT.fullmatch(text, value.end) else None
