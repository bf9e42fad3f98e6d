"""Queries on recorded requests: judgements, their attempts, and the texts of both."""

from collections.abc import Iterable
from typing import Any, cast

from sqlalchemy import Connection, Select, select

from oyer.models.base import BatchPart
from oyer.models.batch import Batch
from oyer.models.judgement import Attempt, Judgement, Rubric
from oyer.models.queries import IN_LIST, id_starts_with
from oyer.models.rollout import Rollout, RolloutImage, Text, with_images
from oyer.models.rows import StoredAttempt, StoredJudgement


def batch_ids(conn: Connection, prefix: str, limit: int) -> list[str]:
    """Return the ids of batches that start with `prefix`; only `prefix` itself if it is an id."""
    query = select(Batch.id).where(id_starts_with(prefix)).order_by(Batch.id)
    found = list(conn.scalars(query.limit(limit)))
    return [prefix] if prefix in found else found


def judgements_by_hash(conn: Connection, prefix: str, limit: int) -> list[StoredJudgement]:
    """Return the judgements whose request hash starts with `prefix`, called ones first."""
    # Both databases use the index for a range; `g` sorts after the hexadecimal digits.
    hashed = Judgement.request_hash
    query = select(Judgement.__table__).where(hashed >= prefix, hashed < f"{prefix}g")
    query = query.order_by(Judgement.source != "called", Judgement.submitted_at, hashed)
    rows = conn.execute(query.limit(limit)).mappings()
    return [cast(StoredJudgement, dict(row)) for row in rows]


def attempts_of(conn: Connection, judgement: StoredJudgement) -> list[StoredAttempt]:
    """Return the HTTP requests made for a judgement, in order."""
    query = _at(Attempt, judgement["batch_id"], judgement["rollout_index"])
    query = query.where(
        Attempt.judge == judgement["judge"], Attempt.sample == judgement["sample"]
    ).order_by(Attempt.started_at, Attempt.number)
    return [cast(StoredAttempt, dict(row)) for row in conn.execute(query).mappings()]


def rollout_texts(conn: Connection, batch_id: str, rollout_index: int) -> dict[str, str | None]:
    """Return `prompt`, `response`, `reference` and `tools` of a rollout; empty if it is not on record."""
    row = conn.execute(_at(Rollout, batch_id, rollout_index)).mappings().first()
    if row is None:
        return {}
    hashes = {name: row[f"{name}_hash"] for name in ("prompt", "response", "reference", "tools")}
    bodies = texts_of(conn, hashes.values())
    images = rollout_images(conn, batch_id, rollout_index)
    return {name: with_images(bodies.get(digest), images) for name, digest in hashes.items()}


def rollout_images(conn: Connection, batch_id: str, rollout_index: int) -> dict[str, str]:
    """Return the images of a rollout as `data:` URLs, by hash."""
    linked = conn.execute(_at(RolloutImage, batch_id, rollout_index)).mappings()
    found = texts_of(conn, [row["hash"] for row in linked])
    return {digest: url for digest, url in found.items() if digest is not None}


def texts_of(conn: Connection, hashes: Iterable[str | None]) -> dict[str | None, str]:
    """Return the texts on record, by hash."""
    wanted = sorted({digest for digest in hashes if digest is not None})
    found: dict[str | None, str] = {}
    for start in range(0, len(wanted), IN_LIST):
        query = select(Text.hash, Text.body).where(Text.hash.in_(wanted[start : start + IN_LIST]))
        found |= {row.hash: row.body for row in conn.execute(query)}
    return found


def rubric_of(conn: Connection, rubric_hash: str | None) -> str | None:
    """Return a rubric's text."""
    return conn.scalar(select(Rubric.text).where(Rubric.hash == rubric_hash))


def _at(model: type[BatchPart], batch_id: str, rollout_index: int) -> Select[Any]:
    submitted = select(Batch.submitted_at).where(Batch.id == batch_id).scalar_subquery()
    table = model.__table__  # type: ignore[attr-defined]
    return select(table).where(
        model.submitted_at == submitted,
        model.batch_id == batch_id,
        model.rollout_index == rollout_index,
    )
