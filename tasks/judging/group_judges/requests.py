"""Builds the requests of group judges, and turns their answers into one judgement per rollout; pure.

A list is one request, and its answer gives a row to each of its rollouts: the first row holds the
attempts and their cost, the others are `joined`. Each comparison of a pair has a row of the judge
`<name>/pairs`, and the rows of the rollouts, with their net win rates, refer to no request.
If any request of a group has no answer, the whole group is missing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from oyer.config.judge import JudgeConfig
from oyer.protocol.rollout import Rollout
from oyer.protocol.status import Status
from oyer.tasks.endpoint.types import ChatRequest
from oyer.tasks.judging.group_judges import schedule
from oyer.tasks.judging.group_judges.members import Members, members_of, why_not_comparable
from oyer.tasks.judging.group_judges.pairs import account, records
from oyer.tasks.judging.group_judges.reading import GroupReading, member_score
from oyer.tasks.judging.judgements import Answer
from oyer.tasks.judging.request_key import request_key, seed_for
from oyer.tasks.judging.requests import (
    JudgementKey,
    JudgeRequest,
    RequestContext,
    decided_by_view,
    decided_without_call,
)
from oyer.tasks.parsing.parser import ParsedScore

Answered = tuple[JudgeRequest, Answer]

NOT_WHOLE = "the group's rollouts are not in one chunk, so that they cannot be compared"
"""Why a judgement is rejected."""


class Comparison(Protocol):
    """One sample of a judge on one group."""

    @property
    def requests(self) -> Sequence[JudgeRequest]:
        """To be answered."""

    @property
    def judged(self) -> Sequence[JudgementKey]:
        """The judgements of the rollouts."""

    def rows(self, answers: Mapping[JudgementKey, Answer]) -> list[Answered]:
        """Return what is recorded: a judgement per rollout, and one per comparison of a pair."""


@dataclass(frozen=True)
class Decided:
    """Judgements without a call."""

    judgements: Sequence[JudgeRequest]
    requests: Sequence[JudgeRequest] = ()

    @property
    def judged(self) -> list[JudgementKey]:
        """The judgements of the rollouts."""
        return [one.place for one in self.judgements]

    def rows(self, answers: Mapping[JudgementKey, Answer]) -> list[Answered]:
        """Return a row for each."""
        return [
            (one, Answer(source="none", status=one.decided, error=one.error))
            for one in self.judgements
            if one.decided is not None
        ]


@dataclass(frozen=True)
class Listing:
    """A group in one list, or in several that share the first response."""

    members: Members
    lists: Sequence[Sequence[int]]
    """Positions of the responses that each request shows."""
    requests: Sequence[JudgeRequest]

    @property
    def judged(self) -> list[JudgementKey]:
        """The judgements of the rollouts."""
        _, judge, sample = self.requests[0].place
        return [(index, judge, sample) for index in self.members.indices]

    def rows(self, answers: Mapping[JudgementKey, Answer]) -> list[Answered]:
        """Return a row for each rollout."""
        failed = _first_failure([answers[one.place] for one in self.requests])
        anchor: float | None = None
        found: list[Answered] = []
        for request, positions in zip(self.requests, self.lists, strict=True):
            answer, scores = answers[request.place], None
            if failed is None:
                entries = _reading(request).scores(answer.text or "")
                scores = [member_score(entry) for entry in entries]
                anchor = scores[0].score if anchor is None else anchor
                scores = _shifted(scores, anchor - scores[0].score, request.judge.scale)
            for position, index in self._rollouts(request, positions):
                own = answer if index == request.index else answer.joined
                if scores is not None:
                    own = replace(own, parsed=scores[position])
                elif failed is not None and answer.status is Status.SCORED:
                    own = replace(own, parsed=None, status=failed.status, error=failed.error)
                found.append((replace(request, index=index), own))
        return found

    def _rollouts(
        self, request: JudgeRequest, positions: Sequence[int]
    ) -> Iterator[tuple[int, int]]:
        """Yield the position in the list and the index of each rollout that it scores."""
        first = request is self.requests[0]
        for k, position in enumerate(positions):
            if k or first:  # the shared response is scored by the first list
                yield from ((k, index) for index in self.members.shown[position].indices)


@dataclass(frozen=True)
class Tournament:
    """Comparisons of pairs of a group's responses."""

    judge: JudgeConfig
    sample: int
    rubric_hash: str
    members: Members
    pairs: Sequence[tuple[int, int]]
    """Positions shown first and second in each request."""
    requests: Sequence[JudgeRequest]

    @property
    def judged(self) -> list[JudgementKey]:
        """The judgements of the rollouts."""
        return [(index, self.judge.name, self.sample) for index in self.members.indices]

    def rows(self, answers: Mapping[JudgementKey, Answer]) -> list[Answered]:
        """Return a row for each comparison and for each rollout."""
        answered = [(one, answers[one.place]) for one in self.requests]
        failed = _first_failure([answer for _, answer in answered])
        if failed is not None:
            missing = Answer(source="none", status=failed.status, error=failed.error)
            return answered + [(self._judgement(index), missing) for index in self.members.indices]
        winners = [_reading(one).winner(answer.text or "") for one, answer in answered]
        outcomes = dict(zip(self.pairs, [winner.outcome for winner in winners], strict=True))
        reasons = dict(zip(self.pairs, [winner.reason for winner in winners], strict=True))
        for position, record in enumerate(records(len(self.members.shown), outcomes)):
            span = f"{record.wins} won, {record.losses} lost, {record.ties} tied"
            answer = Answer(
                source="joined" if self.requests else "none",
                status=Status.SCORED,
                text=self._account(position, outcomes, reasons),
                parsed=ParsedScore(record.rate, Status.SCORED, "pairs", span),
            )
            for index in self.members.shown[position].indices:
                answered.append((self._judgement(index), answer))
        return answered

    def _judgement(self, index: int) -> JudgeRequest:
        return JudgeRequest(index, self.judge, self.sample, self.rubric_hash)

    def _account(
        self,
        position: int,
        outcomes: Mapping[tuple[int, int], int],
        reasons: Mapping[tuple[int, int], str],
    ) -> str:
        if not outcomes:
            return "there is no other response to compare it with"
        found = []
        for (first, second), outcome in outcomes.items():
            if position in (first, second):
                other = self.members.shown[second if position == first else first]
                won = outcome if position == first else -outcome
                found.append((f"rollout {other.indices[0]}", won, reasons[first, second]))
        return account(found)


def comparisons_of(
    groups: Sequence[Sequence[int]],
    rollouts: Mapping[int, Rollout],
    judge: JudgeConfig,
    context: RequestContext,
) -> Iterator[Comparison]:
    """List the comparisons of a group judge.

    Args:
        groups: indices of each group's rollouts; each group is whole.
    """
    fields = context.key_fields(judge)
    for group in groups:
        compared: dict[int, Rollout] = {}
        judgements = []
        for index in group:
            decided = decided_without_call(rollouts[index], context.rules)
            decided = decided or decided_by_view(rollouts[index], judge)
            if decided is None:
                compared[index] = rollouts[index]
            else:
                judgements += _decided(judge, fields, index, decided)
        problem = why_not_comparable(list(compared.values()), judge) if compared else None
        if problem is not None:
            for index in compared:
                judgements += _decided(judge, fields, index, Status.REJECTED, problem)
        if judgements:
            yield Decided(judgements)
        if not compared or problem is not None:
            continue
        for sample in range(judge.samples):
            members = members_of(compared, judge, sample)
            if judge.compares_pairs:
                yield _tournament(members, judge, sample, fields, context)
            else:
                yield _listing(members, judge, sample, fields, context)


def rejected(
    indices: Sequence[int], judge: JudgeConfig, context: RequestContext, error: str
) -> Decided:
    """Return judgements that are refused."""
    fields = context.key_fields(judge)
    found = [_decided(judge, fields, index, Status.REJECTED, error) for index in indices]
    return Decided([one for some in found for one in some])


def _listing(
    members: Members,
    judge: JudgeConfig,
    sample: int,
    fields: Mapping[str, Any],
    context: RequestContext,
) -> Listing:
    lists = schedule.lists([one.chars for one in members.shown], judge.max_list_chars)
    requests = []
    for k, positions in enumerate(lists):
        own = positions if k == 0 else positions[1:]
        index = min(members.shown[position].indices[0] for position in own)
        requests.append(
            _request(members, positions, judge, (index, sample, sample), fields, context)
        )
    return Listing(members, lists, requests)


def _tournament(
    members: Members,
    judge: JudgeConfig,
    sample: int,
    fields: Mapping[str, Any],
    context: RequestContext,
) -> Tournament:
    pairs = schedule.comparisons(len(members.shown), judge.pairs, both_orders=judge.both_orders)
    named = judge.model_copy(update={"name": f"{judge.name}/pairs"})
    requests = [
        _request(
            members,
            pair,
            named,
            (members.shown[pair[0]].indices[0], number * judge.samples + sample, sample),
            fields,
            context,
        )
        for number, pair in enumerate(pairs)
    ]
    return Tournament(judge, sample, fields["rubric_hash"], members, pairs, requests)


def _request(
    members: Members,
    positions: Sequence[int],
    judge: JudgeConfig,
    place: tuple[int, int, int],
    fields: Mapping[str, Any],
    context: RequestContext,
) -> JudgeRequest:
    """Build one request.

    Args:
        place: rollout index and sample of its row, and the judge's sample.
    """
    index, row_sample, sample = place
    messages = members.messages(judge, positions)
    key = request_key(**fields, messages=messages, sample=sample)
    shown = [members.shown[position] for position in positions]
    return JudgeRequest(
        index,
        judge,
        row_sample,
        fields["rubric_hash"],
        view_truncated=any(one.truncated for one in shown),
        request=ChatRequest(
            model=judge.model,
            messages=messages,
            seed=seed_for(judge, key),
            **context.settings(judge),
        ),
        key=key,
        key_fields=fields,
        special_reading=GroupReading(judge, len(positions)),
        responses=tuple(one.indices for one in shown),
    )


def _decided(
    judge: JudgeConfig,
    fields: Mapping[str, Any],
    index: int,
    status: Status,
    error: str | None = None,
) -> list[JudgeRequest]:
    return [
        JudgeRequest(index, judge, sample, fields["rubric_hash"], status, error)
        for sample in range(judge.samples)
    ]


def _reading(request: JudgeRequest) -> GroupReading:
    assert isinstance(request.special_reading, GroupReading)
    return request.special_reading


def _first_failure(answers: Sequence[Answer]) -> Answer | None:
    return next((answer for answer in answers if answer.status is not Status.SCORED), None)


def _shifted(
    scores: Sequence[ParsedScore], by: float, scale: tuple[float, float]
) -> list[ParsedScore]:
    """Move the scores of a list so that its shared response agrees with the first list."""
    low, high = scale
    return [replace(one, score=min(high, max(low, one.score + by))) for one in scores]
