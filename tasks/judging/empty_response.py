"""Detects responses without content: empty, punctuation only, or only the opening of an answer.

- "One Token to Fool LLM-as-a-Judge" (arXiv:2507.08794): responses such as ":" or "Thought process:"
  get false positives of up to 80-90 % from strong judges, so they are not judged.
- A short answer is content: `42`, `B`, `是`, `∞`.
"""

import re
import unicodedata

_LONGEST = 400
"""Characters; a longer response is never an opening alone."""

_MARKS = re.compile(
    r"<\|[^|<>]{0,40}\|>|</?(?:think|thinking|answer|reasoning|tool_call|s|bos|eos|pad)\s*/?>|\\boxed\{\s*\}"
    r"|```\w*[ \t]*\n\s*```",
    re.IGNORECASE,
)
_CORE = re.compile(r"[^\W_](?:.*[^\W_])?", re.DOTALL)
# Letters and symbols without a visible form: Hangul fillers and the blank Braille cell.
_BLANK_LETTERS = "\u115f\u1160\u3164\uffa0\u2800"
_STEP_BY_STEP_EN = (
    r"(?:(?:ok|okay|sure|alright|well),? )?(?:let's|let us|let me|i will|i'll|we will|we'll)"
    r" (?:now )?(?:solve|think|work|go|break|analyze|analyse|reason|approach|tackle)(?:,? (?:about|through|down|out|on|over"
    r"|this|the|it|that|problem|question|task|carefully|together|step[ -]by[ -]step)){1,8}"
)
_STEP_BY_STEP_ZH = (
    r"(?:好的?,?)?(?:首先,?)?(?:让我们|我们|让我|我来|下面|接下来|我将)?来?(?:一步一步|一步步|逐步|分步)地?来?"
    r"(?:思考|解决|分析|推理|解答|求解|计算)?(?:一下)?(?:这个|这道|该|此|本)?(?:问题|题目?|任务)?"
)
_NOUN_ZH = r"(?:解|解答|解析|解法|解题|求解|思路|思考|分析|推理|证明|详解|答|答案|回答|回复|结果|结论|输出|过程|步骤)"
_OPENERS = (
    r"(?:my |the |here(?: is|'s) (?:my |the )?)?(?:thought|thinking|reasoning|thought and reasoning) process"
    r"|thoughts?|thinking|reasoning|explanation|analysis|proof|output|response|result|step 1|step one"
    r"|(?:(?:sure|certainly|okay|ok),? )?(?:(?:the|my) |here(?: is|'s) (?:the|my) )?(?:final |detailed |full )?(?:solutions?|answers?)(?: is)?"
    r"|let(?: me|'s) (?:think|see)|(?:to solve|solving) (?:this|the) (?:problem|question)(?:,? we (?:need|have) to)?"
    rf"|(?:首先,?)?(?:(?:以下|下面|这|接下来)是)?(?:我的?)?(?:详细|完整|具体|最终|最后)?的?{_NOUN_ZH}{{1,2}}(?:如下|是|为|中)?"
    r"|首先,?让?(?:我们|我)(?:来)?(?:分析|看看?|理解|读)(?:一下)?(?:这个|这道|该|本)?(?:题目|题|问题|题意)?|首先|第一步"
    r"|かいせつ|解説|解き方|回答過程|respuesta|solución|lösung|réponse|risposta"
)
_OPENER = re.compile(rf"(?:{_STEP_BY_STEP_EN}|{_STEP_BY_STEP_ZH}|{_OPENERS})")


_SIMPLIFIED = str.maketrans(
    "過題為結論輸讓們這問後終詳細證驟個來驗", "过题为结论输让们这问后终详细证骤个来验"
)


def has_content(response: str) -> bool:
    """Return whether a response holds something to judge.

    False if it is empty, invisible or punctuation only, or an opening without a continuation
    (`Thought process:`, `Solution`, `解：`, `Let's solve this problem step by step.`).
    """
    text = unicodedata.normalize("NFKC", response)
    if "<" in text or "\\" in text or "```" in text:
        text = _MARKS.sub(" ", text)
    if not any(_shows(char) for char in text):
        return False
    if len(text) > _LONGEST:
        return True
    pieces = (_CORE.search(piece) for piece in re.split(r"[\n.。:!?]", text.replace("’", "'")))
    spoken = [" ".join(core[0].lower().translate(_SIMPLIFIED).split()) for core in pieces if core]
    return not all(_OPENER.fullmatch(piece) for piece in spoken) or not spoken


def _shows(char: str) -> bool:
    """Return whether a character is a letter, a digit or a non-ASCII symbol (`∞`, `√`, an emoji)."""
    category = unicodedata.category(char)
    return char not in _BLANK_LETTERS and (
        category[0] in "LN" or (category[0] == "S" and not char.isascii())
    )
