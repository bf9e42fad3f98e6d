"""Builds the judge requests of a chunk, with their keys, or decides without a call; pure."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from types import MappingProxyType
from typing import Any

from oyer.config import rubric as rubrics
from oyer.config.criteria.criterion import Criterion
from oyer.config.criteria.formats import InvalidCriteria
from oyer.config.criteria.lookup import criteria_for
from oyer.config.reward import JudgeConfig, RewardRules
from oyer.config.rubrics.metadata import MissingMetadata, metadata_texts
from oyer.protocol.content import policy_text
from oyer.protocol.rollout import Message, Rollout
from oyer.protocol.status import Status
from oyer.tasks.endpoint.types import ChatRequest
from oyer.tasks.judging.criteria.calls import CriteriaCall, calls_of
from oyer.tasks.judging.criteria.wording import response_format as verdicts_format
from oyer.tasks.judging.empty_response import has_content
from oyer.tasks.judging.group_judges.wording import list_format, winner_format
from oyer.tasks.judging.reading import Reading, ScoreReading
from oyer.tasks.judging.request_key import request_key, seed_for
from oyer.tasks.judging.turns import State, states_of
from oyer.tasks.judging.views import (
    Rendered,
    ShownRollout,
    ViewSettings,
    render_request,
    shows_nothing,
)
from oyer.tasks.parsing import parser

TOP_LOGPROBS = 20
"""Alternatives requested for each token: the maximum of OpenAI's endpoint."""

JudgementKey = tuple[int, str, int]
"""Identifies a judgement in its batch: rollout index, judge's name, sample."""


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """One judgement to be made: of a rollout, by a judge, as one of its samples."""

    index: int
    """The rollout's index in its batch."""
    judge: JudgeConfig
    sample: int
    """Number of the sample; of call c about further criteria, plus c times the judge's samples."""
    rubric_hash: str
    decided: Status | None = None
    """Set if no call is made: `gated`, `empty`, or `rejected` with `error`."""
    error: str | None = None
    """Why it is rejected."""
    view_truncated: bool = False
    """Whether the judge is shown a shortened response."""
    request: ChatRequest | None = None
    key: str | None = None
    """Result of `request_key`: equal for identical requests."""
    key_fields: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `request_key`, without the messages and the sample."""
    special_reading: Reading | None = None
    """How the reply is read; None reads one score."""
    responses: Sequence[tuple[int, ...]] = ()
    """Of a group judge: for each response shown, in order, the indices of the rollouts that have it."""
    criteria: tuple[Criterion, ...] = ()
    """Those that the reply gives verdicts on."""
    turn: int | None = None
    """Under `view: each_turn`, the last turn that it shows, from 0."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The texts for the rubric's placeholders of metadata, by placeholder."""

    @property
    def reading(self) -> Reading:
        """How the reply is read."""
        return self.special_reading or ScoreReading(self.judge)

    @property
    def first_sample(self) -> bool:
        """Whether this is a request that a run near its budget still makes."""
        return self.sample % self.judge.samples == 0

    @property
    def rollouts(self) -> set[int]:
        """Indices of the rollouts that the request shows."""
        return {self.index, *(index for indices in self.responses for index in indices)}

    @property
    def place(self) -> JudgementKey:
        """Identifies this judgement in its batch."""
        return self.index, self.judge.name, self.sample


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestContext:
    """What the requests of a chunk depend on besides judges and rollouts; see `requests_of`."""

    rules: RewardRules
    bodies: Mapping[str, Mapping[str, Any]]
    servers: Mapping[str, str]

    def settings(self, judge: JudgeConfig) -> dict[str, Any]:
        """Return a judge's fields of `ChatRequest`."""
        return _settings(judge)

    def key_fields(self, judge: JudgeConfig) -> dict[str, Any]:
        """Return the arguments of `request_key` for a judge, without messages and sample."""
        return _key_fields(judge, _settings(judge), self.bodies, self.servers)


def requests_of(
    rollouts: Mapping[int, Rollout],
    judges: Sequence[JudgeConfig],
    rules: RewardRules,
    bodies: Mapping[str, Mapping[str, Any]],
    servers: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[JudgeRequest]:
    """List the judgements of a chunk, rollout by rollout, the judgement of a whole response first.

    Args:
        rollouts: by their indices in the batch.
        bodies: fields that this worker adds to every request's body, by endpoint. They can change
            the reply, so they are part of the key.
        servers: identity of an endpoint's servers (`lessons.server_identity`), by endpoint; part of
            the key of judges without a `version`.
    """
    rubric_of = {judge.name: rubrics.parse(judge.rubric) for judge in judges}
    settings_of = {judge.name: _settings(judge) for judge in judges}
    key_fields_of = {
        judge.name: _key_fields(judge, settings_of[judge.name], bodies, servers) for judge in judges
    }
    for index, rollout in rollouts.items():
        decided_for_all = decided_without_call(rollout, rules)
        for judge in judges:
            fields, settings = key_fields_of[judge.name], settings_of[judge.name]
            # Of the calls about the whole response, and of those about earlier turns.
            numbers: dict[str, Iterator[int]] = defaultdict(count)
            for state in states_of(rollout, judge):
                decided = decided_for_all
                if state.rollout is not rollout:
                    decided = decided_without_call(state.rollout, rules)
                decided, shown = decided or decided_by_view(state.rollout, judge), Rendered()
                calls: Sequence[CriteriaCall | None] = (None,)
                if decided is None:
                    shown, calls = _calls(state.rollout, judge, rubric_of[judge.name])
                    decided = Status.REJECTED if shown.error else None
                for call in calls:
                    number = next(numbers[state.judge.name])
                    if decided is None:
                        yield from _samples(index, state, number, call, shown, fields, settings)
                    else:
                        yield from _decided(index, state, number, fields, decided, shown.error)


def _samples(
    index: int,
    state: State,
    number: int,
    call: CriteriaCall | None,
    shown: Rendered,
    fields: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Iterator[JudgeRequest]:
    """Yield the requests of one call, one for each sample."""
    judge = state.judge
    messages = shown.messages if call is None else call.messages
    for sample in range(judge.samples):
        key = request_key(**fields, messages=messages, sample=sample)
        yield JudgeRequest(
            index,
            judge,
            # The samples of the first call come first, so that 0 always exists.
            number * judge.samples + sample,
            fields["rubric_hash"],
            view_truncated=shown.truncated,
            request=_request(judge, key, messages, settings),
            key=key,
            key_fields=fields,
            special_reading=call.reading if call else None,
            criteria=call.criteria if call else (),
            turn=state.turn,
            metadata=shown.metadata,
        )


def _decided(
    index: int,
    state: State,
    number: int,
    fields: Mapping[str, Any],
    decided: Status,
    error: str | None,
) -> Iterator[JudgeRequest]:
    """Yield the judgements of a state for which no call is made, one for each sample."""
    for sample in range(state.judge.samples):
        place = number * state.judge.samples + sample
        yield JudgeRequest(
            index, state.judge, place, fields["rubric_hash"], decided, error, turn=state.turn
        )


def _calls(
    rollout: Rollout, judge: JudgeConfig, rubric: rubrics.RubricTemplate
) -> tuple[Rendered, Sequence[CriteriaCall | None]]:
    """Return what all calls about a rollout begin with, and the calls; None for one about a score."""
    shown = _rendered(rollout, judge, rubric)
    if not judge.gives_verdicts or shown.error:
        return shown, (None,)
    try:
        criteria = criteria_for(judge, rollout.metadata)
    except InvalidCriteria as error:
        return Rendered(error=str(error)), (None,)
    return shown, calls_of(judge, criteria, shown.messages, rubric.language)


def _request(
    judge: JudgeConfig, key: str, messages: Sequence[Message], settings: Mapping[str, Any]
) -> ChatRequest:
    seed = seed_for(judge, key)
    return ChatRequest(model=judge.model, messages=messages, seed=seed, **settings)


def decided_without_call(rollout: Rollout, rules: RewardRules) -> Status | None:
    """Return the status of a rollout that needs no call; None if it is to be judged.

    The gate does not apply to a rollout without a base score.
    """
    base = rollout.base_score
    if rules.gate == "base_score" and base is not None and base <= 0:
        return Status.GATED
    return None if has_content(policy_text(rollout.response)) else Status.EMPTY


def decided_by_view(rollout: Rollout, judge: JudgeConfig) -> Status | None:
    """Return `empty` if a judge's view leaves nothing to judge, e.g. an answer that never came."""
    return Status.EMPTY if shows_nothing(rollout.response, ViewSettings.of(judge)) else None


def decided_score(job: JudgeRequest) -> float | None:
    """Return the score that the judge configures for an empty response; None for other statuses."""
    if job.decided is not Status.EMPTY:
        return None
    return job.judge.scale[0] if job.judge.empty_score is None else job.judge.empty_score


def _rendered(rollout: Rollout, judge: JudgeConfig, rubric: rubrics.RubricTemplate) -> Rendered:
    try:
        metadata = metadata_texts(rubric.metadata_places, rollout.metadata)
    except MissingMetadata as error:
        return Rendered(error=str(error))
    shown = ShownRollout(
        prompt=rollout.prompt,
        response=rollout.response,
        reference=rollout.reference,
        tools=rollout.tools,
        metadata=metadata,
    )
    return render_request(rubric, shown, scale=judge.scale, settings=ViewSettings.of(judge))


def _settings(judge: JudgeConfig) -> dict[str, Any]:
    """Return a judge's fields of `ChatRequest`, which are part of the request's key as well."""
    # Omitted if unset, so that requests made before the setting existed keep their keys.
    effort = {"reasoning_effort": judge.reasoning_effort} if judge.reasoning_effort else {}
    return {
        **effort,
        "temperature": judge.temperature,
        "max_tokens": judge.max_tokens,
        "response_format": _response_format(judge) if judge.structured else None,
        "logprobs": TOP_LOGPROBS if judge.expected_score else None,
        "extra_body": judge.extra_body,
    }


def _response_format(judge: JudgeConfig) -> dict[str, Any]:
    if judge.kind == "group":
        return winner_format() if judge.compares_pairs else list_format(judge.scale)
    if judge.gives_verdicts:
        return verdicts_format()
    return parser.response_format(judge.scale)


def _key_fields(
    judge: JudgeConfig,
    settings: Mapping[str, Any],
    bodies: Mapping[str, Mapping[str, Any]],
    servers: Mapping[str, str],
) -> dict[str, Any]:
    body = {**bodies.get(judge.endpoint, {}), **judge.extra_body}
    return {
        "endpoint": judge.endpoint,
        "model": judge.model,
        "sampling": {**settings, "extra_body": body, **_served_by(judge, servers)},
        "rubric_hash": rubrics.rubric_hash(judge.rubric),
    }


def _served_by(judge: JudgeConfig, servers: Mapping[str, str]) -> dict[str, str]:
    """Return the part of the key that differs between states of a model under the same name.

    An empty version adds nothing: such keys equal those made before versions existed.
    """
    if judge.version is not None:
        return {"version": judge.version} if judge.version else {}
    server = servers.get(judge.endpoint)
    return {} if server is None else {"server": server}
