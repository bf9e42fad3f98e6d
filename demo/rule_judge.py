"""A judge without a model: it scores answers to grade-school math questions by rule.

Its input is the prompt of a real judge. Its scale is 1 to 10, whatever the rubric's scale.
"""

import json
import re
import zlib

_TAIL_CHARS = 400
"""Length of the end of a text that is searched for its final number."""
_RUBRIC_CHARS = 400
"""Length of the beginning of a rubric that decides its language."""
_GOOD = 5
"""Lowest score of a response whose verdicts are good."""
_VERDICTS = '{"verdicts": ['
"""Part of a request for verdicts on criteria."""
_CRITERION = re.compile(r"^### (.+)\n((?:.*\n)*?\(verdict.*\))$", re.MULTILINE)
_FENCE = re.compile(r"\n(`{3,}|~{3,})[^\n`]*\n")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_RESPONSE = re.compile(r"(?m)^## Response \d+\n")
_CHINESE = re.compile(r"[\u4e00-\u9fff]")


def score_reply(system: str, user: str) -> str:
    """Write a short verdict about a response that ends with its score, in the rubric's language.

    Args:
        system: The rubric.
        user: Fenced blocks: the request, optionally the reference (the second to last of at least
            three blocks), and the response (the last). Without fences, the whole text is the response.

    Returns:
        A few lines; the last is `最终评分: N` or `Final score: N`, with N from 1 to 10. To a group
        judge's request, its JSON: the scores of all responses, or the winner of two.
    """
    blocks = fenced_blocks(user) or [user]
    compared = _RESPONSE.findall(_outside_fences(user, blocks))
    if compared:
        return _comparison(blocks, len(compared), names_winner='"winner"' in system + user)
    response = blocks[-1]
    reference = blocks[-2] if len(blocks) >= 3 else None
    answer = _final_number(response)
    expected = None if reference is None else _final_number(reference)
    shows_steps = "=" in response or response.count("\n") >= 2
    score = _score(response, answer, expected, shows_steps)
    if _VERDICTS in user:
        return _verdicts(user, good=score >= _GOOD)
    if _CHINESE.search(system[:_RUBRIC_CHARS]):
        return _chinese(answer, expected, shows_steps, score)
    return _english(answer, expected, shows_steps, score)


def _verdicts(user: str, *, good: bool) -> str:
    """Answer a request for verdicts on criteria: the best ones for a good response, else the worst."""
    entries = []
    for name, body in _CRITERION.findall(user):
        asked = body.rpartition("\n(verdict")[2]
        choices = re.findall(r'"([^"]+)"', asked)
        verdict: bool | str = good
        if choices:
            verdict = choices[-1 if good else 0]
        elif "fault" in asked or "缺陷" in asked:
            verdict = not good
        entries.append({"name": name, "reason": "By the final number.", "verdict": verdict})
    return json.dumps({"verdicts": entries}, ensure_ascii=False)


def _comparison(blocks: list[str], n: int, *, names_winner: bool) -> str:
    """Compare the last `n` blocks by the scores that each would get alone."""
    expected = _final_number(blocks[-n - 1]) if len(blocks) >= n + 2 else None
    scores = [
        _score(one, _final_number(one), expected, "=" in one or one.count("\n") >= 2)
        for one in blocks[-n:]
    ]
    if names_winner:
        first, second = scores[0], scores[-1]
        winner: int | str = "tie" if first == second else 1 if first > second else 2
        return json.dumps({"reason": f"{first} to {second} points", "winner": winner})
    listed = [
        {"id": number, "explanation": f"worth {score} points", "score": score}
        for number, score in enumerate(scores, start=1)
    ]
    return json.dumps({"scores": listed})


def _outside_fences(text: str, blocks: list[str]) -> str:
    for block in blocks:
        text = text.replace(f"\n{block}\n", "\n", 1)
    return text


def fenced_blocks(text: str) -> list[str]:
    """Return the contents of the fenced blocks; an unclosed block reaches to the end."""
    text = f"\n{text}\n"
    blocks = []
    position = 0
    while opening := _FENCE.search(text, position):
        # The line end of the opening fence may also precede the closing fence.
        start = opening.end() - 1
        closing = text.find(f"\n{opening[1]}\n", start)
        end = closing if closing >= 0 else len(text) - 1
        blocks.append(text[start + 1 : end])
        if closing < 0:
            break
        position = closing + len(opening[1]) + 1
    return blocks


def _final_number(text: str) -> str | None:
    """Return the last number in the text, without separators and trailing zeros."""
    numbers = _NUMBER.findall(text[-_TAIL_CHARS:])
    if not numbers:
        return None
    whole, _, fraction = numbers[-1].replace(",", "").partition(".")
    fraction = fraction.rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole


def _score(response: str, answer: str | None, expected: str | None, shows_steps: bool) -> int:
    """Return 8 to 10 for correct, 2 to 4 for wrong, 5 to 7 for unknown, and 1 for empty responses."""
    if not response.strip():
        return 1
    # Imitates the one-point noise of real judges, but is deterministic.
    variation = zlib.crc32(response.encode("utf-8", "surrogatepass")) & 1
    if expected is None:
        return 5 + shows_steps + variation
    return (8 if answer == expected else 2) + shows_steps + variation


def _english(answer: str | None, expected: str | None, shows_steps: bool, score: int) -> str:
    if expected is None:
        verdict = "There is no reference answer to compare with."
    else:
        relation = "equals" if answer == expected else "differs from"
        verdict = f"The final answer {answer or '(none)'} {relation} the reference {expected}."
    steps = "The steps are shown." if shows_steps else "No steps are shown."
    return f"{verdict} {steps}\n\nFinal score: {score}"


def _chinese(answer: str | None, expected: str | None, shows_steps: bool, score: int) -> str:
    if expected is None:
        verdict = "没有可供比较的参考答案。"
    else:
        relation = "一致" if answer == expected else "不一致"
        verdict = f"最后答案 {answer or '（无）'} 与参考答案 {expected} {relation}。"
    steps = "给出了步骤。" if shows_steps else "没有给出步骤。"
    return f"{verdict}{steps}\n\n最终评分: {score}"
