"""Search over judgements, in pages by key."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Select, and_, func, literal, or_, select, tuple_

from oyer.models.batch import Batch, Run
from oyer.models.judgement import Judgement
from oyer.models.reward import Reward
from oyer.models.rollout import Rollout, Text
from oyer.protocol.errors import InvalidInput

PER_PAGE = 50

WINDOW = 5_000
"""Newest matching judgements that are read for a condition without an index, i.e. on texts or cost;
the next page reads on."""

SNIPPET_CHARS = 160


@dataclass(frozen=True)
class Query:
    """Conditions that all must hold; None or empty means any."""

    text: str = ""
    """Part of the response or the reply, in any case."""
    run: str = ""
    step: int | None = None
    group: str = ""
    batch: str = ""
    """A batch id or its beginning."""
    status: str = ""
    judge: str = ""
    min_cost_usd: float | None = None
    since: datetime | None = None
    until: datetime | None = None

    @classmethod
    def of(cls, given: Mapping[str, str]) -> "Query":
        """Read a form.

        Raises:
            InvalidInput: names the field and the fix.
        """
        found: dict[str, Any] = {}
        for one in fields(cls):
            value = given.get(one.name, "").strip()
            if not value:
                continue
            try:
                if one.name == "step":
                    found[one.name] = int(value)
                elif one.name == "min_cost_usd":
                    found[one.name] = float(value)
                    if not math.isfinite(found[one.name]):
                        raise ValueError
                elif one.name in ("since", "until"):
                    found[one.name] = _time(value)
                else:
                    found[one.name] = value
            except (ValueError, OverflowError) as error:
                example = {"since": "2026-01-31", "until": "2026-01-31T12:00"}.get(one.name, "12")
                raise InvalidInput(f"{one.name}: is {value!r:.60}; write e.g. {example}") from error
        return cls(**found)

    def form(self) -> dict[str, str]:
        """Return the conditions as they are written in a form."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {
            name: value.isoformat() if isinstance(value, datetime) else str(value)
            for name, value in values.items()
            if value not in ("", None)
        }


def _time(value: str) -> datetime:
    """Read a time, in UTC unless it has another zone; OverflowError before year 1 or after 9999."""
    time = datetime.fromisoformat(value)
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def search_page(conn: Connection, query: Query, after: str | None) -> dict[str, Any]:
    """Return one page of judgements, newest first.

    Args:
        after: the `next` of the page before.

    Raises:
        InvalidInput: `after` is not such a key.
    """
    rows, scanned_to = _rows(conn, query, after)
    shown = rows[:PER_PAGE]
    more = _key(shown[-1]) if len(rows) > PER_PAGE else scanned_to
    return {
        "query": query,
        "form": query.form(),
        "rows": [_shown(row, query.text) for row in shown],
        "next": more,
        "narrowed": scanned_to is not None and len(rows) <= PER_PAGE,
    }


_ORDER = (
    Judgement.submitted_at,
    Judgement.batch_id,
    Judgement.rollout_index,
    Judgement.judge,
    Judgement.sample,
)


def _rows(conn: Connection, query: Query, after: str | None) -> tuple[list[Any], str | None]:
    """Return the rows of a page and one more; the key to go on from if the text window ended."""
    keys = select(*_ORDER).join_from(Judgement, Batch, _of_batch()).join(Run)
    keys = keys.where(*_conditions(query))
    if query.group:
        keys = keys.join(Rollout, _same(Rollout)).where(Rollout.group_id == query.group)
    if after is not None:
        key = [
            literal(value, column.type)
            for value, column in zip(_cursor(after), _ORDER, strict=True)
        ]
        keys = keys.where(tuple_(*_ORDER) < tuple_(*key))
    keys = keys.order_by(*(column.desc() for column in _ORDER))
    unindexed = _unindexed(query)
    if not unindexed:
        return list(conn.execute(_full(keys.limit(PER_PAGE + 1).subquery()))), None
    window = keys.limit(WINDOW).subquery()
    found = list(conn.execute(_full(window).where(*unindexed).limit(PER_PAGE + 1)))
    if len(found) > PER_PAGE:
        return found, None
    last = conn.execute(
        select(window, func.count().over().label("n"))
        .order_by(*(column for column in window.c))
        .limit(1)
    ).one_or_none()
    return found, _key(last) if last is not None and last.n == WINDOW else None


def _conditions(query: Query) -> list[Any]:
    found: list[Any] = []
    if query.run:
        found.append(Run.name == query.run)
    if query.step is not None:
        found.append(Batch.step == query.step)
    if query.batch:
        found.append(
            and_(Batch.id >= query.batch, Batch.id < f"{query.batch}g")
            if len(query.batch) < 36
            else Batch.id == query.batch
        )
    if query.status:
        found.append(Judgement.status == query.status)
    if query.judge:
        found.append(Judgement.judge == query.judge)
    if query.since is not None:
        found.append(Judgement.submitted_at >= query.since)
    if query.until is not None:
        found.append(Judgement.submitted_at < query.until)
    return found


def _unindexed(query: Query) -> list[Any]:
    """Return the conditions on columns without an index."""
    found: list[Any] = []
    if query.text:
        columns = (Judgement.reply, Text.body)
        found.append(or_(*(one.icontains(query.text, autoescape=True) for one in columns)))
    if query.min_cost_usd is not None:
        found.append(Judgement.cost_usd >= query.min_cost_usd)
    return found


def _full(keys: Any) -> Select[*tuple[Any, ...]]:
    """Read what a page shows of the judgements with these keys."""
    return (
        select(
            *_ORDER, Judgement.status, Judgement.score, Judgement.cost_usd, Judgement.reply,
            Run.name.label("run"), Run.id.label("run_id"), Batch.step, Rollout.group_id,
            Reward.reward, Text.body,
        )
        .join_from(
            keys, Judgement, and_(*(getattr(keys.c, column.key) == column for column in _ORDER))
        )
        .join(Batch, _of_batch())
        .join(Run)
        .join(Rollout, _same(Rollout))
        .outerjoin(Reward, _same(Reward))
        .outerjoin(Text, Text.hash == Rollout.response_hash)
        .order_by(*(column.desc() for column in _ORDER))
    )  # fmt: skip


def _of_batch() -> Any:
    return (Judgement.batch_id == Batch.id) & (Judgement.submitted_at == Batch.submitted_at)


def _same(model: Any) -> Any:
    return (
        (model.submitted_at == Judgement.submitted_at)
        & (model.batch_id == Judgement.batch_id)
        & (model.rollout_index == Judgement.rollout_index)
    )


def _key(row: Any) -> str:
    values = [row.submitted_at.isoformat(), *(getattr(row, column.key) for column in _ORDER[1:])]
    return json.dumps(values)


def _cursor(text: str) -> tuple[datetime, str, int, str, int]:
    try:
        submitted_at, batch_id, index, judge, sample = json.loads(text)
        f"{batch_id}{judge}".encode()  # no lone surrogates
        return _time(submitted_at), str(batch_id), int(index), str(judge), int(sample)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidInput("after: is not the key of a page; follow the link `older`") from error


def _shown(row: Any, text: str) -> dict[str, Any]:
    body, reply = row.body or "", row.reply or ""
    source = reply if text and text.lower() not in body.lower() else body
    at = max(0, source.lower().find(text.lower()) - SNIPPET_CHARS // 3) if text else 0
    return {**row._mapping, "snippet": source[at : at + SNIPPET_CHARS]}
