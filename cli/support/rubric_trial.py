"""One request to a judge's endpoint from this host, and what is read from its reply."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oyer.config.reward import RewardConfig
    from oyer.tasks.judging.requests import JudgeRequest


def send(job: "JudgeRequest", settings: "RewardConfig") -> dict[str, Any]:
    """Send a job's request, and again without the fields that the endpoint refuses; no retries.

    Returns:
        The reply with its tokens and latency, the status, the score (None without one), the text
        it was read from and by which reader; or the failure's message.

    Raises:
        InvalidConfig: the endpoint's key or headers cannot be used.
    """
    from oyer.tasks.coordination.lessons import Lessons, complete
    from oyer.tasks.endpoint.client import EndpointClient
    from oyer.tasks.endpoint.types import Failure
    from oyer.tasks.judging.call import read_reply

    assert job.request is not None
    endpoint = settings.endpoints[job.judge.endpoint]
    client = EndpointClient(job.judge.endpoint, endpoint, os.environ)
    try:
        lessons = Lessons(job.judge.endpoint, endpoint)
        reply = complete(client, job.request, lessons, timeout_s=endpoint.timeout_s)
    finally:
        client.close()
    if isinstance(reply, Failure):
        return {
            "status": reply.status.value,
            "score": None,
            "error": reply.message,
            "http_status": reply.http_status,
            "latency_ms": reply.latency_ms,
        }
    reading = read_reply(reply, job.judge)
    return {
        "status": reading.status.value,
        "score": reading.score if reading.status == "scored" else None,
        "span": reading.span,
        "layer": reading.layer,
        "reply": reply.text,
        "finish_reason": reply.finish_reason,
        "model": reply.model,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "latency_ms": reply.latency_ms,
    }
