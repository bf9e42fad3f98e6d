"""The OpenAPI description, made from the models that check requests, and a page to read it."""

import html
import json
from functools import cache
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from oyer.server.schemas import (
    ErrorAnswer,
    GetRewardAnswer,
    GetRewardRequest,
    RemoteRequest,
    ScoreAnswer,
    ScoreRequest,
)

_REF = "#/components/schemas/{model}"

_ERRORS = {
    "401": "The bearer token is missing or wrong.",
    "413": "The body is longer than the server takes.",
    "422": "A field is missing or wrong; nothing was submitted.",
    "503": "The backend is away, a judge is late, or the failure policy is `raise`: ask again.",
}


@cache
def schema(*, secured: bool) -> dict[str, Any]:
    """Describe the routes; `secured` where a token is asked for."""
    models: list[type[BaseModel]] = [
        ScoreRequest, ScoreAnswer, GetRewardRequest, GetRewardAnswer, RemoteRequest, ErrorAnswer,
    ]  # fmt: skip
    _, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=_REF
    )
    number_or_object = {"anyOf": [{"type": "number"}, {"type": "object"}]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Oyer", "version": version("oyer"), "description": _ABOUT},
        "paths": {
            "/v1/score": _post("Score a batch.", ScoreRequest, _ref(ScoreAnswer)),
            "/get_reward": _post(
                "OpenRLHF's remote reward model.", GetRewardRequest, _ref(GetRewardAnswer)
            ),
            "/rm": _post("slime's remote_rm.", RemoteRequest, number_or_object, key=True),
            "/healthz": {"get": _operation("Whether batches can be scored.", {"type": "object"})},
        },
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"bearer": []}] if secured else [],
    }


_ABOUT = (
    "Scores rollouts by LLM judges and length terms. A request sent again joins the one under way,"
    " or reads its answer. A missing score is null, or a number with a mark where the protocol"
    " knows only numbers."
)


def page(description: dict[str, Any]) -> str:
    """Write a description as one page without scripts or outside resources."""
    title = f"{description['info']['title']} {description['info']['version']}"
    parts = [f"<h1>{html.escape(title)}</h1><p>{html.escape(description['info']['description'])}"]
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>")
            parts.append(_pre(operation["summary"], operation))
    for name, model in description["components"]["schemas"].items():
        parts.append(f'<h2 id="{html.escape(name)}">{html.escape(name)}</h2>')
        parts.append(_pre(model.get("description", ""), model))
    return f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title>" + "\n".join(
        parts
    )


def _pre(text: str, value: Any) -> str:
    shown = html.escape(json.dumps(value, indent=1, ensure_ascii=False))
    return f"<p>{html.escape(text)}</p><pre>{shown}</pre>"


def _post(
    summary: str, request: type[BaseModel], answer: dict[str, Any], *, key: bool = False
) -> dict[str, Any]:
    operation = _operation(summary, answer)
    operation["requestBody"] = {"required": True, "content": _json(_ref(request))}
    operation["responses"] |= {
        code: {"description": text, "content": _json(_ref(ErrorAnswer))}
        for code, text in _ERRORS.items()
    }
    if key:
        operation["parameters"] = [
            {
                "name": "key",
                "in": "query",
                "description": "Answer with an object that holds the reward under this key.",
                "schema": {"type": "string"},
            }
        ]
    return {"post": operation}


def _operation(summary: str, answer: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "responses": {"200": {"description": "The answer.", "content": _json(answer)}},
    }


def _json(body: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": body}}


def _ref(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": _REF.format(model=model.__name__)}
