"""The comparisons of a group, and the judgements that their answers give; pure.

A list is one request, and its answer gives a row to each of its rollouts: the first row holds the
attempts and their cost, the others are `joined`. Each comparison of a pair has a row of the judge
`<name>/pairs`, and the rows of the rollouts, with their net win rates, refer to no request.
If any request of a group has no answer, the whole group is missing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from oyer.config.judge import JudgeConfig
from oyer.protocol.status import Status
from oyer.tasks.judging.group_judges.members import Members
from oyer.tasks.judging.group_judges.pairs import account, records
from oyer.tasks.judging.group_judges.reading import GroupReading, member_score
from oyer.tasks.judging.judgements import Answer, no_answer
from oyer.tasks.judging.requests import JudgementKey, JudgeRequest
from oyer.tasks.parsing.parser import ParsedScore

Answered = tuple[JudgeRequest, Answer]


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
            (one, no_answer(one.decided, one.error))
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
            missing = no_answer(failed.status, failed.error)
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
