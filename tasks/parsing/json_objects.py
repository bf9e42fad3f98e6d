"""Finds verdict objects: JSON and Python dicts that hold a score.

- A verdict object is the whole reply, or opens or ends it; one in the middle may be quoted.
- A key for the overall score (`overall_score`, `综合得分`) beats `score`; aspects never count.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from oyer.tasks.parsing.candidates import Candidate, Rank
from oyer.tasks.parsing.numbers import names_other_scale, read_value
from oyer.tasks.parsing.vocabulary import finder

MAX_OBJECTS = 64
"""Objects parsed, counted from the end of the reply."""

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
    r"(?:judge|evaluation|quality|response|answer|model)?(?:score|rating)s?|grade|mark|verdict|judge?ment|reward|points"
    r"|评分|得分|分数|打分|分值"
)
_ASPECT_KEY = re.compile(r"[a-z]+(?:score|rating)s?")
_VALUE_KEY = re.compile(r"result|value")
_WRAPPER = re.compile(
    r"evaluation|results?|outputs?|verdict|overall|final|total|response|judge?ment|assessment|scores?|ratings?|review"
    r"|answer|data|总评|评价|评估|结果|评分"
)
_MAXIMUM_KEY = re.compile(r"(?:scale)?max(?:imum)?(?:score)?|outof|fullscore|满分")
_CALL_KEYS = frozenset({"arguments", "parameters", "tool_calls", "function", "tool", "tool_name"})
_SCALE_KEY = re.compile(r"(?:score|rating)?(?:scale|range)|评分范围|分制")
_PAIR = re.compile(
    r"""(?:["'“](?P<key>[^"'“”\n{}:]{1,40})["'”]|(?<![\w"'])(?P<bare>[A-Za-z_]\w{0,39}))\s*:\s*
        (?:"(?P<double>[^"\n]{0,60})"|'(?P<single>[^'\n]{0,60})'
          |(?P<plain>[+\-]?\.?[0-9][0-9./]{0,12}|null|None|NaN)(?=\s*(?:[,;}\]\n]|\#|/[/*]|$)))""",
    re.VERBOSE,
)
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
_COMMENT = re.compile(r"(?:\s*[-–—,:;(][^0-9]*)?")
_DOUBLE_BRACKETS = re.compile(r"\[\[\s*([^\[\]]{1,20}?)\s*\]\]")
_FENCE_MARK = re.compile(r"(?:`{3}|~{3})[\w-]*")
_FENCED = re.compile(r"[ \t]*(?:`{3,}|~{3,})[\w-]*[ \t]*|json", re.IGNORECASE)


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
        if (value := _verdict(text[slice(*span)], scale)) is not None
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
    return whole and _verdict(text[start:end], scale) is not None


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


def _verdict(body: str, scale: tuple[float, float]) -> float | None:
    """Return the score that an object states: NaN if it is unreliable, None if it states none."""
    if len(body) > MAX_OBJECT_CHARS:
        return None
    pairs = _pairs(body)
    stated = _score_value(pairs, scale)
    if stated is None or _CALL_KEYS & {key for key, _ in pairs}:
        return None
    maxima = [_value(value, scale) for key, value in pairs if _MAXIMUM_KEY.fullmatch(_plain(key))]
    if any(maximum != scale[1] for maximum in maxima) or any(
        names_other_scale(note, scale)
        for key, _ in pairs
        if _FINAL_KEY.fullmatch(_plain(key)) or _PLAIN_KEY.fullmatch(_plain(key))
        for note in re.findall(r"\([^()]*\)", key)
    ):
        return math.nan
    scales = [value for key, value in pairs if _SCALE_KEY.fullmatch(_plain(key))]
    if any(isinstance(value, str) and names_other_scale(value, scale) for value in scales):
        return math.nan
    value = _value(stated, scale)
    return math.nan if value is None else value


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


def _pairs(body: str) -> list[tuple[str, Any]]:
    """Return keys and plain values, by the JSON parser if it is JSON, else by pattern."""
    try:
        return list(_walk(json.loads(body, strict=False, object_pairs_hook=_without_conflicts)))
    except (ValueError, RecursionError):
        return [
            (
                m["key"] or m["bare"],
                next((v for v in m.group("double", "single", "plain") if v), ""),
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
    for keys in (_FINAL_KEY, _PLAIN_KEY, _VALUE_KEY):
        values = [value for key, value in pairs if keys.fullmatch(_plain(key))]
        if keys is _PLAIN_KEY and _only_aspects([_plain(key) for key, _ in pairs]):
            return ""
        numbers = [value for value in values if _may_be_a_score(value, scale)]
        if numbers:
            return numbers[0] if all(value == numbers[0] for value in numbers) else ""
        comments = comments or any(len(str(value)) <= MAX_VALUE_CHARS for value in values)
    return "" if comments else None


def _only_aspects(keys: list[str]) -> bool:
    """Whether keys such as `answer_score` score several aspects, and none of them is `score`."""
    aspects = {key for key in keys if _ASPECT_KEY.fullmatch(key)} - {
        key for key in keys if _MAXIMUM_KEY.fullmatch(key)
    }
    plain = {key for key in keys if _PLAIN_KEY.fullmatch(key)}
    return bool(plain) and plain < aspects


def _may_be_a_score(value: Any, scale: tuple[float, float]) -> bool:
    """Whether a value holds a number; `"verdict": "pass"` beside a score does not."""
    if value is None or isinstance(value, bool):
        return False
    text = str(value).strip()
    if read_value(text, 0, scale) is not None:
        return True
    return len(text) <= MAX_VALUE_CHARS and bool(re.search("[0-9]", text))


def _plain(key: str) -> str:
    return re.sub(r"\([^()]*\)|[\s_-]", "", key).lower()


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
