"""One rollout through the workers: whether a judge can be paid for is theirs to say, not this host's."""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from oyer.protocol.errors import InvalidConfig, InvalidRollout

if TYPE_CHECKING:
    from oyer.config.reward import JudgeConfig, RewardConfig
    from oyer.tasks.coordination.lessons import Lessons

RUN = "oyer-check"
"""The run that the record files a check's rollouts under."""

PROBE: dict[str, Any] = {
    "prompt": "What is 2 + 3?",
    "response": "2 + 3 = 5, so the answer is 5.",
    "reference": "5",
}
"""What each judge is asked once, to see that it answers and that its reply can be read."""


def judges_of(settings: "RewardConfig") -> "list[JudgeConfig]":
    """List the judges to ask, each once; a fall-back is asked as a judge of its own."""
    asked = []
    for judge in settings.judges:
        once = judge.model_copy(update={"samples": 1, "min_valid": 1, "fallback": None})
        asked.append(once)
        if judge.fallback is not None:
            place = {"endpoint": judge.fallback.endpoint, "model": judge.fallback.model}
            asked.append(once.model_copy(update={**place, "name": f"{judge.name}.fallback"}))
    return asked


def through_workers(
    settings: "RewardConfig", judge: "JudgeConfig | None", broker_url: str | None = None
) -> str:
    """Send one rollout through broker, workers and record, to one judge or to none.

    Raises:
        OyerError: there is no score; the message holds the workers' reason.
    """
    from oyer.manager import RewardManager, Rollout

    config = _config(settings, judge)
    rollout = Rollout(**PROBE, group_id="check", base_score=1.0, correct=True, response_tokens=12)
    started = time.monotonic()
    try:
        future = RewardManager(config).submit([rollout], run=RUN)
    except InvalidRollout:
        # The length methods need metadata that only real rollouts have.
        config = config.model_copy(update={"length": ()})
        if judge is None:
            raise InvalidConfig(
                "the length methods need metadata of a rollout; `oyer score` tries them"
            ) from None
        future = RewardManager(config).submit([rollout], run=RUN)
    try:
        batch = future.result(timeout_s=settings.stall_s)
    except TimeoutError as error:
        future.cancel()
        raise InvalidConfig(f"no answer through the workers: {error}") from None
    took_ms = (time.monotonic() - started) * 1000
    if judge is None:
        return f"a rollout is rewarded by the workers in {took_ms:.0f} ms"
    status = batch.statuses[0]
    if status != "scored":
        why = batch.first_errors.get(status, "the workers' logs say why")
        raise InvalidConfig(f"{status}: {why}")
    score = batch.judge_scores[0]
    with _lessons(settings, judge, broker_url) as lessons:
        return (
            f"{judge.model} at {judge.endpoint} gives {score:g} through the workers in"
            f" {took_ms:.0f} ms{_told(lessons, judge)}"
        )


def _config(settings: "RewardConfig", judge: "JudgeConfig | None") -> "RewardConfig":
    """Leave of a configuration what one judge needs; nothing is reused, so that it is called."""
    from oyer.config.loading import validate

    raw = {
        **settings.model_dump(mode="json", exclude={"reward", "budget", "judges"}),
        "judges": [] if judge is None else [judge.model_dump(mode="json")],
        "reuse": "off",
    }
    try:
        return validate(raw)
    except InvalidConfig:
        # A length method that looks at another judge's score.
        return validate({**raw, "length": []})


@contextlib.contextmanager
def _lessons(
    settings: "RewardConfig", judge: "JudgeConfig", broker_url: str | None
) -> "Iterator[Lessons | None]":
    """Open what the workers know of a judge's endpoint; None where this host does not know it."""
    from oyer.protocol.redis_client import connect
    from oyer.tasks.coordination.lessons import Lessons

    endpoint = settings.endpoints.get(judge.endpoint)
    if endpoint is None:
        yield None
        return
    redis = connect(broker_url) if broker_url else None
    try:
        yield Lessons(judge.endpoint, endpoint, redis)
    finally:
        if redis is not None:
            redis.close()


def _told(lessons: "Lessons | None", judge: "JudgeConfig") -> str:
    from oyer.tasks.endpoint.refused_fields import described

    refused = lessons.refused(judge.model) if lessons else {}
    if not refused:
        return ""
    return f"; the endpoint refuses some fields, so requests are sent {described(refused)}"


def directly(settings: "RewardConfig", judge: "JudgeConfig", broker_url: str | None = None) -> str:
    """Call a judge from this host, with this host's key, by the request that workers send.

    Raises:
        OyerError: it gives no score; the message says why.
    """
    from oyer.protocol.rollout import Rollout
    from oyer.protocol.status import Status
    from oyer.tasks.coordination.lessons import Lessons, complete
    from oyer.tasks.endpoint.client import EndpointClient
    from oyer.tasks.endpoint.types import Failure
    from oyer.tasks.judging.requests import requests_of
    from oyer.tasks.parsing.parser import parse_score

    endpoint = settings.endpoints[judge.endpoint]
    client = EndpointClient(judge.endpoint, endpoint, os.environ)
    job = next(requests_of({0: Rollout(**PROBE)}, [judge], settings.reward, {}))
    assert job.request is not None
    try:
        with _lessons(settings, judge, broker_url) as lessons:
            known = lessons or Lessons(judge.endpoint, endpoint)
            reply = complete(client, job.request, known, timeout_s=endpoint.timeout_s)
            told = _told(known, judge)
    finally:
        client.close()
    if isinstance(reply, Failure):
        raise InvalidConfig(f"{reply.status}: {reply.message}")
    reading = parse_score(
        reply.text, scale=judge.scale, finish_reason=reply.finish_reason, refusal=reply.refusal
    )
    if reading.status is not Status.SCORED:
        raise InvalidConfig(
            f"answers, but its reply is {reading.status}: {reply.text[:200]!r}; look at the rubric"
            " and at max_tokens"
        )
    took_ms = f"{reply.latency_ms:.0f} ms"
    return f"{judge.model} at {judge.endpoint} gives {reading.score:g} in {took_ms}{told}"
