"""The states of a response that a judge with `view: each_turn` is asked about, and their verdict; pure.

- The whole response comes first, under the judge's own name. Its request is that of `view: full`.
- The state after each earlier turn is judged under the name `<judge>/turns`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, groupby, takewhile

from oyer.config.judge import JudgeConfig
from oyer.models.rows import JudgementRow
from oyer.protocol.content import turn_states
from oyer.protocol.rollout import Rollout
from oyer.protocol.status import SETTLED
from oyer.tasks.judging.aggregate import Verdict

TURNS = "/turns"


@dataclass(frozen=True, slots=True)
class State:
    """What a judge is asked about."""

    judge: JudgeConfig
    """Named as its judgements are on record."""
    rollout: Rollout
    turn: int | None
    """The last turn of the state, from 0; None if the judge is not asked about turns."""


def states_of(rollout: Rollout, judge: JudgeConfig) -> Iterator[State]:
    """Yield what a judge is asked about a rollout, the whole response first."""
    if judge.view != "each_turn":
        yield State(judge, rollout, None)
        return
    *earlier, _ = turn_states(rollout.response)
    yield State(judge, rollout, len(earlier))
    named = judge.model_copy(update={"name": judge.name + TURNS})
    for turn, response in enumerate(earlier):
        yield State(named, replace(rollout, response=response), turn)


def rows_of_turns(
    rows: Mapping[tuple[int, str, int], JudgementRow], judge: JudgeConfig, index: int
) -> list[list[JudgementRow]]:
    """Return the judgements of each turn before the last, ordered by sample number."""
    name = judge.name + TURNS
    numbers = takewhile(lambda number: (index, name, number) in rows, count())
    found = [rows[index, name, number] for number in numbers]
    return [list(some) for _, some in groupby(found, key=lambda row: row.get("turn"))]


def verdict_of_turns(turns: Sequence[Verdict]) -> Verdict:
    """Return the verdict on a rollout: the last turn's, or the first failure without a score."""
    last = turns[-1]
    scores = [verdict.score for verdict in turns]
    for number, verdict in enumerate(turns, start=1):
        if verdict.status not in SETTLED:
            error = f"turn {number}: {verdict.error}" if verdict.error else None
            return Verdict(None, verdict.status, error, last.criteria, scores)
    return replace(last, turn_scores=scores)
