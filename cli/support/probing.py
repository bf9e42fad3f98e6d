"""Checks a judge with one rollout: through the workers, or by a call from this host."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from oyer.protocol.errors import InvalidConfig, InvalidRollout
from oyer.protocol.names import CHECK_RUN

if TYPE_CHECKING:
    from oyer.config.reward import JudgeConfig, RewardConfig
    from oyer.protocol.rollout import Rollout
    from oyer.tasks.judging.requests import JudgeRequest

PROBE: dict[str, Any] = {
    "prompt": "What is 2 + 3?",
    "response": "2 + 3 = 5, so the answer is 5.",
    "reference": "5",
}
"""The rollout that each judge scores once."""

OTHER_RESPONSE = "I think it is 6."
"""The wrong response that a group judge compares it with."""

CRITERION = {"name": "correct", "text": "The final answer is 5."}
"""The criterion that the rollout brings for a judge with `criteria_from` alone."""

_QUOTED = 6
"""Most verdicts on criteria that a line lists."""


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
    rollouts = [rollout] if judge is None else _rollouts(rollout, judge)
    started = time.monotonic()
    try:
        future = RewardManager(config).submit(rollouts, run=CHECK_RUN)
    except InvalidRollout:
        # The length methods need metadata that the probe does not have.
        config = config.model_copy(update={"length": ()})
        if judge is None:
            raise InvalidConfig(
                "the length methods need metadata of a rollout; test them with `oyer score`"
            ) from None
        future = RewardManager(config).submit(rollouts, run=CHECK_RUN)
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
    verdicts = batch.criteria[0].get(judge.name, []) if batch.criteria else []
    given = {one["name"]: one["verdict"] for one in verdicts}
    result = _result(judge, batch.judge_scores.tolist(), given)
    return _found(judge, result, f"through the workers in {took_ms:.0f} ms", refused)


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
    from oyer.tasks.judging.criteria.verdict_reading import ParsedVerdicts
    from oyer.tasks.judging.requests import RequestContext

    rollouts = dict(enumerate(_rollouts(Rollout(**PROBE, group_id="check"), judge)))
    context = RequestContext(rules=settings.reward, bodies={}, servers={})
    groups = chunk_groups(["check"] * len(rollouts), 0, ())
    request = chunk_requests(rollouts, [judge], groups, context).asked[0]
    call = call_judge(request, settings, broker_url)
    found = call.record()
    if call.parsed is None:
        raise InvalidConfig(f"{found['status']}: {found['error']}")
    if call.parsed.status is not Status.SCORED:
        why = f" ({call.parsed.problem})" if call.parsed.problem else ""
        raise InvalidConfig(
            f"answers, but its reply is {call.parsed.status}{why}: {found['reply'][:200]!r}; check the"
            " rubric and max_tokens"
        )
    took = f"in {found['latency_ms']:.0f} ms"
    verdicts = call.parsed.verdicts if isinstance(call.parsed, ParsedVerdicts) else {}
    given = {name: one.verdict for name, one in verdicts.items()}
    result = _result(judge, _scores(request, found["reply"], call.parsed.score), given)
    return _found(judge, result, took, call.refused_fields)


def _rollouts(rollout: "Rollout", judge: "JudgeConfig") -> "list[Rollout]":
    """Return what a judge is asked about: a group judge compares a right and a wrong response."""
    if judge.kind == "group":
        return [rollout, replace(rollout, response=OTHER_RESPONSE)]
    if judge.criteria_from is None or judge.own_criteria:
        return [rollout]
    metadata: Any = [CRITERION]
    for key in reversed(judge.criteria_from.split(".")[1:]):
        metadata = {key: metadata}
    return [replace(rollout, metadata=metadata)]


def _scores(request: "JudgeRequest", reply: str, score: float) -> list[float]:
    """Return the score of each response that one reply scores, in the order of the rollouts."""
    from oyer.tasks.judging.group_judges.reading import GroupReading

    reading = request.reading
    if not isinstance(reading, GroupReading):
        return [score]
    shown = [score, -score]
    if not request.judge.compares_pairs:
        shown = [one.score for one in reading.scores(reply)]
    return [one for _, one in sorted(zip(request.responses, shown, strict=True))]


def _config(settings: "RewardConfig", judge: "JudgeConfig | None") -> "RewardConfig":
    """Reduce a configuration to one judge, without reuse so that the judge is called."""
    from oyer.config.loading import validate
    from oyer.config.section import MAX_USD

    raw = {
        **settings.model_dump(mode="json", exclude={"reward", "budget", "judges"}),
        "judges": [] if judge is None else [judge.model_dump(mode="json")],
        "reuse": "off",
        # Workers refuse a model without a price under any budget; earlier checks do not count.
        "budget": settings.budget and {"usd": MAX_USD},
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


def _result(judge: "JudgeConfig", scores: Sequence[float], verdicts: Mapping[str, Any]) -> str:
    """Describe scores, and the verdicts on criteria."""
    if judge.kind == "group":
        return f"gives {scores[0]:g} to a right and {scores[1]:g} to a wrong response"
    if not verdicts:
        return f"gives {scores[0]:g}"
    listed = [f"{name}: {str(one).lower()}" for name, one in list(verdicts.items())[:_QUOTED]]
    listed += ["…"] * (len(verdicts) > _QUOTED)
    return f"gives {scores[0]:g} ({', '.join(listed)})"


def _found(judge: "JudgeConfig", result: str, how: str, refused_fields: str) -> str:
    text = f"{judge.model} at {judge.endpoint} {result} {how}"
    if refused_fields:
        text += f"; the endpoint refuses some fields, so requests are sent {refused_fields}"
    return text
