"""Finds labelled scores: `最终评分：8`, `Overall score: **7**/10`, `| 总分 | 8 |`, `[[7]]`."""

import re
from collections.abc import Iterable, Iterator

from oyer.tasks.parsing.candidates import Candidate, Rank
from oyer.tasks.parsing.context import (
    WINDOW,
    about_an_aspect,
    at_heading,
    disowned_after,
    disowned_before,
    names_other_measure,
    names_other_scale_before,
    neutral,
    only_neutral,
)
from oyer.tasks.parsing.normalize import MASK
from oyer.tasks.parsing.numbers import NUMBER, Value, names_other_scale, read_value
from oyer.tasks.parsing.vocabulary import any_of, finder

_FOREIGN = """puntuación, puntuacion, calificación, calificacion, pontuação, pontuacao, bewertung,
    gesamtbewertung, punktzahl, оценка, 評価, 评价, 得点, スコア, 最终スコア, 점수, 최종 점수, 최종점수, 총 점수, 총점수, 평점"""

_WHOLE_WORDS = any_of(
    "final, overall, total, aggregate, composite, combined, weighted, cumulative, net, holistic, actual"
)
_WHOLE_WORDS_ZH = any_of("最终, 最后, 综合, 总体, 整体, 总, 总的, 合计, 总计, 终, 实际")
"""Words that make a score the overall score."""

_BETWEEN = any_of(
    """quality, rating, evaluation, judge, judge's, judgment, judgement, response, weighted, overall,
    numeric, numerical, combined, average, assessment, total"""
)
_SCORE_WORDS = any_of(
    """score, scores, rating, ratings, grade, mark, marks, point, points, verdict, evaluation, assessment,
    judgment, judgement"""
)
_SCORE_WORDS_ZH = any_of(
    "评分, 得分, 打分, 给分, 分数, 分值, 评级, 评价得分, 评价, 评定分数, 评定, 评估得分, 评估分数, 评估, 裁定分数, 裁定, 判分, 成绩, 分"
)
"""Words for a score after a word of `_WHOLE_WORDS`."""

_REVISING = any_of("revised, corrected, updated, adjusted, amended, new")
_REVISING_ZH = any_of("修正, 更正, 修订, 调整, 复核, 改正")

_FINAL = "|".join(
    [
        rf"{_WHOLE_WORDS}[\s_-]{{0,3}}(?:{_BETWEEN}[\s_-]{{1,3}}){{0,2}}{_SCORE_WORDS}",
        rf"{_WHOLE_WORDS_ZH}的?(?:{any_of('综合, 总体, 整体, 加权, 总')}|(?!{any_of('回答, 回复, 答案, 输出, 解答')})[\u4e00-\u9fff]{{2}}(?={any_of('评分, 得分, 打分')}))?{_SCORE_WORDS_ZH}",
        rf"{_REVISING}\s+{any_of('score, scores, rating, ratings')}",
        rf"{_REVISING_ZH}后?的?{any_of('评分, 得分, 打分, 分数')}",
        rf"{any_of('correction, 更正, 修正')}(?=\s*:)",
        # Prometheus: `Feedback: … [RESULT] 4`.
        r"\[(?:result|score|rating)\](?:\s*:?\s*(?:result|score|rating|assessment)\b)?",
        rf"{any_of('final, overall, verdict, average, weighted total, 平均, 总评, 总体, 综合, 整体, 最终')}(?=\s*(?:\([^()\n]{{0,30}}\)\s*)?[:=|])",
        r"total(?=\s*[:=|]\s*[0-9.]{1,5}\s*/)|(?:合计|总计)(?=\s*:\s*[0-9.]{1,5}\s*[分/])",
    ]
)
_PLAIN = "|".join(
    [
        r"(?:average|mean)\s+(?:score|rating)",
        any_of(
            "thescore, reward score, score, scores, rating, ratings, grade, mark, marks, reward, rewards"
        ),
        r"verdict(?=\s+is\b)",
        r"(?:points\s+|score\s+)?(?:awarded|earned)(?=\s*:)",
        rf"{any_of('points, judgment, judgement, evaluation')}(?=\s*:)",
        rf"{any_of('评分, 得分, 打分, 给分, 判分, 分数, 分值, 评级, 评价分, 评定分数, 平均分, 成绩')}(?:结果|等级)?",
        rf"{any_of('评估, 评价, 评定, 判定, 评审, 评判')}结果(?=\s*:)",
        rf"{any_of(_FOREIGN)}(?=\s*[:=])",
    ]
)
_LABEL = re.compile(
    # The lookahead only saves time: every label starts with one of these characters.
    rf"(?<![A-Za-z0-9_\-])(?=[a-zо\[最综总实整合终修更调复改平评得打给判分成評ス점최총평])(?:(?P<final>{_FINAL})|(?P<plain>{_PLAIN}))(?![A-Za-z_]|-[A-Za-z])(?<![A-Za-z](?=[0-9]))",
    re.IGNORECASE,
)
# `Answer: `, `Final answer score: `, `回答质量：`, which may be one part of several.
_OUTPUT_NAMED = re.compile(
    rf"\W*(?:the\s+)?(?:{any_of('final answer, answer, output, solution, response, reply')}(?:'s)?\s*(?:{_SCORE_WORDS}|quality)?"
    rf"|{any_of('最终回答, 最终回复, 最终答案, 答案, 回答, 输出, 解答, 回复')}(?:{_SCORE_WORDS_ZH}|质量)?)\W*[:=]",
    re.IGNORECASE,
)
_SCORE_WORD = re.compile(rf"{_SCORE_WORDS}|{_SCORE_WORDS_ZH}", re.IGNORECASE)
# `Format: 9/10`, `Steps = 3 points`.
_NAMED_NUMBER = re.compile(
    rf"\W{{0,20}}(?P<name>[^\W\d_][^\d\n:=]{{0,30}}?)\W{{0,20}}[:=]\W{{0,20}}(?:{NUMBER})\s*(?:$|[/分.,;(|*]|points?\b|out\b)",
    re.IGNORECASE,
)
_NOTE = r"(?:\((?P<{}>[^()\n]{{0,60}})\)|\[(?P<{}b>[^\[\]\n]{{0,20}}[-~–—][^\[\]\n]{{0,20}})\])"
_CONNECTORS = re.compile(
    rf"""(?:结果|情况|结论)?(?:如下)?\s*(?:(?:given|assigned|awarded)\b\s*)?
    (?:{_NOTE.format("note", "note")}\s*)?
    (?:,?\s*(?P<scale>(?:on\s+an?\s+(?:scale\s+)?)?(?:(?:from|of|between)\s+)?{NUMBER}\s*分?\s*(?:-|–|—|~|to|and|至|到)\s*{NUMBER}\s*分?(?:\s*scale)?
       |(?:out\s+of|满分)\s*{NUMBER}\s*分?)\s*(?=[:=]|is\b|为|是))?
    (?:(?:for|of|on|to)\s+(?:(?:this|the|that|its)\s+)?(?:[a-z']+\s+){{0,2}}
       (?:response|answer|reply|output|rollout|solution|submission|model|assistant)\s*)?
    (?:(?:that\s+)?(?:I|we)(?:'d|'ll|'m|\s)(?:\s*[a-z]+){{1,4}}?\s*(?=is\b|:))?
    (?P<sign>(?:(?:[:=|→➜➡»👉]|[-=]>|-{{1,3}}\s|[–—]{{1,3}}|(?:is|are|was|of|at|as|be|remains|would|should
       |will|must|stands|comes|to)\b|应?该?(?:为|是|定为|确定为|[调修更][整正改新]为|[下上]调[为至到])|我)\s*){{0,5}})
    (?:{_NOTE.format("after", "after")}(?=\s*[:\w])\s*:?\s*)?
    (?:(?:an?|the|clearly|definitely|therefore|thus|simply|hence|solid|strong|clear|perfect|low|high
       |\w+ly)\s+|(?:给出?|打出?|得到?|评为|判为|定为|记为?|为|是|我|会|可以)\s*){{0,4}}
    """,
    re.VERBOSE | re.IGNORECASE,
)
_BARE_CONNECTORS = re.compile(r"[\s:=#]*(?:是|为|如下)?[\s:=#]*")
_HEDGE = finder(
    """about, around, approx*, roughly, somewhere, between, least, most, up to, under, below, above, over,
    less, more, greater, higher, lower, not, never, nearly, almost, maybe, perhaps, possibly, either, from,
    minus, 约, 大概, 左右, 至少, 至多, 最多, 最高, 不超过, 不低于, 低于, 高于, 不到, 不足, 接近, 介于, 可能, 或许,
    不是, 并非, 不应, 不能, 不宜, 不给, 扣, 减, 加, 之间, 从""",
    r"n't\b",
    "[~≈<>≤≥]",
)
_NEAR_NUMBER = re.compile(rf"[^。;!?]{{0,40}}?(?={NUMBER})")
_DECORATION = re.compile(rf"(?:[-–—•·]\s+|#(?![0-9])|[^\w\s#./+\-−(\[<~≈≤≥{MASK}]|\s)*")
_REMARK = re.compile(r"[\s.!。)\]>*|]*(?:\([^()]{0,120}\))?[\s.!。|]*")
_ONLY_DIGITS = re.compile(r"[\s.,/~–—-]*[0-9][\s0-9.,/~–—%-]*")
_WORD_FIRST = re.compile(r"[^\W\d_]{1,12}(?:\s[^\W\d_]{1,12}|[+\-])?\s?\((?=[^()]{1,12}\))")
_CONCLUDED = re.compile(
    rf"[^0-9]{{1,150}}?\b(?:so|thus|hence|therefore)\s+(?:it(?:'s|\s+is)\s+)?(?:an?\s+)?(?={NUMBER}\s*[.!]?\s*$)",
    re.IGNORECASE,
)
_NO_NUMBER = re.compile(
    r"(?:N\s*/\s*A|null|none|nan|unknown|无法|不适用|暂无|[A-F][+\-]?(?=\s*(?:$|[.,;()|])))\W?"
)
_REVISED = re.compile(
    r"\s*[,;.]?\s*\(?(?:(?:→|-{1,2}>|=>|⟶|➜|➡)\s*|(?=revised|changed|lowered|raised|adjusted|改|调|修|降|升))"
    r"(?:(?:revised|changed|lowered|raised|adjusted|updated)\s+to|now|改为|改成|调整为|修正为|修改为"
    r"|降为|降到|降至|升为)?\s*",
    re.IGNORECASE,
)
_SUM = re.compile(r"[0-9\s.+\-−*/×÷()%·,]{1,160}(?:[=≈]\s*)")
_VERDICT = re.compile(r"final|最终|最后|\[", re.IGNORECASE)
_CONDITION = finder("if, unless, had it, otherwise, 如果, 若")


def label_candidates(
    line: str, offset: int, scale: tuple[float, float], above: str, below: str
) -> Iterator[Candidate]:
    """Find the labelled scores of one line.

    Args:
        line: normalised text without a line break.
        offset: where the line starts in the reply, in characters.
        above: the nearest line above that is not blank; it may introduce a quotation or be a heading.
        below: the nearest line below that is not blank; it may hold the number.
    """
    read_to = 0
    for match in _LABEL.finditer(line):
        if match.start() < read_to:
            continue
        tail = line[match.end() : match.end() + WINDOW]
        value = _value_after(tail, scale)
        if value is None and _BARE_CONNECTORS.fullmatch(tail):
            value = bare_value(below, scale)
            tail = ""
        if value is None:
            continue
        read_to = match.end() + min(value.end, len(tail))
        before = line[max(0, match.start() - WINDOW) : match.start()]
        rank, foreign = _rank(match, before, tail)
        if _states_the_maximum(match, tail, value, scale, below):
            continue
        yield Candidate(
            start=offset + match.start(),
            span=line[match.start() : read_to],
            value=None if names_other_scale_before(before, scale) else value.number,
            rank=rank,
            layer="label",
            disowned=foreign
            or disowned_before(before, above)
            or disowned_after(line[read_to : read_to + 60])
            or _describes_a_level(tail, value),
            under_heading=at_heading(line, above),
        )


def _rank(match: re.Match[str], before: str, tail: str) -> tuple[Rank, bool]:
    """Return a label's rank by its position, and whether it may be about something else."""
    opens_line, is_neutral = neutral(before)
    opens_line = opens_line and match.start() == len(before)
    if match["final"]:
        rank = Rank.FINAL if opens_line and is_neutral else Rank.FINAL_INLINE
        own = is_neutral or _VERDICT.match(match[0]) or re.match(r"\s*[:=]", tail)
        return rank, not own
    if is_neutral:
        return (Rank.LABEL if opens_line else Rank.PROSE), False
    return (Rank.PART if about_an_aspect(before) else Rank.LOOSE), False


def _value_after(tail: str, scale: tuple[float, float]) -> Value | None:
    """Read the value after a label, past separators, remarks, revisions and sums."""
    glue = _CONNECTORS.match(tail)
    at = glue.end() if glue else 0
    notes = [
        note
        for note in (glue.group("note", "noteb", "after", "afterb", "scale") if glue else ())
        if note
    ]
    value = read_value(tail, at, scale)
    if value is None:
        return _without_number(tail, at, notes, scale)
    if value.number is None and (total := _SUM.match(tail, at)):
        last = at
        while total:
            last, total = total.end(), _SUM.match(tail, total.end())
        value = read_value(tail, last, scale) or value
    elif revised := _REVISED.match(tail, value.end):
        later = read_value(tail, revised.end(), scale)
        changed = later is None and re.search("[0-9]", tail[revised.end() :].partition("(")[0])
        value = later or (Value(None, value.end) if changed else value)
    if any(names_other_scale(note, scale) for note in notes):
        return Value(None, value.end)
    rest = re.sub(r"\([^()]*\)", "", tail[value.end :])
    if glue and "ould" in glue["sign"] and _CONDITION.search(rest):
        return Value(None, value.end)
    return value


def _without_number(
    tail: str, at: int, notes: list[str], scale: tuple[float, float]
) -> Value | None:
    """Read a number in a remark; return an unreliable value for a hedge or a letter grade."""
    if notes and (value := read_value(notes[0], 0, scale)) and value.end == len(notes[0]):
        return value
    if (word := _WORD_FIRST.match(tail, at)) and not _HEDGE.search(word[0]):
        value = read_value(tail, word.end(), scale)
        return value if value and tail[value.end : value.end + 1] == ")" else None
    if concluded := _CONCLUDED.match(tail, at):
        return read_value(tail, concluded.end(), scale)
    if tail.lstrip().startswith("|"):
        return _only_cell(tail, scale)
    if refusal := _NO_NUMBER.match(tail, at):
        return Value(None, refusal.end())
    digit = _NEAR_NUMBER.match(tail, at)
    if digit and _HEDGE.search(tail, at, digit.end()):
        return Value(None, digit.end())
    return None


def _only_cell(row: str, scale: tuple[float, float]) -> Value | None:
    """Read the only number of a table row: `| 总分 | 正确性 | 8.5 |`."""
    values = [value for cell in row.split("|") if (value := bare_value(cell, scale))]
    if not values:
        return None
    return Value(values[0].number if len(values) == 1 else None, len(row))


def names_answer(line: str) -> bool:
    """Whether a line scores the answer: `Answer: 2/10`. Beside other parts, that is no overall score."""
    return bool(_OUTPUT_NAMED.match(line))


def has_other_parts(lines: Iterable[str]) -> bool:
    """Whether a line scores something else than the answer or the whole: `Format: 9/10`."""
    names = (match["name"] for line in lines if (match := _NAMED_NUMBER.match(line)))
    return any(
        not (only_neutral(_SCORE_WORD.sub("", name)) or names_other_measure(name)) for name in names
    )


def bare_value(line: str, scale: tuple[float, float]) -> Value | None:
    """Read a line that holds only a score, with or without a remark in parentheses."""
    if len(line) > WINDOW:
        return None
    lead = _DECORATION.match(line)
    value = read_value(line, lead.end() if lead else 0, scale)
    if value and _REMARK.fullmatch(line, value.end):
        return value
    if _ONLY_DIGITS.fullmatch(line):
        return Value(None, len(line))
    return None


def _states_the_maximum(
    match: re.Match[str], tail: str, value: Value, scale: tuple[float, float], below: str
) -> bool:
    """Whether the number is the maximum: `总分10分，得8分`, `总分10`, `总分：10` above `得分：7`."""
    if match[0] not in {"总分", "分数", "总分值"} or value.number != scale[1]:
        return False
    return not re.match(r"\s*[:=|]", tail) or bool(re.match(r"\W*[^\W\d]{0,2}得分", below))


def _describes_a_level(tail: str, value: Value) -> bool:
    """Whether this is a line of a rubric: `Score 10: flawless`."""
    return not re.match(r"\s*[^\s0-9]", tail) and bool(re.match(r"\s*[:=]", tail[value.end :]))
