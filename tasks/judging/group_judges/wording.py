"""What a group judge is told to reply, and asked after a wrong reply; pure."""

from typing import Any, Literal

_LIST = {
    "en": "Reply with one JSON object and nothing else:\n"
    '{{"scores": [{{"id": 1, "explanation": "…", "score": N}}, …]}}\n'
    "It has {ids}; `id` is the response's number. The explanation comes before the score and is brief."
    " Each score is one number from {low:g} to {high:g}.",
    "zh": "只输出一个 JSON 对象，不写别的内容：\n"
    '{{"scores": [{{"id": 1, "explanation": "…", "score": N}}, …]}}\n'
    "其中{ids}；`id` 是回复的编号。先简短写理由，再写分数。每个分数是 {low:g} 到 {high:g} 之间的一个数。",
}
_IDS = {
    "en": "each id from 1 to {n} exactly once",
    "zh": "从 1 到 {n} 的每个 id 恰好出现一次",
}
_PAIR = {
    "en": "Reply with one JSON object and nothing else:\n"
    '{"reason": "…", "winner": …}\n'
    'The reason comes first and is brief. The winner is 1, 2 or "tie".',
    "zh": "只输出一个 JSON 对象，不写别的内容：\n"
    '{"reason": "…", "winner": …}\n'
    '先简短写理由；winner 是 1、2 或 "tie"（不分胜负）。',
}
_WRONG = {"en": "Your reply cannot be used: {problem}. ", "zh": "你的回复无法使用：{problem}。"}


def reply_format(
    language: Literal["en", "zh"], *, pairs: bool, n: int, scale: tuple[float, float]
) -> str:
    """Return what a judge is to reply about `n` responses, or about a pair."""
    if pairs:
        return _PAIR[language]
    low, high = scale
    return _LIST[language].format(ids=_IDS[language].format(n=n), low=low, high=high)


def question_after(problem: str, language: Literal["en", "zh"], expected: str) -> str:
    """Return the question that follows a wrong reply; `expected` is its `reply_format`."""
    return _WRONG[language].format(problem=problem) + expected


def list_format(scale: tuple[float, float]) -> dict[str, Any]:
    """Return the `response_format` of a list of scores."""
    entry = {
        "id": {"type": "integer"},
        "explanation": {"type": "string"},
        "score": {"type": "number", "minimum": scale[0], "maximum": scale[1]},
    }
    return _json_format({"scores": {"type": "array", "items": _object(entry)}})


def winner_format() -> dict[str, Any]:
    """Return the `response_format` of a comparison of two responses."""
    winner = {"type": "string", "enum": ["1", "2", "tie"]}
    return _json_format({"reason": {"type": "string"}, "winner": winner})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _json_format(properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"name": "verdict", "strict": True, "schema": _object(properties)}
    return {"type": "json_schema", "json_schema": schema}
