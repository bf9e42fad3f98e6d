"""Prepares a judge's reply for parsing: removes thinking, masks quotations, blanks out markup.

Masking and blanking keep the position of every character, so that the offsets of all readers
compare.
"""

import json
import re
import unicodedata
from collections.abc import Iterator

MASK = "\ufffc"
"""Replaces each character of quoted or structured text, in which no prose is read."""

# NFKC turns superscripts and vulgar fractions into plain digits ("8²" into 82): a slash prevents it.
_KEPT_APART = {
    ord(c): "⁄" + unicodedata.normalize("NFKC", c)
    for c in "⁰¹²³⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞⅟↉"
}
_COLONS = dict.fromkeys(map(ord, "︰∶꞉ː"), ":")
_SIMPLIFIED = str.maketrans(
    "評總體終綜給數滿為結論無寫應該個這對點兩級質認從後標準達絕據於響復輸軌議價獲間減號請嚴聲稱內資試圖誘導偽",
    "评总体终综给数满为结论无写应该个这对点两级质认从后标准达绝据于响复输轨议价获间减号请严声称内资试图诱导伪",
)
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u20e3\ufe00-\ufe0f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
_ROLE_LABEL = re.compile(r"\A(?:output|json)\s*:\s*(?=[{`<])", re.IGNORECASE)
_WRAPPING = "(?:json|verdict|evaluation|judge?ment|result|answer|output)"
_OBJECT_TAG = re.compile(rf"<{_WRAPPING}>\s*(?=\{{)|(?<=\}})\s*</{_WRAPPING}>", re.IGNORECASE)
_PREFILLED = re.compile(r"\A\"\w[\w ]{0,39}\"\s*:")
_BLANK_END = 8
_LONG_BLANK = re.compile(rf"[^\S\n]{{{2 * _BLANK_END + 1},}}")
_LINE_BREAK = re.compile("\r\n?|[\u0085\u2028\u2029\x0b\x0c]")

_THINK = r"(?:think|thinking|thoughts?|reasoning|reflection|scratchpad|analysis|[a-z]{1,10}:think)"
_THINK_TAG = re.compile(
    rf"<\s{{0,9}}(?P<a>/?)\s{{0,9}}{_THINK}(?:\s[^<>\n]{{0,80}})?(?P<self>/?)>"
    r"|◁\s{0,9}(?P<b>/?)\s{0,9}think\s{0,9}▷"
    r"|\[(?P<c>/?)THINK\]"
    r"|<\|(?P<d>begin|end)_of_thought\|>"
    r"|<\|channel\|>\s{0,9}(?P<e>analysis|commentary|final)\s{0,9}<\|message\|>",
    re.IGNORECASE,
)
_CLOSING = {"/", "end", "final"}
_TAG_NAMED = re.compile(r"\s*(?:tags?\b|blocks?\b|标签|标记)", re.IGNORECASE)
_SPECIAL_TOKEN = re.compile(r"<\|[\w-]{1,40}\|>|</?s>|\[/?INST\]")

_FENCE_OPENING = re.compile(r"[ \t]*(`{3,}|~{3,})")
_FENCE_LINE = re.compile(r"[ \t]*(?:`{3,}|~{3,})[^\n`]*")
_QUOTES = re.compile(
    r"“[^“”]{0,4000}”|「[^「」]{0,4000}」|『[^『』]{0,4000}』|‘[^‘’\n]{0,1000}’|«[^«»\n]{0,1000}»"
    r"|``[^`\n]{1,1000}``|`[^`\n]{1,1000}`|\"[^\"\n]{1,1000}\""
    r"|(?<![^\s(:,])'[^'\n]{1,1000}'(?=[\s).,:;!?]|$)|~~[^~\n]{1,1000}~~",
    re.MULTILINE,
)
_QUOTE_MARK = re.compile("[“「『‘«`\"'~]")
_EDGE = r"[\[=#*-]{1,12}\s?"
_QUOTED_BLOCK = re.compile(
    r"<(?P<tag>(?:assistant_|model_)?(?:response|output|completion|rollout)|tool_call|tool_response|transcript|回复|回答|响应)>"
    r"(?P<body>(?:(?!</?(?P=tag)>)[\s\S]){0,20000})</(?P=tag)>"
    # FastChat's prompt sets the answer between `[The Start of …]` and `[The End of …]`.
    rf"|^(?:{_EDGE}(?:(?:the\s)?(?:start|begin)\b|[^\n]{{0,30}}开始)[^\n]{{0,60}}|\[(?P<name>response|answer|output)\]\s{{0,9}})\n"
    # The same opening ends the search, so that each character is searched once for each opening.
    rf"(?P<between>(?:(?!^\[(?P=name)\]|^{_EDGE}(?:(?:the\s)?(?:start|begin|end)\b|[^\n]{{0,30}}(?:开始|结束)))[\s\S]){{0,20000}})"
    rf"^{_EDGE}(?:(?:the\s)?end\b|[^\n]{{0,30}}结束)[^\n]{{0,60}}$",
    re.IGNORECASE | re.MULTILINE,
)
_END_MARK = re.compile(r"</|\bend\b|结束", re.IGNORECASE)
_BLOCKQUOTE = re.compile(r"^[ \t]*>(?!=)[^\n]*$", re.MULTILINE)
_LONE_VALUE = re.compile(r"\s*\[{0,2}\s*[0-9][0-9.]{0,5}\s*分?\s*(?:/\s*[0-9]{1,4})?\s*\]{0,2}\s*")
_MARKUP = re.compile(
    r"(?<![0-9])\*{1,3}|\*{1,3}(?![0-9*])|(?<![0-9A-Za-z_])_{1,3}|_{1,3}(?![0-9A-Za-z_])"
    r"|</?(?:b|i|u|em|strong|p|br|div|span|h[1-6]|center|font|mark|li|ul)\b[^<>\n]{0,80}>"
    r"|\\(?:boxed|fbox|text|textbf|mathbf|mathrm|bf|quad|,|;|!|\(|\)|\[|\])|\\(?=[*_#])"
    r"|[${}【】〖〗]",
    re.IGNORECASE,
)
_MARK = re.compile(r"[*_<\\${}【】〖〗]")


def normalise(text: str) -> str:
    """Return NFKC text without invisible characters, in simplified Chinese, with `\\n` line breaks.

    Long blanks within a line are shortened.
    """
    text = _LINE_BREAK.sub("\n", text)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_KEPT_APART | _COLONS))
        text = _INVISIBLE.sub("", text).translate(_SIMPLIFIED)
    return _LONG_BLANK.sub(" " * _BLANK_END, text)


def thinking_in(text: str) -> str:
    """Return the thinking that `strip_thinking` drops, its blocks joined by line breaks."""
    thoughts: list[str] = []
    start, thinking = 0, False
    for tag, closing in _thinking_tags(text):
        if closing and not thinking:
            thoughts, start = [], 0
        if closing or thinking:
            thoughts.append(text[start : tag.start()])
        thinking, start = not closing, tag.end()
    if thinking:
        thoughts.append(text[start:])
    return "\n".join(thought for thought in map(str.strip, thoughts) if thought)


def _thinking_tags(text: str) -> Iterator[tuple[re.Match[str], bool]]:
    """Find the tags around thinking, and whether each is a closing tag."""
    first = len(text) - len(text.lstrip())
    for tag in _THINK_TAG.finditer(text):
        opens_text = tag.start() <= first
        if not tag["self"] and (opens_text or not _is_mentioned(text, tag)):
            marks = {mark.lower() for mark in tag.group("a", "b", "c", "d", "e") if mark}
            yield tag, bool(marks & _CLOSING)


def strip_thinking(text: str) -> str | None:
    """Drop thinking blocks, and everything before a closing tag without an opening tag.

    A tag that is only mentioned (in quotes, or before the word `tag`) counts as text.

    Returns:
        The rest, or None if thinking is opened and never closed.
    """
    kept: list[str] = []
    start, thinking = 0, False
    for tag, closing in _thinking_tags(text):
        if closing and not thinking:
            kept.clear()
        elif not closing and not thinking:
            kept.append(text[start : tag.start()])
        thinking, start = not closing, tag.end()
    return None if thinking else "\n".join([*kept, text[start:]])


def _is_mentioned(text: str, tag: re.Match[str]) -> bool:
    quoted = text[tag.start() - 1] in "`'\"“‘「『"
    return quoted or bool(_TAG_NAMED.match(text, tag.end()))


def unwrap(text: str) -> str:
    """Remove one fence, quotation or element that encloses the whole reply."""
    text = _SPECIAL_TOKEN.sub("", text).strip()
    lines = text.split("\n")
    if [i for i, line in enumerate(lines) if _FENCE_LINE.fullmatch(line)] == [0, len(lines) - 1]:
        text = "\n".join(lines[1:-1]).strip()
    text = _OBJECT_TAG.sub("", _ROLE_LABEL.sub("", text))
    if "{" not in text and _PREFILLED.match(text):
        text = "{" + text
    text = unescaped(text)
    if text[:2] + text[-2:] == "{{}}":
        text = text[1:-1].strip()
    block = _QUOTED_BLOCK.fullmatch(text)
    text = (block["body"] or block["between"] or "").strip() if block else text
    if text[:1] + text[-1:] in {'""', "“”", "「」", "``", "''"}:
        inner = text[1:-1]
        if not set(inner) & {text[0], text[-1]}:
            return inner.strip()
    return text


def unescaped(text: str) -> str:
    """Return the object in a text that is a JSON string, with or without its quotation marks."""
    if not re.match(r'"\s*\{|\{(?:\s|\\n)*\\"', text):
        return text
    try:
        inner = json.loads(text if text.startswith('"') else f'"{text}"', strict=False)
    except ValueError:
        return text
    return inner.strip() if isinstance(inner, str) else text


def mask_fences(text: str) -> tuple[str, int | None]:
    """Mask fenced code blocks.

    Returns:
        The text, and the offset of an opening fence that is never closed; it masks nothing.
    """
    lines = text.split("\n")
    opened: tuple[int, str] | None = None
    for i, line in enumerate(lines):
        fence = _FENCE_OPENING.match(line)
        if fence and opened is None:
            opened = (i, fence[1])
        elif (
            fence
            and opened
            and fence[1].startswith(opened[1])
            and fence.end() == len(line.rstrip())
        ):
            lines[opened[0] : i + 1] = [MASK * len(inner) for inner in lines[opened[0] : i + 1]]
            opened = None
    at = None if opened is None else sum(len(line) + 1 for line in lines[: opened[0]])
    return "\n".join(lines), at


def mask_quotations(text: str) -> str:
    """Mask block quotes, elements such as `<response>`, quoted strings, inline code, struck-out text.

    Of a quoted number only the quotation marks are removed: `Score: "8"`.
    """
    if ">" in text:
        text = _BLOCKQUOTE.sub(_masked, text)
    if _END_MARK.search(text):
        text = _QUOTED_BLOCK.sub(_masked, text)
    return _QUOTES.sub(_masked_unless_value, text) if _QUOTE_MARK.search(text) else text


def unmark(text: str) -> str:
    """Blank out emphasis, LaTeX and HTML markup; put a mask into long blanks."""
    if _MARK.search(text):
        text = re.sub(r"([0-9)]\s{0,3})\*(?=\s{1,3}[0-9(])", r"\1×", text)
        text = _MARKUP.sub(lambda m: " " * len(m[0]), text)
    return _LONG_BLANK.sub(_with_mask, text)


def _with_mask(blank: re.Match[str]) -> str:
    """Put a mask into a long blank, on which patterns with optional parts take cubic time."""
    start, end = blank[0][:_BLANK_END], blank[0][-_BLANK_END:]
    return start + MASK * (len(blank[0]) - 2 * _BLANK_END) + end


def _masked(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", MASK, match[0])


def _masked_unless_value(match: re.Match[str]) -> str:
    quoted = match[0]
    if quoted.startswith("~~"):
        return " " * len(quoted)
    if _LONE_VALUE.fullmatch(quoted.strip("`“”\"'‘’「」『』«»")):
        return re.sub(r"[`“”\"'‘’「」『』«»]", " ", quoted)
    return _masked(match)
