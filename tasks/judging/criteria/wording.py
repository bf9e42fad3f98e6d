"""Words of the requests to judges that give verdicts: the criteria, the form of the reply, the re-ask; pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from oyer.config.criteria.criterion import Criterion
from oyer.protocol.rollout import Message

_WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "heading": "## Criteria to judge",
        "flag": "verdict: true if the response fully meets this, else false",
        # HealthBench's grader asks "whether the criteria is met, and not whether the response is
        # good or not" (arXiv:2505.08775, `GRADER_TEMPLATE` of simple-evals).
        "pitfall": "verdict: this describes a fault. true if the response has the fault, false if it"
        " does not. Judge whether the description applies, not whether the response is good",
        "choices": "verdict, from worst to best: {choices}",
        "form": "Reply with JSON and nothing else, with one entry for each criterion under exactly its"
        ' name, and the reason before the verdict:\n{{"verdicts": [{{"name": {name}, "reason":'
        ' "one sentence", "verdict": {verdict}}}{more}]}}',
        "reask": "Your reply lacks a readable verdict on some criteria. Judge these alone, as before:",
    },
    "zh": {
        "heading": "## 待评标准",
        "flag": "verdict：回复完全满足则为 true，否则为 false",
        "pitfall": "verdict：这里描述的是一种缺陷。回复有这个缺陷则为 true，没有则为 false。"
        "只判断描述是否成立，不判断回复好不好",
        "choices": "verdict，从最差到最好：{choices}",
        "form": "只输出 JSON，不写别的内容；每条标准一项，名称照抄，先写理由，再写结论：\n"
        '{{"verdicts": [{{"name": {name}, "reason": "一句话", "verdict": {verdict}}}{more}]}}',
        "reask": "你的回复里有些标准没有可读的结论。请按同样的方法只评判这些标准：",
    },
}


def response_format() -> dict[str, Any]:
    """Return the `response_format` of a chat completion; the same for all criteria."""
    entry = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "reason": {"type": "string"},
            "verdict": {"anyOf": [{"type": "boolean"}, {"type": "string"}]},
        },
        "required": ["name", "reason", "verdict"],
        "additionalProperties": False,
    }
    schema = {
        "type": "object",
        "properties": {"verdicts": {"type": "array", "items": entry}},
        "required": ["verdicts"],
        "additionalProperties": False,
    }
    return {
        "type": "json_schema",
        "json_schema": {"name": "verdicts", "strict": True, "schema": schema},
    }


def with_criteria(
    messages: Sequence[Message], criteria: Sequence[Criterion], language: str
) -> list[Message]:
    """Add the criteria to the end of the user message, behind what all calls of a rollout share."""
    *before, user = messages
    section = _section(criteria, language)
    content = user["content"]
    if isinstance(content, str):
        return [*before, {**user, "content": f"{content}\n\n{section}"}]
    return [*before, {**user, "content": [*content, {"type": "text", "text": section}]}]


def question(criteria: Sequence[Criterion], language: str) -> str:
    """Ask again for verdicts on these criteria alone."""
    return f"{_WORDS[language]['reask']}\n\n{_listed(criteria, language)}"


def _section(criteria: Sequence[Criterion], language: str) -> str:
    return f"{_WORDS[language]['heading']}\n\n{_listed(criteria, language)}"


def _listed(criteria: Sequence[Criterion], language: str) -> str:
    """Return criteria without their weights, which must not colour a verdict, and the reply's form."""
    words = _WORDS[language]
    blocks = [f"### {one.name}\n{one.text}\n({_verdict(one, words)})" for one in criteria]
    first = criteria[0]
    form = words["form"].format(
        name=_quoted(first.name),
        verdict=_quoted(first.choices[0]) if first.choices else "true",
        more=", …" if len(criteria) > 1 else "",
    )
    return "\n\n".join([*blocks, form])


def _verdict(criterion: Criterion, words: Mapping[str, str]) -> str:
    if criterion.choices:
        return words["choices"].format(choices=", ".join(map(_quoted, criterion.choices)))
    return words["pitfall" if criterion.pitfall else "flag"]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
