"""One judge call over HTTP: openai-python on `JudgeTransport`, one request and no retry.

- One client per endpoint and worker process, built after the fork; greenlets and threads
  share it.
- The key is read from the environment once and goes into the Authorization header only.
"""

import json
import logging
import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx2
from openai import APIConnectionError, APIStatusError, APITimeoutError, OpenAI

from oyer.config.reward import EndpointConfig
from oyer.config.variables import secret_of, shown
from oyer.protocol.errors import InvalidConfig
from oyer.protocol.status import Status
from oyer.tasks.endpoint.base_urls import BaseUrlPool
from oyer.tasks.endpoint.redaction import mask, redact
from oyer.tasks.endpoint.refused_fields import with_lessons
from oyer.tasks.endpoint.responses import http_failure, read_response
from oyer.tasks.endpoint.transport import JudgeHttpClient, JudgeTransport
from oyer.tasks.endpoint.types import ChatRequest, Failure, Reply, RetryClass

MESSAGE_CHARS = 500
"""Longest message of a failure, in characters."""

_WRONG_PLACE = frozenset({404, 405})
"""Statuses that a wrong `base_url` causes; their messages name the URL."""
_VERSION = re.compile(r"/(v\d|openai/)")
"""Part of the path of most endpoints; Azure's paths begin with `/openai/`."""


class EndpointClient:
    """Calls one endpoint.

    Args:
        name: The endpoint's name in the configuration.
        environ: Environment variables: the key, proxies and certificate authorities.

    Raises:
        InvalidConfig: a missing key; a key that HTTP cannot carry; an unusable proxy or certificate
            file.
    """

    def __init__(self, name: str, config: EndpointConfig, environ: Mapping[str, str]) -> None:
        key = _key(name, config.api_key_env, environ)
        # Their log lines hold URLs, whose query may hold a key. Errors are returned as values.
        for library in ("openai", "httpx2"):
            logging.getLogger(library).setLevel(logging.ERROR)
        self._urls = [_chat_url(server.url) for server in config.servers]
        self._choice = BaseUrlPool(
            [server.weight for server in config.servers],
            clock=time.monotonic,
            rng=random.Random(),
        )
        headers = _headers(key, config.headers)
        self._extra_body = config.extra_body
        self._secrets = _secrets(key, config.headers, self._urls)
        self._clients = [
            OpenAI(
                api_key="none",  # required, and not sent: the transport has its own headers
                base_url=url,
                max_retries=0,
                http_client=JudgeHttpClient(
                    JudgeTransport(url, headers, environ, pool_size=config.max_in_flight)
                ),
            )
            for url in self._urls
        ]
        # openai-python names the platform in its headers, by a subprocess: once here, and not by
        # each of the first calls at the same time.
        for client in self._clients:
            _ = client.default_headers

    def pick_url(self) -> int:
        """Return the index of the URL for a request; `complete` is to be called with it."""
        return self._choice.pick()

    def other_url(self, url_index: int) -> int | None:
        """Return the URL of a second request for a call; see `BaseUrlPool.pick_other`."""
        return self._choice.pick_other(url_index)

    def complete(
        self, request: ChatRequest, *, timeout_s: float, url_index: int | None = None
    ) -> Reply | Failure:
        """Make one HTTP request; every outcome is a `Reply` or a `Failure`.

        An exception that is thrown in from outside closes the connection, and says nothing about
        the health of the URL.

        Args:
            timeout_s: Limit of the whole exchange, in seconds.
            url_index: From `pick_url` or `other_url`; None picks a URL.
        """
        body = self._body(request)
        url_index = self._choice.pick() if url_index is None else url_index
        started_s = time.perf_counter()
        answered: bool | None = None
        try:
            outcome = self._post(url_index, body, timeout_s)
            answered = isinstance(outcome, Reply) or outcome.retry is not RetryClass.TRANSIENT
        finally:
            self._choice.report(url_index, answered=answered)
        latency_ms = (time.perf_counter() - started_s) * 1000
        if isinstance(outcome, Failure):
            if outcome.http_status in _WRONG_PLACE:
                outcome = replace(outcome, message=_with_address(outcome, self._urls[url_index]))
            message = redact(outcome.message, self._secrets, limit_chars=MESSAGE_CHARS)
            outcome = replace(outcome, message=message)
        elif self._secrets:
            outcome = replace(
                outcome,
                text=mask(outcome.text, self._secrets),
                reasoning=outcome.reasoning and mask(outcome.reasoning, self._secrets),
                refusal=outcome.refusal and mask(outcome.refusal, self._secrets),
                model=mask(outcome.model, self._secrets),
            )
        sent = {name: value for name, value in body.items() if name != "messages"}
        return replace(outcome, latency_ms=latency_ms, url_index=url_index, sent=sent)

    def close(self) -> None:
        """Close the kept connections."""
        for client in self._clients:
            client.close()

    def _post(self, url_index: int, body: Mapping[str, Any], timeout_s: float) -> Reply | Failure:
        # "replace": a lone surrogate in a rollout must not fail the call.
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        try:
            response = self._clients[url_index].post(
                self._urls[url_index],
                cast_to=httpx2.Response,
                content=content,
                options={"timeout": timeout_s},
            )
        except APIStatusError as error:
            return http_failure(
                error.status_code,
                error.response.headers,
                error.response.content,
                error_class=type(error).__name__,
                now=datetime.now(UTC),
                sent=body,
            )
        except APIConnectionError as error:
            return _network_failure(error)
        return read_response(
            response.status_code,
            response.headers,
            response.content,
            now=datetime.now(UTC),
            sent=body,
        )

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        top_logprobs = request.logprobs
        fields = {
            "model": request.model,
            "messages": request.messages,
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            "response_format": request.response_format,
            "seed": request.seed,
            "logprobs": None if top_logprobs is None else True,
            "top_logprobs": top_logprobs,
            "reasoning_effort": request.reasoning_effort,
        }
        given = {name: value for name, value in fields.items() if value is not None}
        extra = {**self._extra_body, **request.extra_body}
        if "max_completion_tokens" in extra:
            # Both set the same limit; endpoints refuse a request with both.
            given.pop("max_tokens", None)
        return with_lessons({**given, **extra}, request.refused)


def _with_address(failure: Failure, url: str) -> str:
    """Add the URL to the message of a 404 or 405, mostly caused by a wrong `base_url`."""
    address = httpx2.URL(url)
    called = f"{address.scheme}://{address.netloc.decode()}{address.path}"
    hint = "" if _VERSION.search(address.path) else " (is `/v1` missing at the end of base_url?)"
    status = f"HTTP {failure.http_status}"
    return failure.message.replace(status, f"{status} from {called}{hint}", 1)


def _network_failure(error: APIConnectionError) -> Failure:
    """Return the failure of a call without a response."""
    cause = error.__cause__ or error
    return Failure(
        status=Status.TIMEOUT if isinstance(error, APITimeoutError) else Status.UNAVAILABLE,
        retry=RetryClass.TRANSIENT,
        error_class=type(cause).__name__,
        message=str(cause),
    )


def _key(name: str, variable: str | None, environ: Mapping[str, str]) -> str | None:
    if variable is None:
        return None
    where = f"endpoints.{name}.api_key_env"
    key = secret_of(
        variable,
        environ,
        where=where,
        fix="set it to the endpoint's key before starting the worker, or leave api_key_env out for"
        " an open server",
    ).strip()
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise InvalidConfig(
            f"{where}: {shown(variable)} holds characters that a key cannot have"
            " (spaces, line breaks or non-ASCII): set it to the bare key"
        )
    return key


def _headers(key: str | None, extra: Mapping[str, str]) -> httpx2.Headers:
    """Return the headers of every request; configured headers win, whatever their case."""
    headers = httpx2.Headers(
        {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": "oyer"}
    )
    if key:
        headers["Authorization"] = f"Bearer {key}"
    headers.update(extra)
    return headers


def _chat_url(base_url: str) -> str:
    url = httpx2.URL(base_url)
    return str(url.copy_with(path=url.path.rstrip("/") + "/chat/completions"))


def _secrets(key: str | None, headers: Mapping[str, str], urls: Sequence[str]) -> tuple[str, ...]:
    parsed = [httpx2.URL(url) for url in urls]
    in_urls = [value for url in parsed for value in (url.password, *url.params.values())]
    found = {key, *headers.values(), *in_urls}
    # Short values are versions and flags; masking them would make messages unreadable.
    return tuple(secret for secret in found if secret and len(secret) >= 8)
