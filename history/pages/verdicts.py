"""Verdicts of people on judges' scores: reading, adding, the review queue, and the labels file."""

import random
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, insert, select

from oyer.history.pages.judges import (
    PAIRS,
    TURNS,
    joint_score,
    judge_name,
    sample_scores,
    scales_of,
    share_of_scale,
)
from oyer.models.base import dump_json
from oyer.models.batch import Batch, Run
from oyer.models.human_verdict import VERDICTS, HumanVerdict
from oyer.models.judgement import Judgement
from oyer.models.requests import texts_of
from oyer.models.reward import Reward
from oyer.models.rollout import Rollout
from oyer.protocol.errors import InvalidInput

QUEUE_JUDGEMENTS = 5_000
"""Number of a run's latest judgements from which the review queue chooses."""

RUNS_TO_REVIEW = 50
"""Number of latest runs among which the page Review lets one choose."""

_LONGEST_NOTE = 10_000
_LONGEST_AUTHOR = 200


def of_rollout(conn: Connection, batch_id: str, index: int) -> Sequence[Mapping[str, Any]]:
    """Return the verdicts on a rollout's judgements, oldest first."""
    query = select(HumanVerdict.__table__).where(
        HumanVerdict.batch_id == batch_id, HumanVerdict.rollout_index == index
    )
    return [dict(row) for row in conn.execute(query.order_by(HumanVerdict.created_at)).mappings()]


def add(
    engine: Engine,
    *,
    batch_id: str,
    index: int,
    judge: str,
    verdict: str,
    score: float | None,
    scale: tuple[float, float],
    note: str,
    author: str,
    blind: bool,
) -> None:
    """Add a verdict as a new row.

    Args:
        score: on the judge's `scale`; only for `should_be`.

    Raises:
        InvalidInput: names the field and the fix.
    """
    _check_verdict(verdict, score, scale)
    author = author.strip()
    if not 0 < len(author) <= _LONGEST_AUTHOR:
        raise InvalidInput(f"author: give your name, 1 to {_LONGEST_AUTHOR} characters")
    if len(note) > _LONGEST_NOTE:
        raise InvalidInput(f"note: has {len(note)} characters; give at most {_LONGEST_NOTE}")
    row = {
        "id": str(uuid.uuid4()),
        "batch_id": batch_id,
        "rollout_index": index,
        "judge": judge,
        "verdict": verdict,
        "score": score,
        "note": note.strip() or None,
        "author": author,
        "blind": blind,
        "created_at": datetime.now(UTC),
    }
    with engine.begin() as conn:
        conn.execute(insert(HumanVerdict).values(row))


def _check_verdict(verdict: str, score: float | None, scale: tuple[float, float]) -> None:
    if verdict not in VERDICTS:
        raise InvalidInput(f"verdict: is {verdict!r}; give agree, should_be or unsure")
    if (verdict == "should_be") != (score is not None):
        raise InvalidInput("score: give one with `should be`, and only then")
    if score is not None and not scale[0] <= score <= scale[1]:
        raise InvalidInput(
            f"score: is {score:g}; the judge's scale is {scale[0]:g} to {scale[1]:g}"
        )


def runs_to_review(conn: Connection, run_id: int | None) -> list[Mapping[str, Any]]:
    """Return the id and name of the latest runs, and of the run that is asked for.

    Raises:
        InvalidInput: the run is not on record.
    """
    latest = select(Run.id, Run.name).order_by(Run.id.desc()).limit(RUNS_TO_REVIEW)
    found: list[Mapping[str, Any]] = [dict(row) for row in conn.execute(latest).mappings()]
    if run_id is not None and run_id not in {run["id"] for run in found}:
        found.append({"id": run_id, "name": _run_of(conn, run_id)})
    return found


def _run_of(conn: Connection, run_id: int) -> str:
    """Return a run's name.

    Raises:
        InvalidInput: the run is not on record.
    """
    name = conn.scalar(select(Run.name).where(Run.id == run_id))
    if name is None:
        raise InvalidInput(f"run: {run_id} is not on record; choose one on the page Review")
    return name


def next_to_review(
    conn: Connection, run_id: int, mode: str, author: str
) -> tuple[str, int, str] | None:
    """Choose the next judgement that `author` has not reviewed; None if there is none.

    Args:
        mode: `disagreements` chooses the largest difference between the scores of one rollout, on a
            common scale; `random` chooses by chance.

    Returns:
        Batch, rollout index and judge.

    Raises:
        InvalidInput: the run is not on record.
    """
    _run_of(conn, run_id)
    done = select(HumanVerdict.batch_id, HumanVerdict.rollout_index, HumanVerdict.judge).where(
        HumanVerdict.author == author
    )
    reviewed = {tuple(row) for row in conn.execute(done)}
    scores = _latest_scores(conn, run_id)
    waiting = [
        (max(found)[0] - min(found)[0], batch_id, index, judge)
        for (batch_id, index), found in scores.items()
        for judge in sorted({judge for _, judge in found})
        if (batch_id, index, judge) not in reviewed
    ]
    if not waiting:
        return None
    chosen = random.choice(waiting) if mode == "random" else max(waiting)
    return chosen[1], chosen[2], chosen[3]


def _latest_scores(conn: Connection, run_id: int) -> dict[tuple[str, int], list[tuple[float, str]]]:
    """Return each rollout's scores, scaled to [0, 1], with their judges."""
    query = (
        select(
            Judgement.batch_id,
            Judgement.rollout_index,
            Judgement.judge,
            Judgement.sample,
            Judgement.score,
        )
        .join_from(
            Batch,
            Judgement,
            (Judgement.submitted_at == Batch.submitted_at) & (Judgement.batch_id == Batch.id),
        )
        .where(
            Batch.run_id == run_id,
            Batch.preliminary.is_(False),
            Judgement.score.is_not(None),
            ~Judgement.judge.endswith(PAIRS),
            ~Judgement.judge.endswith(TURNS),
        )
        .order_by(Batch.submitted_at.desc())
        .limit(QUEUE_JUDGEMENTS)
    )
    batches: dict[str, dict[tuple[int, str], list[tuple[int, float | None]]]] = defaultdict(dict)
    for batch_id, index, judge, sample, score in conn.execute(query):
        batches[batch_id].setdefault((index, judge), []).append((sample, score))
    scores: dict[tuple[str, int], list[tuple[float, str]]] = defaultdict(list)
    # Read once per batch, one after the other: a plan holds the rubrics.
    plans = select(Batch.id, Batch.plan).where(Batch.id.in_(list(batches)))
    for batch_id, plan in conn.execute(plans):
        scales = scales_of(plan)
        for (index, judge), rows in batches[batch_id].items():
            for score in sample_scores(rows, plan, judge):
                share = share_of_scale(score, scales.get(judge_name(judge)))
                scores[batch_id, index].append((share, judge))
    return scores


def labels(conn: Connection, run: str | None) -> Iterator[str]:
    """Yield the verdicts as JSON lines, with the judge's score and the rollout's texts."""
    query = (
        select(
            HumanVerdict.__table__, Run.name.label("run"), Batch.step, Batch.submitted_at,
            Judgement.model, Judgement.rubric_hash, Rollout.prompt_hash, Rollout.response_hash,
        )
        .join_from(HumanVerdict, Batch, Batch.id == HumanVerdict.batch_id)
        .join(Run)
        .join(
            Judgement,
            (Judgement.submitted_at == Batch.submitted_at)
            & (Judgement.batch_id == Batch.id)
            & (Judgement.rollout_index == HumanVerdict.rollout_index)
            & (Judgement.judge == HumanVerdict.judge)
            & (Judgement.sample == 0),
        )
        .join(
            Rollout,
            (Rollout.submitted_at == Batch.submitted_at)
            & (Rollout.batch_id == Batch.id)
            & (Rollout.rollout_index == HumanVerdict.rollout_index),
        )
        .order_by(HumanVerdict.created_at)
    )  # fmt: skip
    if run is not None:
        query = query.where(Run.name == run)
    for row in conn.execute(query).mappings():
        texts = texts_of(conn, [row["prompt_hash"], row["response_hash"]])
        judge_score = _joint_score(conn, dict(row))
        agreed = judge_score if row["verdict"] == "agree" else None
        left_out = "score", "submitted_at", "prompt_hash", "response_hash", "rubric_hash"
        yield dump_json(
            {
                **{key: row[key] for key in row if key not in left_out},
                "judge_score": judge_score,
                "created_at": row["created_at"].isoformat(),
                "rubric_hash": row["rubric_hash"],
                "label": row["score"] if row["verdict"] == "should_be" else agreed,
                "prompt": texts.get(row["prompt_hash"]),
                "response": texts.get(row["response_hash"]),
            }
        )


def _joint_score(conn: Connection, verdict: Mapping[str, Any]) -> float | None:
    """Return the judge's score that a verdict is on."""
    key = {name: verdict[name] for name in ("submitted_at", "batch_id", "rollout_index")}
    rows = select(Judgement.sample, Judgement.score).filter_by(**key, judge=verdict["judge"])
    terms = conn.scalar(select(Reward.terms).filter_by(**key)) or {}
    plan = conn.scalar(select(Batch.plan).where(Batch.id == verdict["batch_id"])) or {}
    found = [(sample, score) for sample, score in conn.execute(rows)]
    return joint_score(found, plan, verdict["judge"], terms)
