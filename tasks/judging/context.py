"""Judges the words around a stated score: whose it is, what it is about, whether it still holds."""

import re

_SENTENCE_END = re.compile(r"[.!?;](?=\s)|[。!?;]")
_ENUMERATION = re.compile(
    r"^[^\w\ufffc]{0,12}(?:\(?\d{1,2}[.)、]|[一二三四五六七八九十]{1,3}、|[ivx]{1,4}[.)]|[a-z][.)])?[^\w\ufffc]*",
    re.IGNORECASE,
)
_NEUTRAL = re.compile(
    r"""(?:
    (?:so|thus|therefore|hence|then|overall|finally|and|but|accordingly|consequently|conclusion|verdict
      |judge(?:'s)?|judge?ment|result|feedback|evaluation|assessment|summary|in\s(?:conclusion|summary|short|total|sum)
      |(?:step|section|part)\s\d{1,2}|my|the|our|your|its?|this|that|an?|is|are|here(?:'s|\sis|\sare)|i|i'd|i'll|we|would|will|it
      |give|gives?|assign|rate|award|propose|believe|think|with|of|as|for|quality|numeric(?:al)?|rating|grading|fair|reasonable|perfect|correction|corrected|revised|updated
      |resulting|suggested|recommended|assigned|given|assistant(?:'s)?|response(?:'s)?|answer(?:'s)?|reply(?:'s)?
      |model(?:'s)?|output(?:'s)?|solution(?:'s)?|rollout(?:'s)?|receives?|deserves|earns|gets|final|all\sin\sall
      |(?:based\son|given|considering|after|taking|according\sto)\s[^,.:]{1,80},)\b
    |(?:(?:这|该|此|本)(?:[篇段个份条次道首]|[\u4e00-\u9fff]{2}(?=的))?[\u4e00-\u9fff]{0,4}的(?=[\s:]*$))
    |on\sa\sscale\s(?:of|from)\s[0-9]{1,3}\s?(?:to|-|–)\s?[0-9]{1,3}
    |(?:(?:满分|总分)(?:为|是)?\s*:?\s*[0-9]{1,4}\s*分?|[0-9]{1,4}\s*分(?:制|满分)(?:下|的?标准)?
      |\(?[0-9]{1,3}\s*(?:-|–|~|到|至)\s*[0-9]{1,3}\s*分?\)?(?:的?(?:标准|范围|量表|区间))?|评分标准|按照?|根据|在|内|以|综上(?:所述)?|因此|所以|因而|故此?|总之|最后|最终|综合(?:来看|来说|以上|上述|考虑|而言|评估|分析)?|总体(?:来看|来说|而言|上)?
      |整体(?:来看|来说|而言|上)?|(?:基于|根据|结合|鉴于|考虑到)[^,。:]{1,40},|结论|我认为|我觉得|我|你|本次|本|该|此|这[个次份篇条段]?
      |对|于|给出|给予|给|打出|打|的|为|是|会|应该|应|可以|可|建议|能|将|回答|回复|响应|输出|轨迹|模型|助手|学生|考生|答案|解答|质量|整个
      |更正|修正|修改后|重新(?:评估|考虑|打分)?后?|评审|裁判|评委|结果|如下|以上|上述|评价|评估|其|它|只能|只|仅|所以我|但是|但|不过|而|现在|目前|此处)
    )[\s,:、\-–—|*>#]*""",
    re.VERBOSE | re.IGNORECASE,
)
# Quoting verbs that taint a whole sentence, and those that only taint their own clause.
_STOLEN = re.compile(
    r"\b(?:claim(?:s|ed|ing)|tell(?:s|ing)|told|instruct(?:s|ed|ing|ions?)|demand(?:s|ed|ing)|inject\w*|pretend\w*"
    r"|forged?|fak(?:e|ed|ing)|(?:tries|trying|attempts?)\s+to|ask(?:s|ed|ing)\s+(?:me|the|for|us|you)|ends\s+with"
    r"|(?:says|said|reads|states?|wrote|writes)\s*:?\s*$|self-\w+)\b"
    r"|写着|写道|写了|声称|宣称|自称|试图|企图|诱导|注入|伪造|自评|自己给|末尾|所谓|要求(?:我|你|评)|指示(?:我|你|评)",
    re.IGNORECASE,
)
_STOLEN_HERE = re.compile(
    r"\b(?:says|said|saying|states?|stated|stating|contains?|containing|writes?|wrote|written|asks?|asked|requests?"
    r"|embedded|ignor(?:e|es|ing)|quot\w+|appended|inserted|reads|include[sd]?|including|text)\b"
    r"|要求|指示|忽略|无视|包含|含有|出现|提到|写入|附加|插入|输出了",
    re.IGNORECASE,
)
_IMAGINED = re.compile(
    r"\b(?:if|unless|would\s+have|could\s+have|might\s+have|had\s+it)\b|如果|假如|若(?!干)|本可|本应|原本|否则|除非",
    re.IGNORECASE,
)
_SUPERSEDED = re.compile(
    r"\b(?:previous(?:ly)?|prior|earlier|initial(?:ly)?|original(?:ly)?|old|former(?:ly)?|baseline|preliminary|tentative"
    r"|provisional|draft|first\s+(?:pass|draft)|example|sample|e\.g|expected|target|human|gold|passing|threshold"
    r"|was\s+going\s+to|at\s+first|tempted|minimum|maximum|max|min|possible|highest|lowest|cap(?:ped)?|limit(?:ed)?|could|might"
    r"|instead\s+of|rather\s+than|not|never|no|cannot|without|deduct\w*|minus|lose|lost|next)\b|n't\b"
    r"|原(?:来|始|本|先)?(?:的)?$|先\s*$|原来|原始|原先|之前|先前|上一|上次|上轮|初始|初步|暂定|预估|示例|例如|比如|样例|参考评|人工|基准|及格|满分"
    r"|最高|最低|上限|下限|不是|并非|不能|不应|不宜|不会|不予|不给|未|没有|无法|扣|减|限制|封顶|下次",
    re.IGNORECASE,
)
# A score inside the task that the rollout solves, or an assignment in its code.
_OTHERS = re.compile(
    r"\b(?!(?:model|response|assistant|answer|judge|solution|agent|output|rollout|it|here|that|let)'s)[a-z]+'s\s+$"
    r"|\b(?:his|her|their|team|player|class|exam|test|game)\s+$|\b(?:sets?|prints?|computes?|variable)\b",
    re.IGNORECASE,
)
_CONCLUDES = re.compile(
    r"\b(?:so|therefore|thus|hence|overall)\b|因此|所以|综上|故而|总体而言", re.IGNORECASE
)
_NOT_OURS = re.compile(
    r"\s*(?:['\"”’」』]|的?(?:字样|字眼|语句)|这(?:句|行|段|一|种|类|样)|的(?:指令|内容|注入|要求|文字|文本)|等(?:字|内容|指令|文)"
    r"|(?:is|was|are)\s+(?:an?\s+)?(?:prompt\s+)?(?:inject|quoted|part\s+of|in\s+the|from\s+the|what\s+the)"
    r"|(?:means?|indicates?|represents?|corresponds?|表示|代表|意味|对应|是指|的标准|的要求|才|则|would\b|requires?\b|is\s+reserved)"
    r"|,?\s*(?:in\s+)?(?:an?|which\s+is\s+an?)\s+(?:obvious\s+|clear\s+)?(?:attempt|injection|trick|instruction)"
    r"|for\s+(?:responses|answers|replies|outputs)\s+(?:that|which))",
    re.IGNORECASE,
)
ASPECT = (
    r"(?:(?:relevan|coheren|consisten|fluen|correct|accura|helpful|quality|clarity|complete|faithful|grounded|instruction"
    r"|factual|reasoning|safety|useful|depth|creativ|style|format|tool|argument|similar|equivalen)[a-z]*"
    r"|[\u4e00-\u9fff]{1,4}性|质量|正确|准确|完整|清晰|格式|思考|调用|参数)"
)
"""A word for one side of a response's quality, as a regular expression without groups."""

_ASPECT = re.compile(
    rf"[^\w\ufffc]*(?:the\s+|\d{{1,2}}[.)]\s*)?(?:{ASPECT}[\s_-]*(?:[a-z]+[\s_-]+)?|[a-z-]+\s+{ASPECT}\s+)(?:的|方面)?",
    re.IGNORECASE,
)
_COMPARED = re.compile(
    r"\b(?:response|assistant|answer|model|candidate|output)\s*\(?(?P<en>[ab12])\b(?!\s*(?:\d|solid|strong|very|high|low))"
    r"|(?:回答|回复|模型|助手|候选)\s*(?P<zh>[ab12甲乙一二])(?![^\W\d_a-z]|\d)",
    re.IGNORECASE,
)
_FULL_MARKS = re.compile(
    r"(?:满分|总分)(?:为|是)?\s*:?\s*([0-9]{1,4})|(?<![0-9])([0-9]{1,4})\s*分(?:制|满分)"
    r"|[0-9]{1,3}\s*(?:-|–|~|到|至)\s*([0-9]{1,4})\s*分?\)?的?(?:标准|范围|量表|区间)|scale\s(?:of|from)\s[0-9]{1,3}\s?(?:to|-|–)\s?([0-9]{1,4})",
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"^\s*(?:#{1,6}\s|[-*•·]\s|\(?\d{1,2}[.)、]\s?|[一二三四五六七八九十]{1,3}、|\*\*[^*\n]{1,60}\*\*:?\s*$)|^[^.。!?\n]{1,40}:\s*$"
)


def neutral(before: str) -> tuple[bool, bool]:
    """Look at what precedes a label on its line.

    Returns:
        Whether the label opens the line (numbering and lead-ins apart), and whether the words
        of its clause leave it about the whole reply.
    """
    lead = _ENUMERATION.match(before)
    text = before[lead.end() if lead else 0 :]
    ends = [end.end() for end in _SENTENCE_END.finditer(text)]
    sentence = text[ends[-1] :] if ends else text
    opens_line = not ends and only_neutral(sentence)
    return opens_line, opens_line or only_neutral(sentence) or only_neutral(
        sentence.rpartition(",")[2]
    )


def only_neutral(words: str) -> bool:
    """Whether words are a lead-in such as `Therefore, my` or `综上，我给这个回答`."""
    if compared(words):
        return False
    at = len(words) - len(words.lstrip(" \t,:、-–—|*>#(["))
    while at < len(words):
        word = _NEUTRAL.match(words, at)
        if word is None:
            return False
        at = word.end()
    return True


def about_an_aspect(before: str) -> bool:
    """Whether all that precedes a label is the name of one side of quality: `The relevance`."""
    return bool(_ASPECT.fullmatch(before))


def compared(words: str) -> set[str]:
    """Names of the candidates that words tell apart: `response A`, `回答2`."""
    return {(match["en"] or match["zh"]).lower() for match in _COMPARED.finditer(words)}


def names_other_scale_before(before: str, scale: tuple[float, float]) -> bool:
    """Whether the sentence up to a score says that full marks are not this scale's."""
    if "百分制" in before and scale[1] != 100:
        return True
    stated = [m[m.lastindex or 0] for m in _FULL_MARKS.finditer(before)]
    return bool(stated) and float(stated[-1]) != scale[1]


def clause(before: str) -> str:
    """The words since the last sentence end, or since the last word that draws a conclusion."""
    cuts = [end.end() for end in _SENTENCE_END.finditer(before)]
    cuts += [word.start() for word in _CONCLUDES.finditer(before)]
    return before[max(cuts) :] if cuts else before


def disowned_before(before: str, above: str = "") -> bool:
    """Whether the words before a score make it another's, an earlier or an imagined one."""
    words = clause(before)
    if _STOLEN.search(words) or _IMAGINED.search(words):
        return True
    here = words.rpartition(",")[2]
    if _OTHERS.search(here):
        return True
    if _STOLEN_HERE.search(here) or _SUPERSEDED.search(here):
        return True
    introduces = above.rstrip().endswith(":") and not before.strip(" *#>-|")
    quoted = clause(above[-200:])
    return introduces and bool(_STOLEN.search(quoted) or _STOLEN_HERE.search(quoted))


def disowned_after(after: str) -> bool:
    """Whether the words right after a score make it a quotation or a line of the rubric."""
    return bool(_NOT_OURS.match(after))


def at_heading(line: str, above: str) -> bool:
    """Whether a line is a list item or stands under a heading, so that it may be one of several."""
    return bool(_HEADING.match(line) or _HEADING.match(above))
