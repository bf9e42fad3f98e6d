"""Which fields of a request an error refuses, in the words of many endpoints."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from oyer.protocol.status import Status
from oyer.tasks.endpoint.refused_fields import described, with_lessons
from oyer.tasks.endpoint.responses import http_failure
from oyer.tasks.endpoint.types import RetryClass

OWN = ["model", "messages", "temperature", "max_tokens"]
MORE = [*OWN, "response_format", "seed", "logprobs", "top_logprobs", "reasoning_effort", "top_p"]
RENAMED = {"max_tokens": "max_completion_tokens"}


def failed(status: int, body: Any, sent: list[str]) -> Any:
    text = body if isinstance(body, str) else json.dumps(body)
    now = datetime(2026, 3, 1, tzinfo=UTC)
    return http_failure(status, {}, text.encode(), error_class="E", now=now, sent=sent)


def openai(message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    kind = "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def vllm(message: str) -> dict[str, Any]:
    return {"object": "error", "message": message, "type": "BadRequestError", "code": 400}


EXTRA = {"type": "extra_forbidden", "msg": "Extra inputs are not permitted", "input": 3}
LITELLM = (
    "litellm.UnsupportedParamsError: openai does not support parameters: ['temperature'], for"
    " model=o1. To drop these, set `litellm.drop_params=True` or for proxy:\n\n`litellm_settings:\n"
    " drop_params: true`\n. If you want to use these params dynamically send"
    " allowed_openai_params=['temperature', 'max_tokens'] in your request."
)
LENGTH = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use"
    " 'max_completion_tokens' instead."
)


@pytest.mark.parametrize(
    ("status", "body", "sent", "refused"),
    [
        # OpenAI and Azure
        (400, openai(LENGTH, "max_tokens", "unsupported_parameter"), OWN, RENAMED),
        (400, openai(LENGTH), OWN, RENAMED),
        (
            400,
            openai(
                "Unsupported value: 'temperature' does not support 0 with this model. Only the"
                " default (1) value is supported.",
                "temperature",
                "unsupported_value",
            ),
            OWN,
            {"temperature": None},
        ),
        (
            400,
            openai("Unsupported parameter: 'temperature' is not supported with this model."),
            OWN,
            {"temperature": None},
        ),
        (
            400,
            openai("Unknown parameter: 'seed'.", "seed", "unknown_parameter"),
            MORE,
            {"seed": None},
        ),
        (
            400,
            openai("Unrecognized request arguments supplied: reasoning_effort, seed"),
            MORE,
            {"reasoning_effort": None, "seed": None},
        ),
        (
            403,
            openai("You are not allowed to request logprobs from this model"),
            MORE,
            {"logprobs": None, "top_logprobs": None},
        ),
        (
            400,
            openai(
                "Invalid parameter: 'response_format' of type 'json_schema' is not supported with"
                " this model.",
                "response_format",
            ),
            MORE,
            {"response_format": None},
        ),
        (400, openai("This setting is not supported.", "top_p"), MORE, {"top_p": None}),
        # Anthropic
        (400, openai("seed: Extra inputs are not permitted"), MORE, {"seed": None}),
        (
            400,
            openai("`temperature` may only be set to 1 when thinking is enabled."),
            OWN,
            {"temperature": None},
        ),
        (400, openai("`temperature` is deprecated for this model."), OWN, {"temperature": None}),
        (
            400,
            openai(
                "`temperature` and `top_p` cannot both be specified for this model. Please use only"
                " one."
            ),
            MORE,
            {"temperature": None},
        ),
        # pydantic: Mistral, FastAPI, vLLM
        (422, {"detail": [{**EXTRA, "loc": ["body", "seed"]}]}, MORE, {"seed": None}),
        (
            422,
            {"detail": [{**EXTRA, "loc": ["body", name]} for name in ("seed", "logprobs")]},
            MORE,
            {"seed": None, "logprobs": None, "top_logprobs": None},
        ),
        (
            422,
            {"detail": [{"loc": ["body", "top_p"], "msg": "extra fields not permitted"}]},
            MORE,
            {"top_p": None},
        ),
        (400, vllm(str([{**EXTRA, "loc": ("body", "seed")}])), MORE, {"seed": None}),
        (
            400,
            vllm("Extra inputs are not permitted, field: 'seed', value: 3"),
            MORE,
            {"seed": None},
        ),
        # LiteLLM
        (400, openai(LITELLM, None, "400"), OWN, {"temperature": None}),
        (500, openai(LITELLM), OWN, {"temperature": None}),
        (
            400,
            openai("openai does not support parameters: {'temperature': 0.0}, for model=o1"),
            OWN,
            {"temperature": None},
        ),
        (
            400,
            openai("gpt-5 models don't support temperature=0.0. Only temperature=1 is supported."),
            OWN,
            {"temperature": None},
        ),
        # xAI, Groq, Moonshot, Gemini, Bedrock, TGI, llama.cpp
        (
            400,
            {
                "code": "Client error",
                "error": "Model grok-4 does not support parameter reasoningEffort.",
            },
            MORE,
            {"reasoning_effort": None},
        ),
        (400, openai("property 'seed' is unsupported"), MORE, {"seed": None}),
        (
            400,
            openai("This model does not support response format `json_schema`."),
            MORE,
            {"response_format": None},
        ),
        (
            400,
            openai("invalid temperature: only 1 is allowed for this model"),
            OWN,
            {"temperature": None},
        ),
        (
            400,
            [{"error": {"code": 400, "message": 'Unknown name "seed": Cannot find field.'}}],
            MORE,
            {"seed": None},
        ),
        (
            400,
            {"message": "Malformed input request: #: extraneous key [top_p] is not permitted"},
            MORE,
            {"top_p": None},
        ),
        (
            422,
            {"error": "Input validation error: `temperature` must be strictly positive"},
            OWN,
            {"temperature": None},
        ),
        (501, openai("Unsupported param: logprobs"), [*OWN[:2], "logprobs"], {"logprobs": None}),
        # other libraries
        (
            422,
            (
                "Failed to deserialize: unknown field `seed`, expected one of `model`, `max_tokens`,"
                " `temperature`, `top_p`"
            ),
            MORE,
            {"seed": None},
        ),
        (400, {"error": 'json: unknown field "seed"'}, MORE, {"seed": None}),
        (400, {"error": {"message": "参数temperature不支持设置为0"}}, OWN, {"temperature": None}),
        # a router that passes its provider's error on
        (
            400,
            {
                "error": {
                    "message": "Provider returned error",
                    "code": 400,
                    "metadata": {"raw": json.dumps(openai(LENGTH)), "provider_name": "OpenAI"},
                }
            },
            OWN,
            RENAMED,
        ),
        # new names
        (
            400,
            openai("max_tokens is not supported, use max_output_tokens."),
            OWN,
            {"max_tokens": "max_output_tokens"},
        ),
        (422, {"detail": [{**EXTRA, "loc": ["body", "max_tokens"]}]}, OWN, RENAMED),
        (
            422,
            {"detail": [{**EXTRA, "loc": ["body", "max_completion_tokens"]}]},
            ["model", "max_completion_tokens"],
            {"max_completion_tokens": "max_tokens"},
        ),
        (
            400,
            openai("'seed' is not supported. Use 'random_seed' instead."),
            MORE,
            {"seed": "random_seed"},
        ),
    ],
)
def test_a_refused_field_is_named(
    status: int, body: Any, sent: list[str], refused: dict[str, str | None]
) -> None:
    failure = failed(status, body, sent)
    assert failure.refused == refused
    assert (failure.status, failure.retry) == (Status.REJECTED, RetryClass.NEVER)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, openai("Invalid 'max_tokens': integer above maximum value.", "max_tokens")),
        (400, openai("max_tokens is too large: 5000. This model supports at most 4096 tokens.")),
        (400, openai("max_tokens above 4096 is not supported")),
        (400, openai("Invalid 'temperature': decimal above maximum value. Expected <= 2.")),
        (400, openai("'messages' is not supported", "messages", "unsupported_parameter")),
        (400, openai("Unknown parameter: 'provider'.", "provider", "unknown_parameter")),
        (400, openai("The model `m` is not available in your region.")),
        (401, openai(LENGTH)),
        (402, openai("max_tokens is not supported by your balance")),
        (429, openai(LENGTH)),
        (503, openai(LENGTH)),
        (400, openai("Your request was rejected by the content policy: temperature not allowed")),
        (400, openai("maximum context length is 10, max_tokens is not supported")),
        (404, "Not Found"),
    ],
)
def test_other_errors_refuse_no_field(status: int, body: Any) -> None:
    assert failed(status, body, MORE[:4]).refused == {}


def test_a_field_that_was_not_sent_is_not_refused() -> None:
    assert failed(400, openai(LENGTH, "max_tokens", "unsupported_parameter"), OWN[:3]).refused == {}


def test_a_body_follows_what_was_learnt() -> None:
    body = {"model": "m", "temperature": 0.0, "max_tokens": 5}
    assert with_lessons(body, {}) == body
    learnt = {"temperature": None, "max_tokens": "max_completion_tokens", "seed": None}
    assert with_lessons(body, learnt) == {"model": "m", "max_completion_tokens": 5}
    both = {**body, "max_completion_tokens": 7}
    assert with_lessons(both, learnt) == {"model": "m", "max_completion_tokens": 7}


def test_learnt_fields_are_described() -> None:
    learnt = {"temperature": None, "seed": None, "max_tokens": "max_completion_tokens"}
    assert described(learnt) == "without temperature and seed, max_tokens as max_completion_tokens"
    assert described({"seed": None}) == "without seed"
    assert described({}) == ""


def test_thinking_that_leaves_no_room_is_a_reply_that_was_cut() -> None:
    text = (
        "Could not finish the message because max_tokens or model output limit was reached. Please"
        " try again with higher max_tokens."
    )
    failure = failed(400, openai(text), MORE)
    assert (failure.status, failure.refused) == (Status.TRUNCATED, {})
