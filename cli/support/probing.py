"""Checks a judge with one rollout: through the workers, or by a call from this host."""

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from oyer.protocol.errors import InvalidConfig, InvalidRollout

if TYPE_CHECKING:
    from oyer.config.reward import JudgeConfig, RewardConfig

RUN = "oyer-check"
"""The run that the rollouts of a check are recorded under."""

PROBE: dict[str, Any] = {
    "prompt": "What is 2 + 3?",
    "response": "2 + 3 = 5, so the answer is 5.",
    "reference": "5",
}
"""The rollout that each judge scores once."""

OTHER_RESPONSE = "I think it is 6."
"""The response that a group judge compares it with."""


def judges_of(settings: "RewardConfig") -> "list[JudgeConfig]":
    """Return the judges to check; a fallback is checked like a judge."""
    checked = []
    for judge in settings.judges:
        once = judge.model_copy(update={"samples": 1, "min_valid": 1, "fallback": None})
        checked.append(once)
        if judge.fallback is not None:
            place = {"endpoint": judge.fallback.endpoint, "model": judge.fallback.model}
            checked.append(once.model_copy(update={**place, "name": f"{judge.name}.fallback"}))
    return checked


def through_workers(
    settings: "RewardConfig", judge: "JudgeConfig | None", broker_url: str | None = None
) -> str:
    """Score one rollout through broker, workers and record, by one judge or none.

    Raises:
        OyerError: there is no score; the message gives the workers' reason.
    """
    from oyer.manager import RewardManager, Rollout

    config = _config(settings, judge)
    rollout = Rollout(**PROBE, group_id="check", base_score=1.0, correct=True, response_tokens=12)
    rollouts = [rollout]
    if judge is not None and judge.kind == "group":
        rollouts.append(replace(rollout, response=OTHER_RESPONSE))
    started = time.monotonic()
    try:
        future = RewardManager(config).submit(rollouts, run=RUN)
    except InvalidRollout:
        # The length methods need metadata that the probe does not have.
        config = config.model_copy(update={"length": ()})
        if judge is None:
            raise InvalidConfig(
                "the length methods need metadata of a rollout; test them with `oyer score`"
            ) from None
        future = RewardManager(config).submit(rollouts, run=RUN)
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
        why = batch.first_errors.get(status, "see the workers' logs")
        raise InvalidConfig(f"{status}: {why}")
    refused = _refused_fields(settings, judge, broker_url)
    score = batch.judge_scores[0]
    return _found(judge, score, f"through the workers in {took_ms:.0f} ms", refused)


def directly(settings: "RewardConfig", judge: "JudgeConfig", broker_url: str | None = None) -> str:
    """Call a judge from this host, with this host's key, by the request that workers send.

    Raises:
        OyerError: there is no score; the message gives the reason.
    """
    from oyer.cli.support.direct_call import call_judge
    from oyer.protocol.rollout import Rollout
    from oyer.protocol.status import Status
    from oyer.tasks.judging.aggregate import chunk_groups
    from oyer.tasks.judging.chunk_requests import chunk_requests
    from oyer.tasks.judging.requests import RequestContext

    rollout = Rollout(**PROBE, group_id="check")
    rollouts = {0: rollout, 1: replace(rollout, response=OTHER_RESPONSE)}
    if judge.kind == "pointwise":
        del rollouts[1]
    context = RequestContext(rules=settings.reward, bodies={}, servers={})
    groups = chunk_groups(["check"] * len(rollouts), 0, ())
    request = chunk_requests(rollouts, [judge], groups, context).asked[0]
    call = call_judge(request, settings, broker_url)
    found = call.record()
    if call.parsed is None:
        raise InvalidConfig(f"{found['status']}: {found['error']}")
    if call.parsed.status is not Status.SCORED:
        raise InvalidConfig(
            f"answers, but its reply is {call.parsed.status}: {found['reply'][:200]!r}; check the"
            " rubric and max_tokens"
        )
    took = f"in {found['latency_ms']:.0f} ms"
    return _found(judge, call.parsed.score, took, call.refused_fields)


def _config(settings: "RewardConfig", judge: "JudgeConfig | None") -> "RewardConfig":
    """Reduce a configuration to one judge, without reuse so that the judge is called."""
    from oyer.config.loading import validate

    raw = {
        **settings.model_dump(mode="json", exclude={"reward", "budget", "judges"}),
        "judges": [] if judge is None else [judge.model_dump(mode="json")],
        "reuse": "off",
    }
    try:
        return validate(raw)
    except InvalidConfig:
        # A length method uses another judge's score.
        return validate({**raw, "length": []})


def _refused_fields(settings: "RewardConfig", judge: "JudgeConfig", broker_url: str | None) -> str:
    """Describe the fields that the workers know to be refused; empty if none or not known here."""
    from oyer.protocol.redis_client import connect
    from oyer.tasks.coordination.lessons import Lessons
    from oyer.tasks.endpoint.refused_fields import described

    endpoint = settings.endpoints.get(judge.endpoint)
    if endpoint is None or broker_url is None:
        return ""
    with connect(broker_url) as redis:
        refused = Lessons(judge.endpoint, endpoint, redis).refused(judge.model)
    return described(refused) if refused else ""


def _found(judge: "JudgeConfig", score: float, how: str, refused_fields: str) -> str:
    text = f"{judge.model} at {judge.endpoint} gives {score:g} {how}"
    if refused_fields:
        text += f"; the endpoint refuses some fields, so requests are sent {refused_fields}"
    return text
