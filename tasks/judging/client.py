"""One judge call over HTTP: openai-python on a pooled transport, one request and no retry.

- One client per endpoint and worker process, built after the fork; greenlets and threads
  share it.
- The key is read from the environment once and goes into the Authorization header only.
"""

import json
import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx2
from openai import APIConnectionError, APIStatusError, APITimeoutError, Omit, OpenAI

from oyer.tasks.config import EndpointConfig
from oyer.tasks.errors import InvalidConfig
from oyer.tasks.judging.calls import ChatRequest, Failure, Reply, RetryClass
from oyer.tasks.judging.classify import http_failure, read_response
from oyer.tasks.judging.endpoints import UrlChoice, WeightedUrl
from oyer.tasks.judging.redaction import redact
from oyer.tasks.judging.transport import CONNECT_TIMEOUT_S, PooledTransport
from oyer.tasks.statuses import Status

MESSAGE_CHARS = 500
"""Longest message of a failure, in characters."""

_NO_EXTRAS = {"x-stainless-retry-count": Omit(), "x-stainless-read-timeout": Omit()}


class _Client(OpenAI):
    """Sends the headers it was given and no others.

    openai-python adds nine of its own, and those of the host's OPENAI_* variables, which may
    hold another endpoint's credentials.
    """

    _headers: dict[str, str | Omit]

    @property
    def default_headers(self) -> dict[str, str | Omit]:
        return self._headers


class EndpointClient:
    """Makes the calls to one endpoint.

    Args:
        name: The endpoint's name in the configuration.
        environ: Holds the key, and proxies and certificate authorities if there are any.
        base_urls: Several addresses with their shares; `config.base_url` alone if left out.
        headers: Further headers of every request; their values are treated as secrets.
        extra_body: Further fields of every request's body.

    Raises:
        InvalidConfig: a key that is missing or no header value, an unusable proxy or CA file.
    """

    def __init__(
        self,
        name: str,
        config: EndpointConfig,
        environ: Mapping[str, str],
        *,
        base_urls: Sequence[WeightedUrl] = (),
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        targets = base_urls or [WeightedUrl(config.base_url)]
        key = _key(name, config.api_key_env, environ)
        self.name = name
        self._urls = [_chat_url(target.url) for target in targets]
        self._choice = UrlChoice(
            [target.weight for target in targets], clock=time.monotonic, rng=random.Random()
        )
        self._extra_body = dict(extra_body or {})
        self._secrets = _secrets(key, headers or {}, self._urls)
        self._client = _openai_client(self._urls, config, environ, key, headers or {})

    def complete(self, request: ChatRequest, *, timeout_s: float) -> Reply | Failure:
        """Make one HTTP request; whatever the endpoint does becomes a `Reply` or a `Failure`.

        Args:
            timeout_s: Limit of the whole exchange, in seconds.
        """
        url_index = self._choice.pick()
        started_s = time.perf_counter()
        answered = False
        try:
            outcome = self._post(self._urls[url_index], request, timeout_s)
            answered = isinstance(outcome, Reply) or outcome.retry is not RetryClass.TRANSIENT
        finally:
            self._choice.report(url_index, answered=answered)
        latency_ms = (time.perf_counter() - started_s) * 1000
        if isinstance(outcome, Failure):
            message = redact(outcome.message, self._secrets, limit_chars=MESSAGE_CHARS)
            outcome = replace(outcome, message=message)
        return replace(outcome, latency_ms=latency_ms, url_index=url_index)

    def close(self) -> None:
        """Close the kept connections."""
        self._client.close()

    def _post(self, url: str, request: ChatRequest, timeout_s: float) -> Reply | Failure:
        # Encoded here: a lone surrogate in a rollout must not fail the call.
        body = json.dumps(self._body(request), ensure_ascii=False).encode("utf-8", "replace")
        timeout = httpx2.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S))
        try:
            response = self._client.post(
                url,
                cast_to=httpx2.Response,
                content=body,
                options={"headers": _NO_EXTRAS, "timeout": timeout},
            )
        except APIStatusError as error:
            return http_failure(
                error.status_code,
                error.response.headers,
                error.response.content,
                error_class=type(error).__name__,
                now=datetime.now(UTC),
                structured=request.response_format is not None,
            )
        except APIConnectionError as error:
            return _network_failure(error)
        return read_response(
            response.status_code, response.headers, response.content, now=datetime.now(UTC)
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
        }
        given = {name: value for name, value in fields.items() if value is not None}
        return {**given, **self._extra_body, **request.extra_body}


def _network_failure(error: APIConnectionError) -> Failure:
    """No response arrived: the connection failed, broke, or took too long."""
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
    key = environ.get(variable, "").strip()
    where = f"endpoints.{name}.api_key_env"
    if not key:
        raise InvalidConfig(
            f"{where}: the environment variable {variable} is not set on this worker: set it to the"
            " endpoint's key before starting the worker, or leave api_key_env out for an open server"
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise InvalidConfig(
            f"{where}: the environment variable {variable} holds characters that no key has"
            " (spaces, line breaks or non-ASCII): set it to the bare key"
        )
    return key


def _chat_url(base_url: str) -> str:
    url = httpx2.URL(base_url)
    return str(url.copy_with(path=url.path.rstrip("/") + "/chat/completions"))


def _secrets(key: str | None, headers: Mapping[str, str], urls: Sequence[str]) -> tuple[str, ...]:
    parsed = [httpx2.URL(url) for url in urls]
    in_urls = [value for url in parsed for value in (url.password, *url.params.values())]
    found = {key, *headers.values(), *in_urls}
    # Short values are versions and flags; masking them would tear messages apart.
    return tuple(secret for secret in found if secret and len(secret) >= 8)


def _openai_client(
    urls: Sequence[str],
    config: EndpointConfig,
    environ: Mapping[str, str],
    key: str | None,
    headers: Mapping[str, str],
) -> OpenAI:
    # At INFO and DEBUG these libraries log URLs, whose query may hold a key.
    for library in ("openai", "httpx2", "urllib3"):
        logging.getLogger(library).setLevel(logging.WARNING)
    transport = PooledTransport(urls, environ, pool_size=config.max_in_flight)
    client = _Client(
        api_key=key or "none",
        base_url=urls[0],
        max_retries=0,
        http_client=httpx2.Client(transport=transport, trust_env=False),
    )
    client._headers = {
        "Accept": "application/json",
        "Content-Type": "application/json",
        "User-Agent": "oyer",
        "Authorization": Omit() if key is None else f"Bearer {key}",
        **headers,
    }
    return client
