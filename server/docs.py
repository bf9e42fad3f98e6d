"""The OpenAPI schema and an HTML page of it that loads no scripts or remote resources."""

import html
import json
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from oyer.server.graders import GradeRequest, RunRequest
from oyer.server.schemas import GetRewardRequest, RemoteRequest, ScoreRequest

_REQUESTS: list[type[BaseModel]] = [
    ScoreRequest,
    GetRewardRequest,
    RemoteRequest,
    GradeRequest,
    RunRequest,
]
_REF = "#/components/schemas/{model}"


def request_body(model: type[BaseModel]) -> dict[str, Any]:
    """Return the route option that documents a body.

    The routes parse bodies themselves: FastAPI would read one before it checks the token, without
    a size limit, and would refuse all rollouts of a request for one lone surrogate.
    """
    schema = {"$ref": _REF.format(model=model.__name__)}
    content = {"application/json": {"schema": schema}}
    return {"openapi_extra": {"requestBody": {"required": True, "content": content}}}


def documented(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI schema, with the models of the request bodies."""
    if app.openapi_schema is None:
        schema = FastAPI.openapi(app)
        _, models = models_json_schema(
            [(model, "validation") for model in _REQUESTS], ref_template=_REF
        )
        schema["components"]["schemas"].update(models["$defs"])
    return FastAPI.openapi(app)


def docs_page(schema: dict[str, Any]) -> str:
    """Write an OpenAPI schema as one HTML page."""
    title = html.escape(f"{schema['info']['title']} {schema['info']['version']}")
    sections = {
        f"{method.upper()} {path}": operation
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    }
    sections |= schema["components"]["schemas"]
    parts = [
        f"<h2><code>{html.escape(name)}</code></h2>"
        f"<pre>{html.escape(json.dumps(section, indent=1, ensure_ascii=False))}</pre>"
        for name, section in sections.items()
    ]
    about = html.escape(schema["info"]["description"])
    head = f"<!doctype html><meta charset=utf-8><title>{title}</title><h1>{title}</h1><p>{about}"
    return "\n".join([head, *parts])
