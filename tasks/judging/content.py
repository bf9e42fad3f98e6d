"""Tells responses that hold something to judge from those that only open or decorate one.

- "One Token to Fool LLM-as-a-Judge" (arXiv:2507.08794): replies such as ":" or "Thought process:"
  get false positives of up to 80-90 % from strong judges, so they never reach one.
- A short answer is content: `42`, `B`, `是`, `∞`.
"""

import re
import unicodedata

_LONGEST = 400
"""Characters; openers alone are never longer."""

_MARKS = re.compile(
    r"<\|[^|<>]{0,40}\|>|</?(?:think|thinking|answer|reasoning|tool_call|s|bos|eos|pad)\s*/?>|\\boxed\{\s*\}",
    re.IGNORECASE,
)
_EDGES = re.compile(r"^[\W_]+|[\W_]+$")
# Letters and symbols that show nothing: Hangul fillers and the blank Braille cell.
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
_OPENERS = (
    r"(?:my |the |here is (?:my |the )?)?(?:thought|thinking|reasoning|thought and reasoning) process"
    r"|thoughts?|thinking|reasoning|explanation|analysis|proof|output|response|result|step 1|step one"
    r"|(?:the |my |here is the )?(?:final |detailed |full )?(?:solutions?|answers?)(?: is)?"
    r"|解|解答|解析|解法|解题|解题过程|解题思路|思路|思考|思考过程|思路分析|分析|分析过程|推理|推理过程|过程|证明|详解"
    r"|答|答案|答案是|答案为|最终答案|最终答案是|回答|回复|第一步|步骤一|首先"
    r"|かいせつ|解説|解き方|回答過程|respuesta|solución|lösung|réponse|risposta"
)
_OPENER = re.compile(rf"(?:{_STEP_BY_STEP_EN}|{_STEP_BY_STEP_ZH}|{_OPENERS})")


def has_content(response: str) -> bool:
    """Whether a response holds something to judge.

    False for what is empty, invisible or punctuation only, and for openers without anything after
    them (`Thought process:`, `Solution`, `解：`, `Let's solve this problem step by step.`).
    """
    text = unicodedata.normalize("NFKC", response)
    if "<" in text or "\\" in text:
        text = _MARKS.sub(" ", text)
    if not any(_shows(char) for char in text):
        return False
    if len(text) > _LONGEST:
        return True
    pieces = (_EDGES.sub("", piece) for piece in re.split(r"[\n.。:!?]", text.replace("’", "'")))
    spoken = [" ".join(piece.lower().split()) for piece in pieces if piece]
    return not all(_OPENER.fullmatch(piece) for piece in spoken) or not spoken


def _shows(char: str) -> bool:
    """Letters, digits, and symbols that are not ASCII decoration (`∞`, `√`, an emoji)."""
    category = unicodedata.category(char)
    return char not in _BLANK_LETTERS and (
        category[0] in "LN" or (category[0] == "S" and not char.isascii())
    )
