"""Finds scores that a sentence gives: `I'd rate this an 8`, `综上，给 8 分`, `7/10`."""

import re
from collections.abc import Iterator

from oyer.tasks.judging.claims import Claim, Rank
from oyer.tasks.judging.context import (
    WINDOW,
    disowned_after,
    disowned_before,
    names_other_scale_before,
    only_neutral,
)
from oyer.tasks.judging.values import NUMBER, Value, read_value

SHORT = 25
"""Characters before a fraction that still leave it the point of its line: `Verdict: correct (8/10)`."""

_NAMED = re.compile(r"[^\W0-9][\s*]*:\s*$")
_ADVERB = r"(?:\s+(?:\w+ly|also|just|still|would|will|can|could|have\s+to|must))?"
_FIRST_PERSON = (
    rf"\b(?:I|we)(?:'d|'ll|'ve|'m)?{_ADVERB}\s+"
    r"(?:give|gave|rate|rated|score|scored|assign|assigned|award|awarded|grade|graded|say|go\s+with"
    r"|settle\s+on|land\s+on|choose|put|place|call|mark|(?:am\s+)?(?:giving|rating|scoring|assigning|going\s+with))"
    r"(?:\s+(?:this|that|it|the|its?|a|an|as|at|to|with|of|for|overall|final|score|rating|grade|response|answer|reply"
    r"|output|solution|rollout|model|assistant|model's|assistant's|completion|submission|document|text|passage|summary|conversation|candidate|one|call|trajectory|it's|is)){0,7}(?:\s+an?(?:\s+[a-z-]+){1,2})?\s+(?=\S)"
)
_REVISES = r"\b(?:raised|lowered|changed|moved|dropped|bumped|revised|adjusted)\s+(?:(?:it|this|that|the\s+score)\s+)?(?:up\s+|down\s+)?to\s+(?:an?\s+)?"
_FITTING = rf"\ban?\s+(?={NUMBER}(?:\s*/\s*{NUMBER})?\s+(?:is|seems|feels|would\s+be)\s+(?:fair|right|appropriate|reasonable|justified|warranted|fitting))"
_EARLIER = re.compile(r"\b(?:initially|originally|previously|first)\b", re.IGNORECASE)
_GAIN = r"\b(?:deserves|earns|merits|warrants)(?:\s+(?:an?|the|overall|final|score|rating|grade|of|solid|strong|full)){0,5}\s+"
_COPULA = (
    r"\b(?:this(?:\s+one)?|it|that)(?:'s|\s+is|\s+should\s+be|\s+gets|\s+must\s+be)\s+(?:worth\s+(?:an?\s+)?|an?\s+)"
    r"(?:(?:solid|strong|clear|perfect|easy|weak|low|high)\s+)?"
)
_HAN_VERB = (
    r"(?:给(?:出|予|到)?|打(?:出|个)?|评(?:为|出|定)?|得(?:到)?|判(?:为|定)?|定为|记(?:为)?|赋予?|值|取|[降升]\s*(?:为|到|至)|[调改](?:整)?\s*(?:为|成|到|至)|修正为)"
    r"(?:了)?(?:\s*(?:这个|该|此|本|它|其|模型|助手|回答|回复|响应|输出|解答|的|一个|评分|分数|总分|最终|综合)){0,12}\s*"
)
_NUMERAL = rf"(?:{NUMBER}|[零一二两三四五六七八九十](?![^\W0-9点分半十]))"
_NUMBERED = re.compile("[0-9零一二两三四五六七八九十]")
_SPELLED = re.compile(r"\b(?:one|two|three|four|five|six|seven|eight|nine|ten)\b", re.IGNORECASE)
_GIVEN = re.compile(
    rf"(?:{_FIRST_PERSON}|{_GAIN}|{_COPULA}|{_REVISES}|{_FITTING})(?=[(\[*\s]*(?:{NUMBER}|(?:one|two|three|four|five|six|seven|eight|nine|ten)\b))",
    re.IGNORECASE,
)
_HAN_GIVEN = re.compile(rf"(?:{_HAN_VERB})(?={_NUMERAL}[^,。;]{{0,6}}分)")
_POINTS = re.compile(rf"(?<![0-9.第/\-–—~至到十点])(?={_NUMERAL}\s*分(?![制满钟之数析类别布支]))")
_OPENS = re.compile(rf"\s*{_NUMERAL}\s*分\s*[,.。]")
_FRACTION = re.compile(
    rf"(?<![0-9A-Za-z_./,:\-–—~+])(?={NUMBER}\s*(?:/\s*|(?:points?\s+)?out\s+of\s+(?:a\s+possible\s+)?){NUMBER})",
    re.IGNORECASE,
)
_ENDS = re.compile(
    r"\s*(?:$|[^\w\s\ufffc]|\ufffc|\b(?:because|since|as|for|due|based|given|overall|in\s+total|and|but|with|from|response|answer|reply|solution|output|performance)\b|(?:is|seems|feels|would\s+be)\s+(?:fair|right|appropriate|reasonable|justified|warranted|fitting)\b"
    r"|[^\x00-\x7f])",
    re.IGNORECASE,
)
_CLAIMING = re.compile(
    r"\b(?:this|it|that|response|answer|reply|output|solution|completion|rollout|assistant|model|overall|I|we|my"
    r"|rating|verdict|judge?ment)(?:'s|'d)?(?:\s+[\w']+){0,3}\s*$"
    r"|(?:回答|回复|响应|模型|助手|[该本此我]|综上|因此|总体|整体|综合|最终)[^,。;:]{0,12}$",
    re.IGNORECASE,
)
_CONCLUDING = re.compile(
    r"\s*(?:但|而|那么)?(?:我|因此|所以|故|综合|综上|总体|整体|最终|总分|目前)"
)
_SO = re.compile(
    r"[,;:]\s*(?:so|thus|hence|therefore|overall|making\s+it|leaving\s+it\s+at)\s*,?\s*(?:an?\s*)?$",
    re.IGNORECASE,
)
_ALTERNATIVE = re.compile(
    rf"{NUMBER}\s*分?\s*(?:-|–|—|~|/|、|\b(?:to|or|and)\b|至|到|或者?|和)\s*(?:(?:maybe|even|perhaps|an?)\s+)*$"
    r"|(?:\bat\s+(?:most|least|best)|\bup\s+to|\bno\s+more\s+than|\b(?:less|more|higher|lower)\s+than|\b(?:under|below|above)"
    r"|\b(?:maybe|perhaps|possibly)|(?:可能|或许|也许)(?:是|为)?|至少|至多|最多|不到|不超过|低于|高于|超过)\s*(?:an?\s+)?$",
    re.IGNORECASE,
)
_FINAL = re.compile(
    r"\b(?:overall|final(?:ly)?|in\s+conclusion|in\s+total)\b|综合|综上|总体|整体|最终|总分",
    re.IGNORECASE,
)


def prose_claims(line: str, offset: int, scale: tuple[float, float]) -> Iterator[Claim]:
    """Scores that the sentences of one line give; a line that quotes a table row gives none."""
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
        own = rank <= Rank.PART or not (disowned_before(before) or _EARLIER.search(line, start, at))
        spoiled = names_other_scale_before(before, scale) or _ALTERNATIVE.search(
            line[max(0, at - 40) : at]
        )
        yield Claim(
            start=offset + start,
            span=line[start : value.end],
            value=None if spoiled else value.number,
            rank=Rank.FINAL_INLINE if rank > 0 and _FINAL.search(before[-60:]) else rank,
            layer="prose",
            disowned=not own or disowned_after(line[value.end :][:60]),
        )


def _places(line: str, opens_reply: bool) -> Iterator[tuple[int, int, Rank]]:
    """Where a sentence starts to give a score, where its number stands, and what it weighs."""
    numbered = bool(_NUMBERED.search(line))
    if numbered or _SPELLED.search(line):
        for match in _GIVEN.finditer(line):
            yield match.start(), match.end(), Rank.PROSE
    if not numbered:
        return
    for match in _HAN_GIVEN.finditer(line):
        if _is_about_all(line[max(0, match.start() - WINDOW) : match.start()]):
            yield match.start(), match.end(), Rank.PROSE
    for match in _POINTS.finditer(line):
        before = line[max(0, match.start() - WINDOW) : match.start()]
        opens = opens_reply and _OPENS.match(line)
        if (before.strip() or opens) and _is_about_all(before):
            yield match.start(), match.end(), Rank.PROSE
    for match in _FRACTION.finditer(line):
        before = line[max(0, match.start() - WINDOW) : match.start()]
        if (names := _NAMED.search(before)) or len(before) <= SHORT:
            whole = only_neutral(before) or (not names and bool(_CLAIMING.search(before)))
            yield match.start(), match.end(), Rank.PROSE if whole else Rank.PART
        elif _CLAIMING.search(before) or only_neutral(re.split(r"[.。;!?]\s*", before)[-1]):
            yield match.start(), match.end(), Rank.PROSE
        else:
            concludes = _SO.search(before)
            yield match.start(), match.end(), Rank.PROSE if concludes else Rank.LOOSE


def _is_about_all(before: str) -> bool:
    """Whether the sentence up to a number has no subject of its own, or concludes."""
    sentence = re.split(r"[。;!?]|\.\s", before)[-1]
    last = sentence.rpartition(",")[2]
    return only_neutral(sentence.replace(",", " ")) or (
        (bool(_CONCLUDING.match(last)) or not last.strip()) and only_neutral(last)
    )


def _ends_well(line: str, value: Value) -> bool:
    """Whether the sentence does not go on to say what was counted: `3/5 tests`."""
    return value.number is None or bool(_ENDS.match(line, value.end))
