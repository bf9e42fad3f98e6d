"""The JSON schema that a judge's reply follows where the endpoint supports structured output."""

from typing import Any


def response_format(scale: tuple[float, float]) -> dict[str, Any]:
    """Value of `response_format` in a chat completion: reasons first, then the score.

    `reading.read_score` reads what comes back.
    """
    schema = {
        "type": "object",
        "properties": {
            "reasoning": {"type": "string", "description": "The reasons for the score, briefly."},
            "score": {"type": "number", "minimum": scale[0], "maximum": scale[1]},
        },
        "required": ["reasoning", "score"],
        "additionalProperties": False,
    }
    return {
        "type": "json_schema",
        "json_schema": {"name": "verdict", "strict": True, "schema": schema},
    }
