"""Builds the requests of group judges; pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from oyer.config.judge import JudgeConfig
from oyer.protocol.rollout import Rollout
from oyer.protocol.status import Status
from oyer.tasks.endpoint.types import ChatRequest
from oyer.tasks.judging.group_judges import schedule
from oyer.tasks.judging.group_judges.comparisons import Comparison, Decided, Listing, Tournament
from oyer.tasks.judging.group_judges.members import Members, members_of, why_not_comparable
from oyer.tasks.judging.group_judges.reading import GroupReading
from oyer.tasks.judging.request_key import request_key, seed_for
from oyer.tasks.judging.requests import (
    JudgeRequest,
    RequestContext,
    decided_by_view,
    decided_without_call,
)

NOT_WHOLE = "the group's rollouts are not in one chunk, so that they cannot be compared"
"""Why a judgement is rejected."""


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
        metadata=members.metadata,
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
