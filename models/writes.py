"""Writes to the record: idempotent, in bulk, from any number of processes at once.

- Rows are written in the order of their keys and tables always in the same order, so that
  two writers on PostgreSQL wait for each other and never in a circle. This holds for one
  chunk per transaction, with the batch and its rubrics recorded before it.
- What is on record stays: texts, rollouts, attempts and rewards are written once. A judgement
  is replaced only while it is without a score.
- Every function writes on the connection it is given and leaves the commit to the caller.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from hashlib import sha256
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Table, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from oyer.models.base import Base, clean_text, dump_json
from oyer.models.batch import Batch, BatchSubmission, Run
from oyer.models.judgement import Attempt, Judgement
from oyer.models.queries import judgements_of
from oyer.models.reward import Reward
from oyer.models.rollout import Rollout, Text
from oyer.models.rows import (
    AttemptRow,
    BatchKey,
    BatchRow,
    JudgementRow,
    RewardRow,
    RolloutRow,
    RubricRow,
    StoredJudgement,
    SubmissionRow,
)
from oyer.models.rubric import Rubric

SCORED = "scored"
"""The status of a judgement that is never overwritten."""

SUBMITTED = "submitted"
"""The status of a batch that has not ended."""

FAILED = "failed"
"""The status of a batch that its trainer gave up."""


def ensure_run_and_batch(conn: Connection, batch: BatchRow) -> BatchKey:
    """Put the batch and its run on record, unless they are there.

    Returns:
        The key that the batch's rows carry: the submission time first recorded for its id.
    """
    known = select(Batch.submitted_at).where(Batch.id == batch["id"])
    submitted_at = conn.scalar(known)
    if submitted_at is None:
        _write(conn, Run, [{"name": batch["run"], "created_at": batch["submitted_at"]}])
        run_id = conn.scalar(select(Run.id).where(Run.name == clean_text(batch["run"])))
        columns = {key: value for key, value in batch.items() if key != "run"}
        columns |= {"run_id": run_id, "submissions": 1, "status": SUBMITTED}
        _write(conn, Batch, [columns])
        submitted_at = conn.execute(known).scalar_one()
    return BatchKey(submitted_at, batch["id"])


def record_submissions(
    conn: Connection, batch_id: str, submissions: Sequence[SubmissionRow]
) -> None:
    """Record the times that a batch, which is on record, was handed to the workers."""
    if not _write(conn, BatchSubmission, submissions):
        return
    counted = select(func.count()).where(BatchSubmission.batch_id == batch_id).scalar_subquery()
    conn.execute(update(Batch).where(Batch.id == batch_id).values(submissions=counted))


def record_chunk(
    conn: Connection,
    batch: BatchKey,
    *,
    rollouts: Iterable[RolloutRow] = (),
    judgements: Sequence[JudgementRow] = (),
    attempts: Iterable[AttemptRow] = (),
) -> list[StoredJudgement]:
    """Record a chunk of rollouts, what was judged of them, and every request made for it.

    A text of an attempt that its judgement holds as well, which has a score and therefore stays,
    is not stored twice.

    Returns:
        Nothing in an ordinary run. Where a judgement was on record with a score already, that
        one stays, and these are the rows on record for all judgements of the chunk: what a
        late duplicate returns in place of its own.
    """
    texts: dict[str, str] = {}
    made = list(attempts)
    hashed = [_by_hash(row, ("prompt", "response", "reference"), texts) for row in rollouts]
    judged = [_by_hash(row, ("parameters", "messages"), texts) for row in judgements]
    tried = _attempts(made, judged, texts)
    _write_texts(conn, texts)
    _write(conn, Rollout, hashed, batch)
    written = _write(conn, Judgement, judged, batch)
    stored: list[StoredJudgement] = []
    if written != len(judgements):
        wanted = {_PLACE(row) for row in judgements}
        indices = [row["rollout_index"] for row in judgements]
        stored = [
            row for row in judgements_of(conn, batch.batch_id, indices) if _PLACE(row) in wanted
        ]
        # The judgement on record is another's: it does not hold what these attempts brought.
        texts = {}
        tried = _attempts(made, stored, texts)
        _write_texts(conn, texts)
    _write(conn, Attempt, tried, batch)
    return stored


def record_rewards(conn: Connection, batch: BatchKey, rewards: Sequence[RewardRow]) -> bool:
    """Record the rewards of a batch; the first to do so wins.

    Returns:
        Whether all of these are on record now; if not, `rewards_of` has what is.
    """
    return _write(conn, Reward, rewards, batch) == len(rewards)


def record_rubrics(conn: Connection, rubrics: Iterable[RubricRow]) -> None:
    """Record the rubrics that judgements name by hash."""
    _write(conn, Rubric, rubrics)


def finish_batch(
    conn: Connection,
    batch_id: str,
    *,
    status: str,
    finished_at: datetime,
    counts: Mapping[str, int] | None = None,
    usage: Mapping[str, Any] | None = None,
    ending: str | None = None,
) -> bool:
    """End a batch as `finished`, `cancelled` or `failed`; the first end stays.

    Args:
        counts: rollouts or judgements per status; left out while calls of the batch may be under way.
            A later call then adds them, and readers count the judgements until it does.
        usage: what `usage_of` returns, and whatever else the batch used; left out with `counts`.
        ending: who cancelled it or gave it up, and why.

    Returns:
        Whether this call ended it.
    """
    ended = update(Batch).where(Batch.id == batch_id, Batch.status == SUBMITTED)
    values = {"status": status, "finished_at": finished_at, "counts": counts, "usage": usage}
    if conn.execute(ended.values(values | {"ending": ending})).rowcount == 1:
        return True
    if counts is not None:
        uncounted = update(Batch).where(
            Batch.id == batch_id, Batch.status != SUBMITTED, Batch.counts.is_(None)
        )
        conn.execute(uncounted.values(counts=counts, usage=usage))
    return False


def reopen_batch(conn: Connection, batch_id: str) -> None:
    """Let a batch that was given up go on; how it ends then is its end."""
    given_up = update(Batch).where(Batch.id == batch_id, Batch.status == FAILED)
    nothing = {"finished_at": None, "counts": None, "usage": None, "ending": None}
    conn.execute(given_up.values({"status": SUBMITTED, **nothing}))


def _by_hash(row: Mapping[str, Any], names: Iterable[str], texts: dict[str, str]) -> dict[str, Any]:
    """Put these texts of a row into `texts` by hash, and the hashes in their place."""
    columns: dict[str, Any] = dict(row)
    for name in names:
        body = columns.pop(name, None)
        if body is not None:
            columns[f"{name}_hash"] = _kept(body, texts)
    if columns.get("group_id") is not None:
        columns["group_id"] = str(columns["group_id"])
    return columns


def _kept(body: Any, texts: dict[str, str]) -> str:
    """Put a text into `texts`; returns its hash."""
    # A judge is shown chat messages with their keys in the trainer's order.
    body = clean_text(body) if isinstance(body, str) else dump_json(body, sort_keys=False)
    digest = sha256(body.encode()).hexdigest()
    texts[digest] = body
    return digest


_PLACE = itemgetter("rollout_index", "judge", "sample")
"""What tells a judgement from the others of its batch."""


def _attempts(
    attempts: Iterable[AttemptRow],
    judgements: Iterable[Mapping[str, Any]],
    texts: dict[str, str],
) -> list[dict[str, Any]]:
    """Hash the texts of attempts, except those that a judgement with a score holds.

    Args:
        judgements: as they are on record, their parameters by hash.
    """
    scored = {_PLACE(row): row for row in judgements if row["status"] == SCORED}
    rows = []
    for attempt in attempts:
        row: dict[str, Any] = dict(attempt)
        held = scored.get(_PLACE(row), {})
        for name in ("reply", "reasoning"):
            if row.get(name) == held.get(name):
                row.pop(name, None)
        row = _by_hash(row, ("reply", "reasoning"), texts)
        if (parameters := row.pop("parameters", None)) is not None:
            own: dict[str, str] = {}
            digest = _kept(parameters, own)
            if digest != held.get("parameters_hash"):
                texts |= own
                row["parameters_hash"] = digest
        if row.get("turns") is not None:
            added = [_by_hash(turn, ("content",), texts) for turn in row["turns"]["added"]]
            row["turns"] = {**row["turns"], "added": added}
        rows.append(row)
    return rows


def _write_texts(conn: Connection, texts: Mapping[str, str]) -> None:
    _write(conn, Text, [{"hash": key, "body": body} for key, body in texts.items()])


def _write(
    conn: Connection,
    model: type[Base],
    rows: Iterable[Mapping[str, Any]],
    batch: BatchKey | None = None,
) -> int:
    """Write rows in the order of their keys; return how many of them changed the record.

    Raises:
        ValueError: a row lacks a column that is needed, or has one that the table has not.
    """
    table = model.__table__
    assert isinstance(table, Table)
    names = {column.name for column in table.c if column is not table.autoincrement_column}
    common = {column.name: None for column in table.c if column.nullable}
    common |= batch._asdict() if batch else {}
    full = [{**common, **row} for row in rows]
    for row in full:
        if row.keys() != names:
            raise ValueError(f"{table.name}: missing or unknown: {sorted(row.keys() ^ names)}")
    if not full:
        return 0
    if len(full) > 1:  # a run comes alone: its key is the database's to give
        full.sort(key=itemgetter(*(column.name for column in table.primary_key)))
    upsert = _upsert(conn.dialect.name, table)
    return conn.execute(upsert, full, execution_options={"preserve_rowcount": True}).rowcount


@cache
def _upsert(dialect: str, table: Table) -> sqlite.Insert | postgresql.Insert:
    """Build the statement that keeps what is there, except a judgement without a score."""
    statement: sqlite.Insert | postgresql.Insert
    statement = sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
    if table is not Judgement.__table__:
        return statement.on_conflict_do_nothing()
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key),
        set_={c.name: statement.excluded[c.name] for c in table.c if not c.primary_key},
        where=table.c.status != SCORED,
    )
