"""The judge task: one chunk of rollouts in, one verdict for each out, on record before it returns.

A failed call is a verdict with a status, never an exception: a chord is not left hanging by
one bad rollout. HTTP happens outside of transactions.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any

import gevent
from gevent.monkey import is_module_patched

from oyer.models import history, record
from oyer.models.rows import BatchRow, JudgementRow, RolloutRow, StoredJudgement
from oyer.models.store import reading
from oyer.tasks import judge_services, process
from oyer.tasks.config import JudgeConfig
from oyer.tasks.errors import OyerError
from oyer.tasks.judging import rubrics
from oyer.tasks.judging.aggregate import aggregate
from oyer.tasks.judging.jobs import Job, decided_score, jobs_of
from oyer.tasks.judging.judged import Answer, attempt_rows, judgement_row
from oyer.tasks.judging.resolve import Resolver
from oyer.tasks.parts import JudgePart
from oyer.tasks.patience import patiently
from oyer.tasks.payloads import Manifest, Rollout
from oyer.tasks.plan import Plan, read_plan
from oyer.tasks.statuses import NOT_CALLED, Status

_REPORT_S = 0.25
"""Pause between two reports of a chunk's progress."""

_CANCEL_LOOK_S = 0.2
"""How old the answer to `is the batch cancelled` may be."""


def warm_up() -> None:
    """Check what this process needs, and open it before the first chunk arrives."""
    if not is_module_patched("socket"):
        raise OyerError(
            "a judge worker needs the gevent pool, or its calls would run one after the other:"
            " start it with `oyer worker judge`, or with `-P gevent`"
        )
    process.engine()
    judge_services.endpoints()


def judge_chunk(batch_id: str, chunk: int) -> dict[str, Any]:
    """Judge one chunk and record it; returns its `JudgePart` in wire form."""
    exchange = process.exchange()
    manifest = exchange.manifest(batch_id)
    plan = read_plan(manifest)
    start, _ = manifest.chunks[chunk]
    rollouts = exchange.rollouts(batch_id, chunk)
    jobs = list(jobs_of(rollouts, start, plan.judges, plan.reward))
    on_record = _on_record(batch_id, range(start, start + len(rollouts)))
    rows: dict[tuple[int, str, int], JudgementRow] = dict(on_record)
    exchange.report(batch_id, chunk, _verdicts(rows, plan))

    open_jobs = [job for job in jobs if job.place not in rows]
    answers = _decided(open_jobs)
    asked = [job for job in open_jobs if job.key is not None]
    done = _Progress(batch_id, chunk, len(rows) + len(answers), plan)
    answers |= _ask(asked, _resolver(manifest, plan), done)
    written = _record(manifest, plan, rollouts, start, [(j, answers[j.place]) for j in open_jobs])
    rows |= {_place(row): row for row in written}
    exchange.report(batch_id, chunk, len(rollouts) * len(plan.judges))
    return _part(chunk, range(start, start + len(rollouts)), plan.judges, rows).to_wire()


def _on_record(batch_id: str, indices: range) -> dict[tuple[int, str, int], StoredJudgement]:
    """Read what an earlier run of this chunk has reached; a failure is tried again."""

    def read() -> list[StoredJudgement]:
        with reading(process.engine()) as conn:
            return history.judgements_of(conn, batch_id, indices)

    stored = patiently(read)
    fine = {Status.SCORED, *NOT_CALLED}
    return {_place(row): row for row in stored if row["status"] in fine}


def _decided(jobs: Iterable[Job]) -> dict[tuple[int, str, int], Answer]:
    return {
        job.place: Answer(source="none", status=job.decided)
        for job in jobs
        if job.decided is not None
    }


def _resolver(manifest: Manifest, plan: Plan) -> Resolver:
    run = manifest.run if plan.reuse == "run" else None

    def recorded(keys: Sequence[str]) -> Mapping[str, StoredJudgement]:
        if plan.reuse == "off":
            return {}

        def read() -> dict[str, StoredJudgement]:
            with reading(process.engine()) as conn:
                return history.scored_by_request(conn, keys, run)

        return patiently(read)

    endpoints, problems = judge_services.endpoints()
    return Resolver(
        endpoints=endpoints,
        problems=_Problems(problems),
        cache=judge_services.cache(),
        flight=judge_services.flight(),
        record=recorded,
        scope={"store": "", "run": f"run:{manifest.run}", "off": f"batch:{manifest.batch_id}"}[
            plan.reuse
        ],
        deadline=manifest.deadline,
        cancelled=_cancel_look(manifest.batch_id),
    )


class _Problems(dict[str, str]):
    """Says of an endpoint that is not there at all that it is not there."""

    def __missing__(self, name: str) -> str:
        return (
            f"endpoint {name!r} is not in the configuration of this worker"
            f" ({process.worker_name()}); add it under `endpoints` there"
        )


def _cancel_look(batch_id: str) -> Callable[[], bool]:
    looked_at, answer = 0.0, False

    def look() -> bool:
        nonlocal looked_at, answer
        now = time.monotonic()
        if not answer and now - looked_at > _CANCEL_LOOK_S:
            looked_at = now
            answer = process.exchange().cancelled(batch_id)
        return answer

    return look


class _Progress:
    """Counts verdicts and reports them now and then."""

    def __init__(self, batch_id: str, chunk: int, reached: int, plan: Plan) -> None:
        self._where = (batch_id, chunk)
        self._samples = sum(judge.samples for judge in plan.judges) / max(1, len(plan.judges))
        self._reached = reached
        self._reported_at = time.monotonic()

    def one_more(self) -> None:
        """Count a verdict."""
        self._reached += 1
        now = time.monotonic()
        if now - self._reported_at > _REPORT_S:
            self._reported_at = now
            process.exchange().report(*self._where, int(self._reached / self._samples))


def _ask(
    jobs: Sequence[Job], resolver: Resolver, progress: _Progress
) -> dict[tuple[int, str, int], Answer]:
    """Answer every job on a greenlet of its own; identical requests share one."""
    sharing: dict[str, list[Job]] = {}
    for job in jobs:
        assert job.key is not None
        sharing.setdefault(job.key, []).append(job)
    answers = resolver.known(jobs)
    open_keys = [key for key in sharing if key not in answers]
    claims = resolver.claim(open_keys) if open_keys else {}

    def reach(key: str) -> None:
        answers[key] = resolver.answer(sharing[key][0], claimed=claims[key])
        progress.one_more()

    gevent.joinall([gevent.spawn(reach, key) for key in open_keys], raise_error=True)
    return {
        job.place: answers[key] if i == 0 else _joined(answers[key])
        for key, sharers in sharing.items()
        for i, job in enumerate(sharers)
    }


def _joined(answer: Answer) -> Answer:
    """The same answer for a duplicate: nothing was paid for it."""
    return Answer(
        source="joined",
        status=answer.status,
        text=answer.text,
        reading=answer.reading,
        model=answer.model,
        error=answer.error,
    )


def _record(
    manifest: Manifest,
    plan: Plan,
    rollouts: Sequence[Rollout],
    start: int,
    answered: Sequence[tuple[Job, Answer]],
) -> list[JudgementRow]:
    """Write a chunk in one transaction; returns its judgements as they are on record."""
    judgements, attempts = [], []
    for job, answer in answered:
        price = judge_services.price(job.judge)
        row = judgement_row(job, answer, worker=process.worker_name(), price=price)
        if job.decided is not None:
            row["score"] = decided_score(job)
        judgements.append(row)
        attempts += attempt_rows(job, answer, price=price)
    rows = [_rollout_row(i, rollout) for i, rollout in enumerate(rollouts, start=start)]

    def write() -> list[StoredJudgement]:
        with process.engine().begin() as conn:
            key = record.ensure_run_and_batch(conn, _batch_row(manifest))
            record.record_rubrics(conn, _rubric_rows(plan.judges))
            return record.record_chunk(
                conn, key, rollouts=rows, judgements=judgements, attempts=attempts
            )

    return list(patiently(write)) or judgements


def _batch_row(manifest: Manifest) -> BatchRow:
    return {
        "id": manifest.batch_id,
        "run": manifest.run,
        "step": manifest.step,
        "size": manifest.size,
        "plan": manifest.plan,
        "submission": manifest.submission,
        "oyer_version": _version(),
        "submitted_at": datetime.fromtimestamp(manifest.submitted_at, UTC),
    }


@cache
def _version() -> str:
    return version("oyer")


def _rubric_rows(judges: Sequence[JudgeConfig]) -> list[Any]:
    return [
        {
            "hash": rubrics.rubric_hash(judge.rubric),
            "name": rubrics.parse(judge.rubric).name or judge.name,
            "text": judge.rubric,
        }
        for judge in judges
    ]


def _rollout_row(index: int, rollout: Rollout) -> RolloutRow:
    return {
        "rollout_index": index,
        "prompt": rollout.prompt,
        "response": rollout.response,
        "reference": rollout.reference,
        "group_id": rollout.group_id,
        "base_score": rollout.base_score,
        "correct": rollout.correct,
        "truncated": rollout.truncated,
        "response_tokens": rollout.response_tokens,
        "metadata": rollout.metadata,
    }


def _place(row: JudgementRow | StoredJudgement) -> tuple[int, str, int]:
    return row["rollout_index"], row["judge"], row["sample"]


def _verdicts(rows: Mapping[Any, Any], plan: Plan) -> int:
    samples = sum(judge.samples for judge in plan.judges)
    return int(len(rows) * len(plan.judges) / samples) if samples else 0


def _part(
    chunk: int,
    indices: range,
    judges: Sequence[JudgeConfig],
    rows: Mapping[tuple[int, str, int], JudgementRow],
) -> JudgePart:
    """Aggregate the samples of each judgement into what `combine` needs."""
    scores: dict[str, list[float | None]] = {}
    statuses: dict[str, list[str]] = {}
    errors: dict[str, str] = {}
    for judge in judges:
        verdicts = [
            aggregate([rows[i, judge.name, sample] for sample in range(judge.samples)], judge)
            for i in indices
        ]
        scores[judge.name] = [verdict.score for verdict in verdicts]
        statuses[judge.name] = [verdict.status for verdict in verdicts]
        for verdict in verdicts:
            if verdict.error is not None:
                errors.setdefault(verdict.status, verdict.error)
    return JudgePart(chunk=chunk, scores=scores, statuses=statuses, errors=errors)
