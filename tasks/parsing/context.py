"""Decides from the words around a score whether it is the judge's verdict on the whole response."""

import re

from oyer.tasks.parsing.numbers import stated_maxima
from oyer.tasks.parsing.vocabulary import any_of, finder, words

WINDOW = 200
"""Characters read before and after a candidate; this bounds the work on any reply."""

_LEAD_INS = """so, thus, therefore, hence, then, overall, finally, and, but, accordingly, consequently,
    conclusion, verdict, judge, judge's, judgment, judgement, result, feedback, evaluation, assessment,
    summary, in conclusion, in summary, in short, in total, in sum, my, the, our, your, it, its, this, that,
    a, an, is, are, here's, here is, here are, i, i'd, i'll, we, would, will, give, gives, assign, rate,
    award, propose, believe, think, with, of, as, for, quality, numeric, numerical, rating, grading, fair,
    reasonable, perfect, correction, corrected, revised, updated, resulting, suggested, recommended,
    assigned, awarded, given, here, receive, receives, deserves, earns, gets, final, all in all,
    assistant, assistant's, response, response's, answer, answer's, reply, reply's, model, model's,
    output, output's, solution, solution's, rollout, rollout's"""
_LEAD_INS_ZH = """评分标准, 按, 按照, 根据, 在, 内, 以, 综上, 综上所述, 因此, 所以, 因而, 故, 故此, 总之, 最后, 最终,
    综合, 综合来看, 综合来说, 综合以上, 综合上述, 综合考虑, 综合而言, 综合评估, 综合分析,
    总体, 总体来看, 总体来说, 总体而言, 总体上, 整体, 整体来看, 整体来说, 整体而言, 整体上, 结论,
    我认为, 我觉得, 我, 所以我, 你, 本次, 本轮, 本题, 该题, 本, 该, 此, 这, 这个, 这次, 这份, 这篇, 这条, 这段, 对, 于, 给, 给出, 给予,
    打, 打出, 的, 为, 是, 会, 应, 应该, 应得, 可, 可以, 建议, 推荐, 能, 将, 回答, 回复, 响应, 输出, 轨迹, 模型, 助手, 学生,
    考生, 答案, 解答, 质量, 整个, 更正, 修正, 修改后, 重新, 重新评估, 重新考虑, 重新打分, 重新后, 重新评估后,
    重新考虑后, 重新打分后, 评审, 裁判, 评委, 结果, 如下, 以上, 上述, 评价, 评估, 其, 它, 只, 只能, 只有, 仅, 但, 但是,
    不过, 而, 现在, 目前, 当前, 此处, 个人, 勉强, 姑且, 就"""
"""Words before a score that leave it about the whole response."""

_LEAD_IN = re.compile(
    rf"""(?:{words(_LEAD_INS)}|\b(?:step|section|part)\s\d{{1,2}}(?=\s*[:.,)|*–—-])
    |\b(?:based\son|given|considering|after|taking|according\sto)\s[^,.:]{{1,80}},
    |(?:基于|根据|结合|鉴于|考虑到)[^,。:]{{1,40}},
    |(?:这|该|此|本)(?:[篇段个份条次道首]|[\u4e00-\u9fff]{{2}}(?=的))?[\u4e00-\u9fff]{{0,4}}的(?=[\s:]*$)
    |on\sa\sscale\s(?:of|from)\s[0-9]{{1,3}}\s?(?:\([^()]{{1,20}}\)\s?)?(?:to|-|–)\s?[0-9]{{1,3}}(?:\s?\([^()]{{1,20}}\))?
    |(?:满分|总分)(?:为|是)?\s*:?\s*[0-9]{{1,4}}\s*分?
    |[0-9]{{1,4}}\s*分(?:制|满分)(?:下|的?标准)?
    |\(?[0-9]{{1,3}}\s*(?:-|–|~|到|至)\s*[0-9]{{1,3}}\s*分?\)?(?:的?(?:标准|范围|量表|区间))?
    |{any_of(_LEAD_INS_ZH)}
    )[\s,:、\-–—|*>#]*""",
    re.VERBOSE | re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?;](?=\s)|[。!?;]")
_ENUMERATION = re.compile(
    r"^[^\w\ufffc]{0,12}(?:\(?\d{1,2}[.)、]|[一二三四五六七八九十]{1,3}、|[ivx]{1,4}[.)]|[a-z][.)])?[^\w\ufffc]*",
    re.IGNORECASE,
)
# Quoting words that disown every score in their sentence, and those that act in their clause only.
_QUOTING_SENTENCE = finder(
    """claims, claimed, claiming, tells, telling, told, instructs, instructed, instructing, instruction,
    instructions, demands, demanded, demanding, inject*, pretend*, forge, forged, fake, faked, faking,
    tries to, trying to, attempt to, attempts to, ends with, self-*, itself, its own,
    写着, 写道, 写了, 声称, 宣称, 自称, 试图, 企图, 诱导, 注入, 伪造, 自评, 自己给, 末尾, 结尾, 附有, 附带, 所谓,
    要求我, 要求你, 要求评, 指示我, 指示你, 指示评""",
    r"\bask(?:s|ed|ing)\s+(?:me|the|for|us|you)\b",
    r"\b(?:says|said|reads|states?|wrote|writes)\s*:?\s*$",
)
_QUOTING_CLAUSE = finder(
    """says, said, saying, state, states, stated, stating, contain, contains, containing, write, writes,
    wrote, written, ask, asks, asked, request, requests, embedded, ignore, ignores, ignoring, quot*,
    appended, inserted, original text, reads, include, includes, included, including, text,
    原文, 原回复, 原回答, 原输出, 要求, 指示, 忽略, 无视, 包含, 含有, 出现, 提到, 写入, 附加, 插入, 输出了"""
)
_HYPOTHETICAL = finder(
    """if, unless, would have, could have, might have, had it, 如果, 假如, 本可, 本应, 原本, 否则, 除非""",
    "若(?!干)",
)
_SUPERSEDED = finder(
    """previous, previously, prior, earlier, initial, initially, original, originally, old, former, formerly,
    baseline, preliminary, tentative, provisional, draft, first pass, first draft, at first, tempted,
    was going to, 本想, 原想, 本打算, 原打算, example, sample, e.g, expected, target, human, gold, passing, threshold, minimum,
    maximum, max, min, possible, ideal, theoretical, potential, achievable, attainable, highest, lowest, cap, capped, limit, limited, could, might, instead of,
    rather than, not, never, no, cannot, without, deduct*, minus, lose, lost, next,
    原来, 原始, 原先, 之前, 先前, 上一, 上次, 上轮, 初始, 初步, 暂定, 目标, 预估, 示例, 例如, 比如, 样例, 参考评, 人工,
    基准, 及格, 满分, 最高, 最低, 上限, 下限, 不是, 并非, 不能, 不应, 不宜, 不会, 不予, 不给, 不值, 未, 没有, 无法, 扣, 减,
    限制, 封顶, 下次""",
    r"n't\b",
    r"\bI\s+(?:[a-z]+\s+)?considered\b",
    r"原(?:来|始|本|先)?(?:的)?$",
    r"^\W*(?:fix|add|remove|correct|include|change|with)\b[^.;]{1,60}\b(?:and|then)\s*$",
    r"先\s*$",
)
# A score in the task that the rollout solves, or an assignment in its code.
_OTHER_SUBJECT = finder(
    "set, sets, print, prints, compute, computes, variable",
    r"\b(?:his|her|their|team|player|class|exam|test|game)\s+$",
    r"\b(?!(?:model|response|assistant|answer|judge|solution|agent|output|rollout|it|here|that|let)'s)"
    r"[a-z]+'s\s+$",
    r"(?:比赛|赛事|球队|球员|选手|考试|高考|电影|影片|豆瓣|游戏|用户|信用|商品|酒店|餐厅)的?\s*$",
)
_NOT_QUALITY = re.compile(
    r"(?:\b(?:confidence|certainty|difficulty|complexity|date|page|progress|(?:pass|success|error|hit)\s+rate)|通过率|完成率|置信度|信心|难度|日期|页码|进度)(?:\s+(?:score|level|rating))?\W*$",
    re.IGNORECASE,
)
_CONCLUDES = finder(
    "as it stands, so, therefore, thus, hence, overall, 因此, 所以, 综上, 故而, 总体而言, 目前, 当前",
    r"[,;]\s*(?:but|yet|however|但是?|然而|不过)[^.。;!?\n\ufffc]{0,60}?(?=\b(?:I|my)\b|我)",
)
_REJECTED_AFTER = re.compile(
    rf"""\s*(?:['\"”’」』]|的?{any_of("字样, 字眼, 语句")}|这{any_of("句, 行, 段, 一, 种, 类, 样")}
    |的{any_of("指令, 内容, 注入, 要求, 文字, 文本, 标准")}|等{any_of("字, 内容, 指令, 文")}
    |{any_of("表示, 代表, 意味, 对应, 是指, 才, 则")}
    |{words("mean, means, indicate, indicates, represent, represents, correspond, corresponds, would")}
    |{words("require, requires, is reserved")}
    |{words("is, was, are, were, would be, seems")}\s+(?:not|too|un\w+|inappropriate|incorrect|excessive)\b
    |,\s*(?:is|was)\b
    |(?:为|是|作为|当作)满分|中[的得]
    |分?\s*(?:过高|过低|太高|太低|偏高|偏低|不合适|不合理|不妥|不恰当)
    |{words("is, was, are")}\s+(?:an?\s+)?(?:prompt\s+)?(?:inject|quoted|part\s+of|in\s+the|from\s+the|what\s+the)
    |,?\s*(?:in\s+)?(?:an?|which\s+is\s+an?)\s+(?:obvious\s+|clear\s+)?(?:attempt|injection|trick|instruction)
    |(?:系|属于|是(?!因为|由于))[^,.。;\n]{{0,10}}?(?:注入|作弊|伪造|操纵|诱导)
    |[\s.,;:。()\-–—]*(?:(?:this|that|it|which)\s+(?:is|was|comes|line|score|text|sentence|claim)\b
      |(?:这|该|此|上述|以上)(?:是(?!因为|由于)|[句行段个条]|分数|评分|内容|文字))[^.。;\n]{{0,40}}?
      (?:inject|manipulat|in\s+the\s+response|from\s+the\s+response|by\s+the\s+(?:model|assistant|response)
      |注入|作弊|操纵|[回答]复[里中的]|模型自己|自己写|夹带|伪造|不作|不予)
    |for\s+(?:responses|answers|replies|outputs)\s+(?:that|which))""",
    re.VERBOSE | re.IGNORECASE,
)
ASPECT = any_of(
    """relevan*, coheren*, consisten*, fluen*, correct*, accura*, helpful*, quality, clarity, complete*,
    faithful*, grounded*, instruction*, factual*, reasoning, safety, useful*, depth, creativ*, style*,
    format*, tool*, argument*, similar*, equivalen*, 质量, 正确, 准确, 完整, 清晰, 格式, 思考, 调用, 参数"""
).replace("(?:", "(?:[\u4e00-\u9fff]{1,4}性|", 1)
"""A word for one aspect of a response's quality, as a regular expression without groups."""

_ASPECT = re.compile(
    rf"[^\w\ufffc]*(?:the\s+|\d{{1,2}}[.)]\s*)?(?:[a-z]{{3,20}}(?:al|ive|ness|ity|ful|ence|ance|ency)\s+|{ASPECT}[\s_-]*(?:[a-z]+[\s_-]+)?|[a-z-]+\s+{ASPECT}\s+)(?:的|方面)?",
    re.IGNORECASE,
)
_CANDIDATE_NAME = re.compile(
    r"\b(?:response|assistant|answer|model|candidate|output)\s*\(?(?P<en>[ab12])\b(?!\s*(?:\d|solid|strong|very|high|low))"
    r"|\b(?:score|rating)\s(?P<score>(?-i:[AB])|[12])(?=\s*[:=])"
    r"|(?:回答|回复|模型|助手|候选)\s*(?P<zh>[ab12甲乙一二])(?![^\W\d_a-z]|\d)",
    re.IGNORECASE,
)
_LONGEST_SCALE_LINE = 60
# `Scale: 1-5`, `Using a 5-point scale.`, `评分范围：1-5`.
_SCALE_LINE = re.compile(
    rf"""[\W_]*(?:
      (?:{words("using, on, scored on, rated on, I use, I'll use, I will use, I am using, I'm using")}\s+(?:an?|the)?
        |{words("scale, score scale, scoring scale, rating scale, grading scale, scoring, scale used")}\s*[:=])
      |{any_of("采用, 使用, 按, 按照, 以下采用, 评分采用, 评分范围, 评分区间, 评分标准, 打分范围, 满分")}
    )[^.;。!?,]*[.。:]?\s*""",
    re.VERBOSE | re.IGNORECASE,
)
_HEADING = re.compile(
    r"^\s*(?:#{1,6}\s|[-*•·]\s|\(?\d{1,2}[.)、]\s?|[一二三四五六七八九十]{1,3}、|\*\*[^*\n]{1,60}\*\*:?\s*$)|^[^.。!?\n]{1,40}:\s*$"
)


_RETRACTS = words(
    """wait, hmm*, on second thought, scratch that, let me reconsider, let me rethink, let me re-think,
    等等, 等一下, 再想, 重新考虑"""
)
_CORRECTS = words("actually, on reflection, correction, 更正, 不对, 修正")
# `I was too harsh`, `my score may have been too low`.
_JUDGED_AMISS = (
    rf"(?:{words('I, my score, my score above, my rating, the score, the score above, the rating, this score, this rating')}"
    r"(?:'ve|\s+(?:may|might|have|was|were|is|am|seems?))(?:\s+(?:have|be|been))*(?:\s+\w+)?\s+too\s"
    rf"{words('harsh, strict, severe, lenient, generous, soft, kind, low, high')})"
)
# `I take that back`, `please disregard the previous score`, `以上评分作废`.
_WITHDRAWS = (
    rf"(?:{words('I retract, I withdraw, I take back, I take that back')}"
    rf"|(?:please\s+)?{words('disregard, ignore, discard')}\s+(?:the|that|this|my)\s+(?:\w+\s+)?(?:score|rating|grade|verdict)\b"
    rf"|(?:以上|上述|上面的?|前面的?|该|此)(?:评分|打分|分数|得分)(?:作废|无效|有误|不算|撤回|[偏过]?[高低严松]了)"
    r"|(?:以上|上述)(?:判断|结论)(?:作废|无效|不算|撤回)|撤回)"
)
RECONSIDERATION = re.compile(
    rf"(?:^|[.!?。;\n])[\s*\-–—]{{0,20}}(?:{_RETRACTS}|{_JUDGED_AMISS}|{_WITHDRAWS}|更正:|不对,\s?应[该当]?[是为]"
    rf"|(?:{_CORRECTS}|(?:edit|update):|no,)[^\n]{{0,80}}?(?:[0-9]|{_JUDGED_AMISS}|\bthat(?:'s|\s+was)\s+too\s|\bdeserves\s|应[该当]?更[高低]))",
    re.IGNORECASE,
)
"""A place where a reply takes back what it said before: `Wait, …`, `I was too harsh`."""

NEXT_TURN = re.compile(
    r"^[^\w\n]*(?:user|human|question|instruction|prompt|用户|人类|提问|问题)\s*(?::|\]|$)",
    re.IGNORECASE | re.MULTILINE,
)
"""Where a judge goes on by itself with the next request of a dialogue, which it then answers."""


def reconsiders(reply: str, start: int) -> bool:
    """Whether a reply takes something back after a position, e.g. by `Wait, …`."""
    return bool(RECONSIDERATION.search(reply, start))


def neutral(before: str) -> tuple[bool, bool]:
    """Classify the text before a label on its line.

    Returns:
        Whether the label opens the line, numbering and lead-ins aside, and whether its clause is
        about the whole response.
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
    """Whether words are only a lead-in such as `Therefore, my` or `综上，我给这个回答`."""
    if compared(words):
        return False
    at = len(words) - len(words.lstrip(" \t,:、-–—|*>#(["))
    while at < len(words):
        word = _LEAD_IN.match(words, at)
        if word is None:
            return False
        at = word.end()
    return True


def about_an_aspect(before: str) -> bool:
    """Whether the text before a label is only the name of an aspect: `The relevance`."""
    return bool(_ASPECT.fullmatch(before))


def quoted_before(before: str) -> bool:
    """Whether the words before a score say that somebody else states it: `Its self-rating: 9/10`."""
    return bool(_QUOTING_SENTENCE.search(clause(before)))


def names_other_measure(before: str) -> bool:
    """Whether a number measures confidence, difficulty or the like: `Confidence: 9/10`."""
    return bool(_NOT_QUALITY.search(before))


def compared(words: str) -> set[str]:
    """Return the labels of compared responses: `response A`, `回答2`."""
    return {
        (match["en"] or match["score"] or match["zh"]).lower()
        for match in _CANDIDATE_NAME.finditer(words)
    }


def compares(text: str) -> bool:
    """Whether a text names two responses, so that its scores may belong one to each."""
    names = compared(text)
    return any(pair <= names for pair in ({"a", "b"}, {"1", "2"}, {"甲", "乙"}, {"一", "二"}))


def names_other_scale_before(before: str, scale: tuple[float, float]) -> bool:
    """Whether the text before a score states another maximum than the scale's."""
    stated = stated_maxima(before)
    return bool(stated) and stated[-1] != scale[1]


def announces_other_scale(line: str, scale: tuple[float, float]) -> bool:
    """Whether a line only states another scale for the scores below it: `Scale: 1-5`."""
    short = len(line) <= _LONGEST_SCALE_LINE and _SCALE_LINE.fullmatch(line)
    stated = stated_maxima(line) if short else []
    return bool(stated) and scale[1] not in stated


def clause(before: str) -> str:
    """Return the words since the last sentence end or the last concluding word."""
    cuts = [end.end() for end in _SENTENCE_END.finditer(before)]
    cuts += [word.start() for word in _CONCLUDES.finditer(before)]
    return before[max(cuts) :] if cuts else before


def disowned_before(before: str, above: str = "") -> bool:
    """Whether the words before a score make it quoted, superseded or hypothetical."""
    words = clause(before)
    if _QUOTING_SENTENCE.search(words) or _HYPOTHETICAL.search(words):
        return True
    here = words.rpartition(",")[2]
    if _OTHER_SUBJECT.search(here) or names_other_measure(here):
        return True
    if _QUOTING_CLAUSE.search(here) or _SUPERSEDED.search(here):
        return True
    introduces = above.rstrip().endswith(":") and not before.strip(" *#>-|")
    quoted = clause(above[-200:])
    return introduces and bool(_QUOTING_SENTENCE.search(quoted) or _QUOTING_CLAUSE.search(quoted))


def disowned_after(after: str) -> bool:
    """Whether the words right after a score make it a quotation or a line of the rubric."""
    return bool(_REJECTED_AFTER.match(after))


def at_heading(line: str, above: str) -> bool:
    """Whether a line is a list item or under a heading, so that it may be one of several."""
    return bool(_HEADING.match(line) or _HEADING.match(above))
