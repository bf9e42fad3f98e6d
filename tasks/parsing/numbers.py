"""Reads the number at one position of a line: digits, Chinese numerals, English words.

An unreliable number (a range, a hedge, another denominator, a percentage, a delta) is a `Value`
without a number, so that no weaker candidate replaces it.
"""

import math
import re
from dataclasses import dataclass

_HAN_DIGITS = dict(
    zip("零〇一二两三四五六七八九", (0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9), strict=True)
)
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

NUMBER = r"(?:[0-9]{1,6}(?:\.[0-9]{1,6})?|\.[0-9]{1,6})"
"""A plain decimal number, as a regular expression without groups."""

_HAN = r"[零〇一二两三四五六七八九十百]{1,5}(?:点[零〇一二三四五六七八九]{1,3})?"
_NUMERAL = re.compile(
    rf"(?P<sign>[+\-−]?)(?:(?P<digits>{NUMBER})(?:点(?P<tenths>[0-9])|,(?P<comma>[0-9]{{1,2}})(?=\s*(?:/|out\s+of|von|sur)\s*[0-9]+(?!\.?[0-9])))?|(?P<han>{_HAN})"
    rf"|(?P<word>{'|'.join(_WORDS)})(?![A-Za-z-]))",
    re.IGNORECASE,
)
_OPENER = re.compile(r"[(\[<]\s*")
_CLOSER = re.compile(r"\s*[)\]>]")
_LETTER = re.compile(r"[^\W0-9_]")
_UNIT = re.compile(
    r"\s*(?:分(?![钟之数析类别布支值制])|점|баллов|(?:points?|pts?|marks?)\b|(?P<star>stars?\b|星))",
    re.IGNORECASE,
)
_DENOMINATOR = re.compile(
    rf"\s*,?\s*\(?\s*(?:/\s*(?:满分|总分)?|满分(?:为|是)?|out\s+of|of|over|from|von|sur)\s*(?:a\s+)?(?:(?:total|possible|maximum|max)\s+)?"
    rf"(?:of\s+)?(?P<number>{NUMBER}|{_HAN}|{'|'.join(_WORDS)})(?![0-9A-Za-z.%]*[0-9])",
    re.IGNORECASE,
)
_SCALE_NOTE = re.compile(
    r"(?:满分|总分|分制|百分制|十分制|五分制|out\s+of|max|full\s+marks?|scale|range|from|范围|/)",
    re.IGNORECASE,
)
_DASH = r"(?:-|–|—|~|to|至|到)"
_MAXIMUM = rf"({NUMBER}|{_HAN}|{'|'.join(_WORDS)})"
_STATED_SCALE = re.compile(
    rf"""\bscale\s*(?:(?:of|from|is)\s|[:=])?\s*{NUMBER}\s?(?:\([^()]{{1,20}}\)\s?)?{_DASH}\s?{_MAXIMUM}(?![0-9.]*[0-9])
    |(?<![0-9.]){NUMBER}\s?{_DASH}\s?{_MAXIMUM}[\s-](?:point\s)?(?:\w+\s)?scale\b
    |(?<![\w.]){_MAXIMUM}[\s-]points?\s(?:\w+\s){{0,2}}scale\b
    |(?<![0-9.]){_MAXIMUM}\s*分(?:制|满分(?!(?:为|是)?\s*:?\s*[0-9]))
    |(?:满分|总分)(?:为|是)?\s*:?\s*{_MAXIMUM}
    |[0-9]{{1,3}}\s*{_DASH}\s*{_MAXIMUM}\s*分?\)?的?(?:标准|范围|量表|区间)
    |(?:范围|量表|区间)(?:为|是)?\s*:?\s*[0-9]{{1,3}}\s*分?\s*{_DASH}\s*{_MAXIMUM}
    |(?<![A-Za-z0-9_.]){_MAXIMUM}\s*分?\s*(?:=|is\b|being\b|为|是|作为|当作)\s*(?:the\s+)?(?:(?:best|highest|perfect)\b|最好|最高|最佳|满分|完美)""",
    re.VERBOSE | re.IGNORECASE,
)
_SCALE_FOLLOWS = re.compile(
    r"[\s,(]*(?:(?:on|in|using|by|采用|按照?|以|使用|基于)\s*)?(?:(?:an?|the|my|our)\s+)?",
    re.IGNORECASE,
)
_RANGE = re.compile(rf"(?P<low>{NUMBER})\s*分?\s*(?:-|–|—|~|to|至|到)\s*(?P<high>{NUMBER})")
_PERCENT = re.compile(r"\s*(?:%|percent\b|per\s+cent\b|个?百分点)", re.IGNORECASE)
_LOOSE_NUMBER = rf"(?:{NUMBER}|[零一二两三四五六七八九十]|(?:{'|'.join(_WORDS)}|a\s+half)\b)"
# Text after a number that makes it unreliable: ranges, alternatives, sums, bounds, ordinals, measures.
_SPOILED = re.compile(
    rf"""\s*(?:[-–—−~+±*×÷/^⁄:&、|]|\b(?:to|or|and)\b|至|到|或者?|和)\s*
            (?:even\s+|maybe\s+|perhaps\s+|possibly\s+|可能(?:是)?|\(\s*)?{_LOOSE_NUMBER}
      | \s*,\s*(?:(?:or|but|maybe|perhaps|possibly|(?:could|might)\s+be|an?)\s+){{0,4}}{NUMBER}
      | \s*,?\s*(?:但|也|或)*(?:可能|或许|也许)(?:是|为)?\s*{_LOOSE_NUMBER}
      | \s+{NUMBER}
      | \s*\(\s*(?:or|maybe|perhaps|possibly|或者?|可能(?:是)?)\s*{_LOOSE_NUMBER}
      | \s*\(\s*(?:tentative|provisional|preliminary|暂定|初步|待定)\s*\)
      | [+\-−~](?=$|[\s).,;|])
      | \s*/
      | \s*(?:[.'’+]|e)\s*{NUMBER}\s*/
      | [A-Za-z0-9_^⁄] | \s*\? | \.[0-9] | 。[0-9]{{1,2}}\s*分?\s*$
      | \s*(?:以上|以下|以内|左右|上下|出头|多分|封顶|起步|不到|或更|之间)
      | \s*(?:or|and)\s+(?:so|higher|above|more|below|lower|less|better|worse)\b
      | \s+for\s+[a-z-]{{1,20}}\s*(?:[,;]|and)\s*{NUMBER}
      | \s+at\s+(?:most|best|least)\b
      | \s*(?:minus|plus|[×÷*]|\+\s)
      | [个次处年月日点步条倍成折名位项页行轮种类章节题道句字人元块号级档层段回遍]
      | 分[钟之数析类别布支]
      | \s+(?:(?!(?:the|its|this|all|both)\b)[a-z]{{1,15}}\s+)?(?:issues?|errors?|mistakes?|problems?|flaws?|bugs?|tests?|cases?|checks?|items?|steps?
        |questions?|criteria|calls?|arguments?|parameters?|words?|tokens?|times|minutes?|seconds?|hours?|days?|years?)\b
      | \s+(?:points?|marks?)\s+(?:off|deducted|lost|short|deduction|below|above|penalty)\b
    """,
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Value:
    """A number in a line, and the offset of its end; `number` is None if it is unreliable."""

    number: float | None
    end: int


def read_value(line: str, start: int, scale: tuple[float, float]) -> Value | None:
    """Read the score at `start`, with its unit and denominator.

    Args:
        line: one line of normalised text.
        scale: lowest and highest score; a denominator must equal the highest.

    Returns:
        The value, or None without a number at `start`.
    """
    opener = _OPENER.match(line, start)
    opened_at = opener.end() if opener else start
    numeral = _NUMERAL.match(line, opened_at)
    if numeral is None:
        return None
    number, end = _number(numeral, scale), numeral.end()
    if unit := _UNIT.match(line, end):
        end = unit.end()
        if unit["star"] and scale[1] != 5:
            return Value(None, end)
        if line[end - 1 : end + 1] == "分半" and number is not None:
            number, end = number + 0.5, end + 1
    if numeral["han"] and _LETTER.match(line, end):
        return None
    if percent := _PERCENT.match(line, end):
        return Value(number if scale == (0.0, 100.0) else None, percent.end())
    value = _with_denominator(line, number, end, scale)
    closer = _CLOSER.match(line, value.end) if opener else None
    if closer is None and opener and opener[0][0] == "<":
        return Value(None, value.end)
    return Value(value.number, closer.end()) if closer else value


def names_other_scale(note: str, scale: tuple[float, float]) -> bool:
    """Whether a remark such as `满分100分` or `(1-5)` states another scale."""
    if stated := stated_maxima(note):
        return stated[-1] != scale[1]
    if not (_SCALE_NOTE.search(note) or _RANGE.search(note)):
        return False
    numbers = re.findall(NUMBER, note)
    return bool(numbers) and float(numbers[-1]) != scale[1]


def stated_maxima(text: str) -> list[float]:
    """Return the highest scores of the scales that a text states: `a 1-5 scale`, `满分5分`, `五分制`."""
    stated = (match[match.lastindex or 0] for match in _STATED_SCALE.finditer(text))
    return [100.0 if maximum == "百" else _plain_number(maximum.lower()) for maximum in stated]


def _with_denominator(
    line: str, number: float | None, end: int, scale: tuple[float, float]
) -> Value:
    if denominator := _DENOMINATOR.match(line, end):
        end = denominator.end()
        if _plain_number(denominator["number"]) != scale[1]:
            return Value(None, end)
        if unit := _UNIT.match(line, end):
            end = unit.end()
    if note := re.compile(r"\s*[,(]\s*([^()\n]{0,40})").match(line, end):
        stated = note.group(1).lstrip()
        # `(1 = worst, 5 = best)`
        of_scale = _SCALE_NOTE.match(stated) or (stated[:1].isdigit() and stated_maxima(stated))
        if of_scale and names_other_scale(stated, scale):
            return Value(None, note.end())
    if follows := _SCALE_FOLLOWS.match(line, end):
        maximum = _STATED_SCALE.match(line, follows.end())
        if maximum and stated_maxima(maximum[0]) != [scale[1]]:
            return Value(None, maximum.end())
    return Value(None if _SPOILED.match(line, end) else number, end)


def _number(numeral: re.Match[str], scale: tuple[float, float]) -> float | None:
    if numeral["digits"]:
        decimals = numeral["tenths"] or numeral["comma"]
        number = float(numeral["digits"] + (f".{decimals}" if decimals else ""))
    else:
        number = _plain_number(numeral["han"] or numeral["word"])
    if numeral["sign"] == "+" and scale[0] >= 0:
        return None
    if math.isnan(number):
        return None
    return -number if numeral["sign"] in {"-", "−"} else number


def _plain_number(text: str) -> float:
    """Convert digits, an English word or a Chinese numeral to a number; NaN if it is none."""
    if text.lower() in _WORDS:
        return float(_WORDS.index(text.lower()))
    if re.fullmatch(NUMBER, text):
        return float(text)
    whole, _, decimals = text.partition("点")
    fraction = "".join(str(_HAN_DIGITS[digit]) for digit in decimals)
    return _chinese_integer(whole) + float(f"0.{fraction}" if fraction else 0)


def _chinese_integer(text: str) -> float:
    """Convert `八` to 8, `十` to 10, `八十五` to 85, `一百` to 100; `七八`, a range, to NaN."""
    if text in {"一百", "百"}:
        return 100.0
    tens, ten, ones = text.rpartition("十")
    if len(tens) > 1 or len(ones) > 1 or "百" in text or (not ten and not ones):
        return math.nan
    head = _HAN_DIGITS.get(tens, 1) if ten else 0
    return float(10 * head + _HAN_DIGITS.get(ones, 0))
