"""The judge task: one chunk of rollouts in, one verdict for each out, on record before it returns.

A failed call is a verdict with a status, never an exception: a chord is not left hanging by
one bad rollout. HTTP happens outside of transactions.
"""

import contextlib
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import gevent
from gevent.monkey import is_module_patched
from redis import RedisError

from oyer.config.plan import Plan, read_plan
from oyer.config.reward import JudgeConfig
from oyer.models import queries
from oyer.models.engine import reading
from oyer.models.rows import JudgementRow, StoredJudgement
from oyer.protocol.batch import Manifest
from oyer.protocol.errors import OyerError
from oyer.protocol.partial_results import JudgeResult
from oyer.protocol.status import SETTLED
from oyer.tasks.judging.aggregate import (
    FALLBACK_NOT_APPLIED,
    Verdict,
    chunk_groups,
    groups_to_fall_back,
    with_fallback,
)
from oyer.tasks.judging.call import JudgeCaller
from oyer.tasks.judging.judgements import (
    Answer,
    attempt_rows,
    judge_result,
    judgement_row,
    key_of,
    settled_rows,
    verdicts_on,
)
from oyer.tasks.judging.request_record import changed_on_record, messages_text
from oyer.tasks.judging.requests import JudgementKey, JudgeRequest, decided_score, requests_of
from oyer.tasks.judging.resolver import Resolver
from oyer.tasks.record import note_submission, record_chunk
from oyer.tasks.worker import context, services, shutdown
from oyer.tasks.worker.open_files import check_calls_fit, raise_limit
from oyer.tasks.worker.patience import patiently
from oyer.tasks.worker.record_state import check_record

_REPORT_S = 0.5
"""Pause between two reports of a chunk's progress."""

_CANCEL_LOOK_S = 0.2
"""How old the answer to `is the batch cancelled` may be."""

_GC_ALLOCATIONS = 5_000
"""Containers made between two looks for garbage: some 50 calls' worth; Python's own is 700."""


def warm_up() -> None:
    """Check what this process needs, and open it before the first chunk arrives."""
    if not is_module_patched("socket"):
        raise OyerError(
            "a judge worker needs the gevent pool, or its calls would run one after the other:"
            " start it with `oyer worker judge`, or with `-P gevent`"
        )
    # Who spawned which greenlet is for debuggers; noting it costs a twentieth of a call.
    gevent.config.track_greenlet_tree = False
    check_calls_fit(context.config().endpoints, raise_limit())
    check_record()
    context.engine()
    services.endpoints()
    # What is loaded by now stays for good: going through it for garbage again and again adds a
    # quarter of its CPU to a call (1.29 ms without, 1.08 frozen, 0.92 with fewer looks as well).
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_ALLOCATIONS)


def judge_chunk(batch_id: str, chunk: int) -> dict[str, Any]:
    """Judge one chunk and record it; returns its `JudgeResult` in wire form."""
    return _Chunk(batch_id, chunk).judge().to_wire()


class _Chunk:
    """One chunk while it is judged: what is known of it, and what is left to do."""

    def __init__(self, batch_id: str, chunk: int) -> None:
        exchange = context.exchange()
        self.manifest = patiently(lambda: exchange.manifest(batch_id))
        self.plan = read_plan(self.manifest)
        self.number = chunk
        self.start, _ = self.manifest.chunks[chunk]
        self.rollouts = patiently(lambda: exchange.rollouts(batch_id, chunk))
        self.indices = range(self.start, self.start + len(self.rollouts))
        self.groups = chunk_groups(
            [None if row.group_id is None else str(row.group_id) for row in self.rollouts],
            self.start,
            set(self.manifest.split_groups),
        )
        self.rows: dict[JudgementKey, JudgementRow] = {}
        self.purse = (
            services.purse(self.manifest.run, self.plan.budget) if self.plan.budget else None
        )

    def judge(self) -> JudgeResult:
        """Reach a verdict for every rollout and judge."""
        if self.number == 0:
            # Before the first call, so that a batch is on record while it is judged.
            note_submission(self.manifest)
        self.rows.update(self._on_record())
        progress = _Progress(self.manifest.batch_id, self.number, self.plan, len(self.rows))
        self._reach(self.plan.judges, list(self.indices), progress)
        verdicts = {judge.name: self._verdicts(judge, self.indices) for judge in self.plan.judges}
        for judge in self.plan.judges:
            if judge.substitute is not None:
                verdicts[judge.name] = self._with_fallback(
                    judge.substitute, verdicts[judge.name], progress
                )
        progress.report(len(self.rollouts) * len(self.plan.judges))
        return judge_result(self.number, verdicts)

    def _with_fallback(
        self, substitute: JudgeConfig, verdicts: dict[int, Verdict], progress: "_Progress"
    ) -> dict[int, Verdict]:
        """Have the groups on which a judge failed judged by its fall-back."""
        groups = groups_to_fall_back(self.groups, verdicts)
        places = sorted(place for group in groups for place in group)
        self._reach([substitute], places, progress)
        return with_fallback(verdicts, self._verdicts(substitute, places), groups)

    def _on_record(self) -> dict[JudgementKey, StoredJudgement]:
        """Read what an earlier run of this chunk has reached."""

        def read() -> list[StoredJudgement]:
            with reading(context.engine()) as conn:
                return queries.judgements_of(conn, self.manifest.batch_id, self.indices)

        return settled_rows(patiently(read))

    def _reach(
        self, judges: Sequence[JudgeConfig], places: Sequence[int], progress: "_Progress"
    ) -> None:
        """Judge what is not judged yet, and put it on record."""
        rollouts = {place: self.rollouts[place - self.start] for place in places}
        bodies, servers = services.bodies(), services.servers()
        listed = requests_of(rollouts, judges, self.plan.reward, bodies, servers)
        jobs = [job for job in listed if job.place not in self.rows]
        # Without judges there is still a batch and its rollouts to put on record.
        if not jobs and judges:
            return
        answers = {
            job.place: Answer(source="none", status=job.decided)
            for job in jobs
            if job.decided is not None
        }
        progress.add(len(answers))
        asked = [job for job in jobs if job.key is not None]
        resolver = _resolver(self.manifest, self.plan, self.purse)
        answers |= _ask(asked, resolver, progress)
        self._record(judges, [(job, answers[job.place]) for job in jobs])
        # Under `reuse: off` the record is not asked, and a later chunk may hold the same request.
        if self.plan.reuse != "off":
            resolver.expire_recorded(asked)
        if shutdown.asked() and any(answer.status not in SETTLED for answer in answers.values()):
            raise shutdown.HandedBack(f"chunk {self.number} of batch {self.manifest.batch_id}")

    def _record(
        self, judges: Sequence[JudgeConfig], answered: Sequence[tuple[JudgeRequest, Answer]]
    ) -> None:
        judgements, attempts = [], []
        changed = {
            place
            for place, rollout in zip(self.indices, self.rollouts, strict=True)
            if changed_on_record(rollout)
        }
        for job, answer in answered:
            price = services.price(job.judge)
            row = judgement_row(job, answer, worker=context.worker_name(), price=price)
            if job.decided is not None:
                row["score"] = decided_score(job)
            elif job.request is not None and job.index in changed:
                row["messages"] = messages_text(job.request.messages)
            if (
                job.judge.fallback
                and row["status"] not in SETTLED
                and job.index in self.groups.split
            ):
                row["error"] = (row.get("error") or "") + FALLBACK_NOT_APPLIED
            judgements.append(row)
            attempts += attempt_rows(job, answer, price=price)
        written = record_chunk(
            self.manifest, judges, self.rollouts, self.start, judgements, attempts
        )
        self.rows.update((key_of(row), row) for row in written)
        if self.purse is not None:
            self.purse.recorded(sum(row.get("cost_usd") or 0.0 for row in attempts))
            self.purse.report()

    def _verdicts(self, judge: JudgeConfig, places: Sequence[int]) -> dict[int, Verdict]:
        return verdicts_on(self.rows, judge, places)


def _resolver(manifest: Manifest, plan: Plan, purse: Any) -> Resolver:
    run = manifest.run if plan.reuse == "run" else None

    def recorded(keys: Sequence[str]) -> Mapping[str, StoredJudgement]:
        if plan.reuse == "off":
            return {}

        def read() -> dict[str, StoredJudgement]:
            with reading(context.engine()) as conn:
                return queries.scored_by_request(conn, keys, run)

        return patiently(read)

    endpoints, problems = services.endpoints()
    caller = JudgeCaller(
        endpoints=endpoints,
        problems=_Problems(problems),
        deadline=manifest.deadline,
        cancelled=_cancel_look(manifest.batch_id),
        budget=purse,
    )
    scopes = {"store": "", "run": f"run:{manifest.run}", "off": f"batch:{manifest.batch_id}"}
    return Resolver(
        caller=caller,
        reply_cache=services.cache(),
        single_flight=services.flight(),
        record=recorded,
        scope=scopes[plan.reuse],
    )


class _Problems(dict[str, str]):
    """Says of an endpoint that is not there at all that it is not there."""

    def __missing__(self, name: str) -> str:
        return (
            f"endpoint {name!r} is not in the configuration of this worker"
            f" ({context.worker_name()}); add it under `endpoints` there"
        )


@lru_cache(maxsize=64)
def _cancel_look(batch_id: str) -> Callable[[], bool]:
    """Return what tells whether no call is to be begun: the batch is cancelled, or this worker stops.

    One look serves all the batch's chunks here.
    """
    looked_at, answer = 0.0, False

    def look() -> bool:
        nonlocal looked_at, answer
        now = time.monotonic()
        if not answer and now - looked_at > _CANCEL_LOOK_S:
            looked_at = now
            # With Redis away nobody knows, and a call that was owed is not to be given up.
            with contextlib.suppress(RedisError):
                answer = context.exchange().ending(batch_id) is not None
        return answer or shutdown.asked()

    return look


class _Progress:
    """Counts judgements, and reports the verdicts they amount to now and then."""

    def __init__(self, batch_id: str, chunk: int, plan: Plan, reached: int) -> None:
        self._where = (batch_id, chunk)
        self._samples = sum(judge.samples for judge in plan.judges) / max(1, len(plan.judges))
        self._reached = reached
        self._reported_at = 0.0 if reached else time.monotonic()
        self.add(0)

    def add(self, judgements: int = 1) -> None:
        """Count judgements."""
        self._reached += judgements
        now = time.monotonic()
        if now - self._reported_at > _REPORT_S:
            self._reported_at = now
            self.report(int(self._reached / self._samples) if self._samples else 0)

    def report(self, verdicts: int) -> None:
        """Say how many verdicts there are, unless Redis is away: the verdicts count, not this."""
        with contextlib.suppress(RedisError):
            context.exchange().report(*self._where, verdicts)


def _ask(
    jobs: Sequence[JudgeRequest], resolver: Resolver, progress: _Progress
) -> dict[JudgementKey, Answer]:
    """Answer every job on a greenlet of its own; identical requests share one."""
    sharing: dict[str, list[JudgeRequest]] = {}
    for job in jobs:
        assert job.key is not None
        sharing.setdefault(job.key, []).append(job)
    answers = resolver.known(jobs)
    open_keys = [key for key in sharing if key not in answers]
    claims = resolver.claim(open_keys) if open_keys else {}

    def reach(key: str) -> None:
        answers[key] = resolver.answer(sharing[key][0], claimed=claims[key])
        progress.add()

    gevent.joinall([gevent.spawn(reach, key) for key in open_keys], raise_error=True)
    return {
        job.place: answers[key] if i == 0 else answers[key].joined
        for key, sharers in sharing.items()
        for i, job in enumerate(sharers)
    }
