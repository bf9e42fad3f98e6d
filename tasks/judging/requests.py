"""Turns the rollouts of a chunk into what there is to ask, and what needs no asking; pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from oyer.config import rubric as rubrics
from oyer.config.reward import JudgeConfig, RewardRules
from oyer.protocol.rollout import Rollout
from oyer.protocol.status import Status
from oyer.tasks.coordination.reply_cache import request_key
from oyer.tasks.endpoint.types import ChatRequest
from oyer.tasks.judging.empty_response import has_content
from oyer.tasks.parsing import parser

TOP_LOGPROBS = 20
"""Alternatives asked for at each token: the most that OpenAI's endpoint gives."""

JudgementKey = tuple[int, str, int]
"""What tells a judgement from the others of its batch: rollout, judge's name, sample."""


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """One judgement to reach: a rollout, a judge, a sample."""

    index: int
    """The rollout's place in its batch."""
    judge: JudgeConfig
    sample: int
    rubric_hash: str
    decided: Status | None = None
    """A status reached without a call."""
    request: ChatRequest | None = None
    key: str | None = None
    """Equal for requests that would be answered alike."""
    keyed: Mapping[str, Any] = field(default_factory=dict)
    """What `request_key` made `key` of, besides the messages and the sample."""

    @property
    def place(self) -> JudgementKey:
        """What tells this judgement from the others of its batch."""
        return self.index, self.judge.name, self.sample


def requests_of(
    rollouts: Mapping[int, Rollout],
    judges: Sequence[JudgeConfig],
    rules: RewardRules,
    bodies: Mapping[str, Mapping[str, Any]],
    servers: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[JudgeRequest]:
    """List the judgements of a chunk, rollout by rollout.

    Args:
        rollouts: by their places in the batch.
        bodies: what this worker adds to the body of every request, by endpoint: another body
            may bring another reply, so it is part of the key.
        servers: what tells the servers behind an endpoint from others, by endpoint
            (`lessons.server_identity`); part of the key of judges without a `version`.
    """
    parsed = {judge.name: rubrics.parse(judge.rubric) for judge in judges}
    hashes = {judge.name: rubrics.rubric_hash(judge.rubric) for judge in judges}
    for index, rollout in rollouts.items():
        decided = decided_without_call(rollout, rules)
        for judge in judges:
            for sample in range(judge.samples):
                if decided is not None:
                    yield JudgeRequest(index, judge, sample, hashes[judge.name], decided)
                    continue
                request = _request(rollout, judge, parsed[judge.name])
                keyed: dict[str, Any] = {
                    "endpoint": judge.endpoint,
                    "model": judge.model,
                    "sampling": {
                        **_sampling(request, bodies.get(judge.endpoint, {})),
                        **_served_by(judge, servers),
                    },
                    "rubric_hash": hashes[judge.name],
                }
                key = request_key(**keyed, messages=request.messages, sample=sample)
                if judge.samples > 1 and judge.temperature == 0:
                    request = replace(request, seed=_seed(key))
                yield JudgeRequest(
                    index, judge, sample, hashes[judge.name], None, request, key, keyed
                )


def decided_without_call(rollout: Rollout, rules: RewardRules) -> Status | None:
    """Say whether a rollout's judgement is decided before any call is paid for.

    A rollout without a base score has nothing that a gate could look at: it is judged.
    """
    base = rollout.base_score
    if rules.gate == "base_score" and base is not None and base <= 0:
        return Status.GATED
    return None if has_content(rollout.response) else Status.EMPTY


def decided_score(job: JudgeRequest) -> float | None:
    """Score of a judgement that needed no call: an empty response's, as the judge configures."""
    if job.decided is not Status.EMPTY:
        return None
    return job.judge.scale[0] if job.judge.empty_score is None else job.judge.empty_score


def _request(rollout: Rollout, judge: JudgeConfig, rubric: rubrics.RubricTemplate) -> ChatRequest:
    return ChatRequest(
        model=judge.model,
        messages=rubrics.render(
            rubric,
            prompt=rollout.prompt,
            response=rollout.response,
            reference=rollout.reference,
            scale=judge.scale,
        ),
        temperature=judge.temperature,
        max_tokens=judge.max_tokens,
        response_format=parser.response_format(judge.scale) if judge.structured else None,
        logprobs=TOP_LOGPROBS if judge.expected_score else None,
        reasoning_effort=judge.reasoning_effort,
        extra_body=judge.extra_body,
    )


def _sampling(request: ChatRequest, body: Mapping[str, Any]) -> dict[str, Any]:
    # Left out where it is not set, so that earlier judgements keep their keys.
    effort = {"reasoning_effort": request.reasoning_effort} if request.reasoning_effort else {}
    return {
        **effort,
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        "response_format": request.response_format,
        "logprobs": request.logprobs,
        "extra_body": {**body, **request.extra_body},
    }


def _served_by(judge: JudgeConfig, servers: Mapping[str, str]) -> dict[str, str]:
    """What tells one state of a model from another under the same name, for the key.

    An empty version adds nothing, as before there were versions.
    """
    if judge.version is not None:
        return {"version": judge.version} if judge.version else {}
    server = servers.get(judge.endpoint)
    return {} if server is None else {"server": server}


def _seed(key: str) -> int:
    """Return a seed that is a sample's own, from 0 to 2³¹ - 1: some endpoints take 32 bits."""
    return int(key[:8], 16) & 0x7FFF_FFFF
