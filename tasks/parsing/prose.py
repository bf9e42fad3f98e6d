"""Finds scores in sentences: `I'd rate this an 8`, `综上，给 8 分`, `7/10`."""

import re
from collections.abc import Iterator

from oyer.tasks.parsing.candidates import Candidate, Rank
from oyer.tasks.parsing.context import (
    WINDOW,
    disowned_after,
    disowned_before,
    names_other_measure,
    names_other_scale_before,
    only_neutral,
    quoted_before,
)
from oyer.tasks.parsing.numbers import NUMBER, Value, read_value
from oyer.tasks.parsing.vocabulary import any_of, finder, words

SHORT = 25
"""Most characters before a fraction that is still the main statement: `Verdict: correct (8/10)`."""

_LABEL_BEFORE = re.compile(r"[^\W0-9][\s*]*:\s*$")
_PREDICATE = re.compile(r"\b(?:is|was|are|were|of|on|in|by|to|from)\s+$", re.IGNORECASE)
# `该模型最终` before `给出了5分`: the policy names a score, not the judge.
_BY_MODEL = re.compile(
    r"(?<![给对为按])(?:该|本|此)?(?:模型|助手|AI)(?:自己|最终|最后|直接|也|还|竟){0,2}$",
    re.IGNORECASE,
)
_GAVE = re.compile("(?:给出|给|打|打出|评)了")
_ADVERB = (
    rf"(?:\s+(?:\w+ly|{any_of('also, just, still, would, will, can, could, have to, must')}))?"
)
_ASSIGNS = any_of(
    """give, gave, rate, rated, score, scored, assign, assigned, award, awarded, grade, graded, say, go with,
    settle on, land on, choose, put, place, call, mark, giving, rating, scoring, assigning, going with,
    settling on, landing on, am giving, am rating, am scoring, am assigning, am going with, am settling on, am landing on"""
)
_SCORE_OBJECT = any_of(
    """this, that, it, the, it's, its, is, a, an, as, at, to, with, of, for, overall, final, score, rating,
    grade, response, answer, reply, output, solution, rollout, model, model's, assistant, assistant's,
    completion, submission, document, text, passage, summary, conversation, candidate, one, call, trajectory"""
)
_ADJECTIVE = any_of("solid, strong, clear, perfect, easy, weak, low, high, full")
_IS_APPROPRIATE = (
    rf"{any_of('is, seems, feels, would be')}\s+"
    rf"{any_of('fair, right, appropriate, reasonable, justified, warranted, fitting')}\b"
)
_FIRST_PERSON = (
    rf"(?:I|we)(?:'d|'ll|'ve|'m)?{_ADVERB}\s+{_ASSIGNS}(?:\s+{_SCORE_OBJECT}){{0,7}}"
    r"(?:\s+an?(?:\s+[a-z-]+){1,2})?\s+(?=\S)"
)
_DESERVES = (
    r"(?:deserves|earns|merits|warrants)"
    rf"(?:\s+(?:{any_of('a, an, the, overall, final, score, rating, grade, of')}|{_ADJECTIVE})){{0,5}}\s+"
)
_COPULA = (
    r"(?:this(?:\s+(?:one|response|reply|output|rollout|submission|solution))?|it|that)(?:'s|\s+is|\s+should\s+be|\s+gets|\s+must\s+be)\s+"
    rf"(?:worth\s+(?:an?\s+)?|an?\s+)(?:{_ADJECTIVE}\s+)?"
)
_REVISION = (
    rf"{any_of('raised, lowered, changed, moved, dropped, bumped, revised, adjusted, reduced, brought, raise, lower, drop, reduce, brings, drops')}\s+"
    r"(?:(?:it|this|that|the\s+score)\s+)?(?:up\s+|down\s+)?to\s+(?:an?\s+)?"
)
_APPROPRIATE_NUMBER = rf"an?\s+(?={NUMBER}(?:\s*/\s*{NUMBER})?\s+{_IS_APPROPRIATE})"
_EARLIER = finder("initially, originally, previously, first")
_ASSIGNS_ZH = any_of(
    """给, 给个, 给出, 给予, 给到, 打, 打出, 打到, 打个, 评, 评为, 评出, 评定, 得, 实得, 得到, 判, 判为, 判定, 定为, 获, 获得, 记, 记为, 赋, 赋予,
    值, 值得, 取, 降为, 降到, 降至, 升为, 升到, 升至, 调为, 调到, 调至, 调整为, 调整到, 调整至, 改为, 改成, 改到, 修正为"""
)
_SCORE_OBJECT_ZH = any_of(
    "这个, 该, 此, 本, 它, 其, 模型, 助手, 回答, 回复, 响应, 输出, 解答, 的, 一个, 评分, 分数, 总分, 满分, 最终, 综合"
)
_VERB_ZH = rf"{_ASSIGNS_ZH}了?(?:\s*{_SCORE_OBJECT_ZH}){{0,12}}\s*"
_NUMERAL = rf"(?:{NUMBER}|[零一二两三四五六七八九十](?![^\W0-9点分半十]))"
_NUMBERED = re.compile("[0-9零一二两三四五六七八九十]")
_SPELLED = words("one, two, three, four, five, six, seven, eight, nine, ten")
_SPELLED_OUT = re.compile(_SPELLED, re.IGNORECASE)
_ASSIGNED_SCORE = re.compile(
    # The lookahead only saves time: every alternative starts with one of these letters.
    rf"\b(?=[abcdeilmrtw])(?:{_FIRST_PERSON}|{_DESERVES}|{_COPULA}|{_REVISION}|{_APPROPRIATE_NUMBER})(?=[(\[*\s]*(?:{NUMBER}|{_SPELLED}))",
    re.IGNORECASE,
)
_ASSIGNED_SCORE_ZH = re.compile(
    rf"(?=[给打评得获实判定记赋值取降升调改修])(?:{_VERB_ZH})(?={_NUMERAL}[^,。;]{{0,6}}分)"
)
_POINTS = re.compile(rf"(?<![0-9.第/\-–—~至到十点])(?={_NUMERAL}\s*分(?![制满钟之数析类别布支]))")
_SCORE_AT_START = re.compile(rf"\s*{_NUMERAL}\s*分\s*[,.。]")
_FRACTION = re.compile(
    rf"(?<![0-9A-Za-z_./,:\-–—~+])(?={NUMBER}\s*(?:/\s*|(?:points?\s+)?out\s+of\s+(?:a\s+possible\s+)?){NUMBER})",
    re.IGNORECASE,
)
_FOLLOWING_WORDS = """because, since, as, for, due, based, given, overall, in total, and, but, with, from, response,
    answer, reply, solution, output, performance, here, on a scale, on the scale"""
"""Words that may follow a score; after another noun the number may be a count."""

_SCORE_END = re.compile(
    rf"\s*(?:$|[^\w\s\ufffc]|\ufffc|[^\x00-\x7f]|{_IS_APPROPRIATE}|{words(_FOLLOWING_WORDS)})",
    re.IGNORECASE,
)
_SUBJECTS = any_of(
    """this, it, that, response, answer, reply, output, solution, completion, rollout, assistant, model,
    overall, I, we, my, rating, verdict, judgment, judgement"""
)
_SUBJECTS_ZH = any_of(
    "回答, 回复, 响应, 模型, 助手, 该, 本, 此, 我, 综上, 因此, 总体, 整体, 综合, 最终"
)
_WITH_SUBJECT = re.compile(
    rf"\b{_SUBJECTS}(?:'s|'d)?(?:\s+[\w']+){{0,3}}\s*$|{_SUBJECTS_ZH}[^,。;:]{{0,12}}$",
    re.IGNORECASE,
)
_CONCLUDING = re.compile(
    r"\s*(?:但|而|那么)?(?:我|因此|所以|故|综合|综上|总体|整体|最终|总分|目前|只能|实得|[该本此]回[答复])"
)
_CONCLUDES = re.compile(
    r"[,;:]\s*(?:so|thus|hence|therefore|overall|making\s+it|leaving\s+it\s+at)\s*,?\s*(?:an?\s*)?$",
    re.IGNORECASE,
)
_BOUNDS = any_of(
    """at most, at least, at best, up to, no more than, less than, more than, higher than, lower than, under,
    below, above, maybe, perhaps, possibly, 可能, 可能是, 可能为, 或许, 或许是, 也许, 也许是, 至少, 至多, 最多, 不到,
    不超过, 低于, 高于, 超过"""
)
# Text before a number that makes it one of two alternatives, or a bound.
_ALTERNATIVE = re.compile(
    rf"{NUMBER}\s*分?\s*(?:-|–|—|~|/|、|\b(?:to|or|and)\b|至|到|或者?|和)\s*(?:(?:maybe|even|perhaps|an?)\s+)*$"
    rf"|(?<![A-Za-z]){_BOUNDS}\s*(?:an?\s+)?$",
    re.IGNORECASE,
)
_FINAL = finder(
    "overall, final, finally, in conclusion, in total, 综合, 综上, 总体, 整体, 最终, 总分"
)


def prose_candidates(line: str, offset: int, scale: tuple[float, float]) -> Iterator[Candidate]:
    """Find the scores in the sentences of one line; a table row has none."""
    if line.lstrip().startswith("|"):
        return
    read_to = 0
    for start, at, rank in sorted(_places(line, offset == 0)):
        if start < read_to:
            continue
        value = read_value(line, at, scale)
        if value is None or not _ends_well(line, value):
            continue
        read_to = value.end
        before = line[max(0, start - WINDOW) : start]
        if rank <= Rank.PART:
            own = not (names_other_measure(before) or quoted_before(before))
        else:
            own = not (disowned_before(before) or _EARLIER.search(line, start, at))
        spoiled = names_other_scale_before(before, scale) or _ALTERNATIVE.search(
            line[max(0, at - 40) : at]
        )
        yield Candidate(
            start=offset + start,
            span=line[start : value.end],
            value=None if spoiled else value.number,
            rank=Rank.FINAL_INLINE if rank > 0 and _FINAL.search(before[-60:]) else rank,
            layer="prose",
            disowned=not own or disowned_after(line[value.end :][:60]),
        )


def _places(line: str, opens_reply: bool) -> Iterator[tuple[int, int, Rank]]:
    """Yield the start of each phrase that gives a score, the position of its number, and its rank."""
    numbered = bool(_NUMBERED.search(line))
    if numbered or _SPELLED_OUT.search(line):
        for match in _ASSIGNED_SCORE.finditer(line):
            yield match.start(), match.end(), Rank.PROSE
    if not numbered:
        return
    for match in _ASSIGNED_SCORE_ZH.finditer(line):
        before = line[max(0, match.start() - WINDOW) : match.start()]
        if _GAVE.match(match[0]) and _BY_MODEL.search(before):
            continue
        if _is_about_whole(before):
            yield match.start(), match.end(), Rank.PROSE
    for match in _POINTS.finditer(line):
        before = line[max(0, match.start() - WINDOW) : match.start()]
        opens = opens_reply and _SCORE_AT_START.match(line)
        if (before.strip() or opens) and _is_about_whole(before):
            yield match.start(), match.end(), Rank.PROSE
    for match in _FRACTION.finditer(line):
        before = line[max(0, match.start() - WINDOW) : match.start()]
        names = _LABEL_BEFORE.search(before)
        if names or (len(before) <= SHORT and not _PREDICATE.search(before)):
            whole = only_neutral(before) or (not names and bool(_WITH_SUBJECT.search(before)))
            yield match.start(), match.end(), Rank.PROSE if whole else Rank.PART
        elif _WITH_SUBJECT.search(before) or only_neutral(re.split(r"[.。;!?]\s*", before)[-1]):
            yield match.start(), match.end(), Rank.PROSE
        else:
            concludes = _CONCLUDES.search(before)
            yield match.start(), match.end(), Rank.PROSE if concludes else Rank.LOOSE


def _is_about_whole(before: str) -> bool:
    """Whether the sentence up to a number names no other subject, or draws a conclusion."""
    sentence = re.split(r"[。;!?]|\.\s", before)[-1]
    last = sentence.rpartition(",")[2]
    return only_neutral(sentence.replace(",", " ")) or (
        (bool(_CONCLUDING.match(last)) or not last.strip()) and only_neutral(last)
    )


def _ends_well(line: str, value: Value) -> bool:
    """Whether the number is not followed by a counted noun: `3/5 tests`."""
    return value.number is None or bool(_SCORE_END.match(line, value.end))
