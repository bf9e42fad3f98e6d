"""Calls a judge's endpoint once from this host, with this host's key, as workers call it."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oyer.protocol.redis_client import connect
from oyer.tasks.coordination.lessons import Lessons, complete
from oyer.tasks.endpoint.client import EndpointClient
from oyer.tasks.endpoint.refused_fields import described
from oyer.tasks.endpoint.types import Failure, Reply
from oyer.tasks.parsing.parser import ParsedScore

if TYPE_CHECKING:
    from oyer.config.reward import RewardConfig
    from oyer.tasks.judging.requests import JudgeRequest


@dataclass(frozen=True)
class DirectCall:
    """The result of a call."""

    reply: Reply | Failure
    parsed: ParsedScore | None
    """None after a failure."""
    refused_fields: str
    """The fields that the endpoint refuses, in words; empty if none."""

    def record(self) -> dict[str, Any]:
        """Return the call as JSON values; `score` is None without a score."""
        if isinstance(self.reply, Failure) or self.parsed is None:
            assert isinstance(self.reply, Failure)
            return {
                "status": self.reply.status.value,
                "score": None,
                "error": self.reply.message,
                "http_status": self.reply.http_status,
                "latency_ms": self.reply.latency_ms,
            }
        return {
            "status": self.parsed.status.value,
            "score": self.parsed.score if self.parsed.status == "scored" else None,
            "span": self.parsed.span,
            "layer": self.parsed.layer,
            "reply": self.reply.text,
            "finish_reason": self.reply.finish_reason,
            "model": self.reply.model,
            "prompt_tokens": self.reply.prompt_tokens,
            "completion_tokens": self.reply.completion_tokens,
            "latency_ms": self.reply.latency_ms,
        }


def call_judge(
    request: "JudgeRequest", settings: "RewardConfig", broker_url: str | None = None
) -> DirectCall:
    """Send a request, and once more without the fields that the endpoint refuses; no retries.

    Args:
        request: a request that is not decided without a call.
        broker_url: the Redis in which workers share the refused fields; None shares nothing.

    Raises:
        InvalidConfig: the endpoint's key or headers cannot be used.
    """
    assert request.request is not None
    judge = request.judge
    endpoint = settings.endpoints[judge.endpoint]
    client = EndpointClient(judge.endpoint, endpoint, os.environ)
    redis = connect(broker_url) if broker_url else None
    try:
        lessons = Lessons(judge.endpoint, endpoint, redis)
        reply = complete(client, request.request, lessons, timeout_s=endpoint.timeout_s)
        refused = lessons.refused(judge.model)
    finally:
        client.close()
        if redis is not None:
            redis.close()
    parsed = None if isinstance(reply, Failure) else request.reading.read(reply)
    return DirectCall(reply, parsed, described(refused) if refused else "")
