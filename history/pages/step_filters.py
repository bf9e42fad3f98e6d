"""What a step's page shows, also as an SQL query on the record; pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from oyer.models.step_total import NO_STEP

_SELECT = """\
SELECT history.batch_id, history.rollout_index, history.group_id, history.judge, history.status, history.score,
    history.reward, rewards.status AS reward_status, history.terms
FROM judge_history AS history
JOIN batches ON batches.id = history.batch_id
JOIN rewards ON rewards.submitted_at = history.submitted_at
    AND rewards.batch_id = history.batch_id AND rewards.rollout_index = history.rollout_index"""


@dataclass(frozen=True)
class Filters:
    """What a step's page shows; None or empty means all."""

    status: str | None = None
    component: str | None = None
    """A judge, criterion or length term, for `low` and `high`; the reward if None."""
    low: float | None = None
    high: float | None = None
    text: str | None = None
    """Part of the response, in any case."""
    sort: str = "order"

    @property
    def any(self) -> bool:
        """Whether rollouts are left out."""
        return any(v is not None for v in (self.status, self.low, self.high, self.text))


def step_sql(run: str, step: int, split: str | None, filters: Filters) -> str:
    """Return the query for the judgements of the rollouts that a step's page shows.

    It runs on SQLite and PostgreSQL, and returns one row per judgement.

    Args:
        split: see `oyer.history.pages.runs.run_page`; None means all.
    """
    conditions = "\n  AND ".join(_conditions(run, step, split, filters))
    order = "history.batch_id, history.rollout_index, history.judge"
    return f"{_SELECT}\nWHERE {conditions}\nORDER BY {order}"


def _conditions(run: str, step: int, split: str | None, filters: Filters) -> Iterator[str]:
    yield f"history.run = {_text(run)}"
    yield "history.step IS NULL" if step == NO_STEP else f"history.step = {step}"
    yield "NOT batches.preliminary"
    if split is not None:
        yield f"coalesce(batches.split, '') = {_text(split)}"
    if filters.status:
        yield f"rewards.status = {_text(filters.status)}"
    value = _value(filters.component)
    if filters.low is not None:
        yield f"{value} >= {filters.low!r}"
    if filters.high is not None:
        yield f"{value} <= {filters.high!r}"
    if filters.text:
        part = filters.text.replace("/", "//").replace("%", "/%").replace("_", "/_")
        yield f"lower(history.response) LIKE lower({_text(f'%{part}%')}) ESCAPE '/'"


def _value(component: str | None) -> str:
    if component is None:
        return "history.reward"
    keys = (f"score:{component}", f"advantage:{component}", component)
    found = ", ".join(f"history.terms ->> {_text(key)}" for key in keys)
    return f"CAST(coalesce({found}) AS double precision)"


def _text(value: str) -> str:
    quoted = value.replace("'", "''")
    return f"'{quoted}'"
