"""One rollout through the workers: whether a judge can be paid for is theirs to say, not this host's."""

import os
import time
from typing import TYPE_CHECKING, Any

from oyer.tasks.errors import InvalidConfig, InvalidRollout

if TYPE_CHECKING:
    from oyer.tasks.config import JudgeConfig, RewardConfig

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


def through_workers(settings: "RewardConfig", judge: "JudgeConfig | None") -> str:
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
    return (
        f"{judge.model} at {judge.endpoint} gives {score:g} through the workers in {took_ms:.0f} ms"
    )


def _config(settings: "RewardConfig", judge: "JudgeConfig | None") -> "RewardConfig":
    """Leave of a configuration what one judge needs; nothing is reused, so that it is called."""
    from oyer.tasks.settings import validate

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


def directly(settings: "RewardConfig", judge: "JudgeConfig") -> str:
    """Call a judge from this host, with this host's key.

    Raises:
        OyerError: it gives no score; the message says why.
    """
    from oyer.tasks.judging import rubrics
    from oyer.tasks.judging.calls import ChatRequest, Failure
    from oyer.tasks.judging.client import EndpointClient
    from oyer.tasks.judging.reading import read_score
    from oyer.tasks.statuses import Status

    endpoint = settings.endpoints[judge.endpoint]
    client = EndpointClient(judge.endpoint, endpoint, os.environ)
    messages = rubrics.render(rubrics.parse(judge.rubric), scale=judge.scale, **PROBE)
    request = ChatRequest(
        model=judge.model,
        messages=messages,
        temperature=judge.temperature,
        max_tokens=judge.max_tokens,
        extra_body=judge.extra_body,
    )
    try:
        reply = client.complete(request, timeout_s=endpoint.timeout_s)
    finally:
        client.close()
    if isinstance(reply, Failure):
        raise InvalidConfig(f"{reply.status}: {reply.message}")
    reading = read_score(
        reply.text, scale=judge.scale, finish_reason=reply.finish_reason, refusal=reply.refusal
    )
    if reading.status is not Status.SCORED:
        raise InvalidConfig(
            f"answers, but its reply is {reading.status}: {reply.text[:200]!r}; look at the rubric"
            " and at max_tokens"
        )
    return f"{judge.model} at {judge.endpoint} gives {reading.score:g} in {reply.latency_ms:.0f} ms"
