"""The requests of a chunk by all of its judges, and the judgements that their answers give; pure."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from oyer.config.reward import JudgeConfig
from oyer.protocol.rollout import Rollout
from oyer.tasks.judging.aggregate import ChunkGroups
from oyer.tasks.judging.group_judges.comparisons import Answered, Comparison
from oyer.tasks.judging.group_judges.requests import NOT_WHOLE, comparisons_of, rejected
from oyer.tasks.judging.judgements import Answer, no_answer
from oyer.tasks.judging.requests import JudgementKey, JudgeRequest, RequestContext, requests_of


@dataclass(frozen=True, slots=True)
class ChunkRequests:
    """What is to be judged, and how the answers become judgements."""

    pointwise: Sequence[JudgeRequest]
    comparisons: Sequence[Comparison]

    @property
    def asked(self) -> list[JudgeRequest]:
        """The requests to answer."""
        asked = [request for request in self.pointwise if request.key is not None]
        return asked + [request for one in self.comparisons for request in one.requests]

    def answered(self, answers: Mapping[JudgementKey, Answer]) -> list[Answered]:
        """Return the judgements, each with its answer.

        Args:
            answers: to the requests in `asked`, by `place`.
        """
        found = [(one, answers.get(one.place) or _decided(one)) for one in self.pointwise]
        return found + [row for one in self.comparisons for row in one.rows(answers)]


def chunk_requests(
    rollouts: Mapping[int, Rollout],
    judges: Sequence[JudgeConfig],
    groups: ChunkGroups,
    context: RequestContext,
    done: Container[JudgementKey] = (),
) -> ChunkRequests:
    """List what is to be judged.

    Args:
        rollouts: by index in the batch.
        groups: of the chunk; those that are not wholly in `rollouts` are left out.
        done: judgements on record, which are not made again.
    """
    alone = [judge for judge in judges if judge.kind == "pointwise"]
    pointwise = requests_of(rollouts, alone, context.rules, context.bodies, context.servers)
    whole = [group for group in groups.whole if all(index in rollouts for index in group)]
    split = [index for index in rollouts if index in groups.split]
    comparisons: list[Comparison] = []
    for judge in judges:
        if judge.kind == "group":
            comparisons += comparisons_of(whole, rollouts, judge, context)
            if split:
                comparisons.append(rejected(split, judge, context, NOT_WHOLE))
    return ChunkRequests(
        [one for one in pointwise if one.place not in done],
        [one for one in comparisons if not all(key in done for key in one.judged)],
    )


def _decided(request: JudgeRequest) -> Answer:
    assert request.decided is not None
    return no_answer(request.decided, request.error)
