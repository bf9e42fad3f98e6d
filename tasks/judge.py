"""The judge task: judges one chunk of rollouts and records it before it returns.

A failed call becomes a verdict with a status, never an exception, so that one bad rollout cannot
leave a chord unfinished. No HTTP call runs inside a database transaction.
"""

import contextvars
import gc
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import gevent
from gevent.monkey import is_module_patched

from oyer.config.plan import Plan
from oyer.config.reward import JudgeConfig, Price
from oyer.models import queries
from oyer.models.rows import JudgementRow, StoredJudgement
from oyer.protocol.batch import Manifest
from oyer.protocol.batch_result import sampled_rows
from oyer.protocol.errors import OyerError
from oyer.protocol.partial_results import JudgeResult
from oyer.protocol.rollout import Rollout
from oyer.protocol.status import SETTLED, Status
from oyer.tasks.chunk_progress import ChunkProgress
from oyer.tasks.coordination.admission import ChunkLoad
from oyer.tasks.coordination.budget import RunBudget
from oyer.tasks.coordination.fair_queue import Flow
from oyer.tasks.judging.aggregate import (
    FALLBACK_NOT_APPLIED,
    Verdict,
    chunk_groups,
    groups_to_fall_back,
    with_fallback,
)
from oyer.tasks.judging.call import JudgeCaller
from oyer.tasks.judging.chunk_requests import chunk_requests
from oyer.tasks.judging.judgements import (
    Answer,
    attempt_rows,
    judge_result,
    judgement_row,
    key_of,
    settled_rows,
    verdicts_on,
    with_observations,
)
from oyer.tasks.judging.request_record import changed_on_record, messages_text
from oyer.tasks.judging.requests import JudgementKey, JudgeRequest, RequestContext, decided_score
from oyer.tasks.judging.resolver import Resolver
from oyer.tasks.monitoring.answer_counts import count_answers
from oyer.tasks.monitoring.judge_spans import record_spans
from oyer.tasks.record import check_schema, record_chunk, record_submission
from oyer.tasks.worker.context import WorkerContext
from oyer.tasks.worker.logging import log_values
from oyer.tasks.worker.open_files import check_calls_fit, raise_limit
from oyer.tasks.worker.shutdown import HandedBack
from oyer.tasks.worker.storage_retry import retry_storage
from oyer.telemetry import tracing

_GC_ALLOCATIONS = 5_000
"""Allocations between garbage collections, about 50 calls' worth; Python's default is 700."""


def warm_up(context: WorkerContext) -> None:
    """Check and open what judge tasks need before the first chunk arrives."""
    if not is_module_patched("socket"):
        raise OyerError(
            "a judge worker needs the gevent pool, or its calls would run one after the other:"
            " start it with `oyer worker judge`, or with `-P gevent`"
        )
    # The greenlet tree is for debuggers; tracking it costs 5 % of a call.
    gevent.config.track_greenlet_tree = False
    check_calls_fit(context.config.endpoints, raise_limit())
    check_schema(context)
    _ = context.engine, context.judging
    # Objects loaded by now stay. Scanning them in each collection adds a quarter of a call's CPU
    # (1.29 ms per call by default, 1.08 ms frozen, 0.92 ms frozen with fewer collections).
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_ALLOCATIONS)


def judge_chunk(
    context: WorkerContext, batch_id: str, chunk: int, load: ChunkLoad | None = None
) -> dict[str, Any]:
    """Judge one chunk and record it; returns its `JudgeResult` in wire form.

    Args:
        load: kept at the number of calls that have not ended.

    Raises:
        HandedBack: this worker stops; another one finishes the chunk.
    """
    manifest, plan = context.manifest(batch_id)
    rollouts = retry_storage(context.batches.rollouts, batch_id, chunk)
    return judged_chunk(context, manifest, plan, chunk, rollouts, load).to_wire()


def judged_chunk(
    context: WorkerContext,
    manifest: Manifest,
    plan: Plan,
    chunk: int,
    rollouts: Sequence[Rollout],
    load: ChunkLoad | None,
) -> JudgeResult:
    """Judge one chunk of rollouts and record it; see `judge_chunk`."""
    labels = {**manifest.labels, "chunk": chunk, "rollouts": len(rollouts)}
    with tracing.span("oyer.judge", "consumer", labels):
        return _Chunk(context, manifest, plan, chunk, rollouts, load or ChunkLoad()).judge()


class _Chunk:
    """The judging of one chunk."""

    def __init__(
        self,
        context: WorkerContext,
        manifest: Manifest,
        plan: Plan,
        chunk: int,
        rollouts: Sequence[Rollout],
        load: ChunkLoad,
    ) -> None:
        self.context = context
        self.load = load
        self.manifest, self.plan = manifest, plan
        self.number = chunk
        self.start, _ = manifest.chunks[chunk]
        self.rollouts = rollouts
        self.indices = range(self.start, self.start + len(self.rollouts))
        self.groups = chunk_groups(
            [None if row.group_id is None else str(row.group_id) for row in self.rollouts],
            self.start,
            set(self.manifest.split_groups),
        )
        self.rows: dict[JudgementKey, JudgementRow] = {}
        self.budget = (
            context.judging.budget(self.manifest.run, self.plan.budget)
            if self.plan.budget
            else None
        )

    def judge(self) -> JudgeResult:
        """Return a verdict for each rollout and judge."""
        self.rows.update(self._recorded())
        place = self.manifest.batch_id, self.number
        progress = ChunkProgress(
            self.context.batches, place, self.plan.judges, self.rollouts, len(self.rows)
        )
        self._judge(self.plan.judges, list(self.indices), progress)
        verdicts = {
            judge.name: verdicts_on(self.rows, judge, self.indices) for judge in self.plan.judges
        }
        for judge in self.plan.judges:
            if judge.substitute is not None:
                verdicts[judge.name] = self._with_fallback(
                    judge.substitute, verdicts[judge.name], progress
                )
        progress.report(len(self.rollouts) * len(self.plan.judges))
        sample = sampled_rows(self.manifest.batch_id, self.manifest.size)
        found = judge_result(self.number, verdicts)
        return with_observations(found, self.rows, self.plan.judges, sample)

    def _with_fallback(
        self, substitute: JudgeConfig, verdicts: dict[int, Verdict], progress: ChunkProgress
    ) -> dict[int, Verdict]:
        """Let the fallback judge the groups on which a judge failed."""
        groups = groups_to_fall_back(self.groups, verdicts)
        indices = sorted(index for group in groups for index in group)
        self._judge([substitute], indices, progress)
        replacements = verdicts_on(self.rows, substitute, indices)
        return with_fallback(verdicts, replacements, groups)

    @cached_property
    def _changed(self) -> set[int]:
        """Rollouts whose text the database alters, so that their messages are stored as well."""
        return {i for i in self.indices if changed_on_record(self.rollouts[i - self.start])}

    def _recorded(self) -> dict[JudgementKey, StoredJudgement]:
        """Read the judgements that an earlier run of this chunk recorded."""
        if self.number == 0:
            # Before the first call, so that the database shows the batch while it is judged.
            return settled_rows(record_submission(self.context, self.manifest, self.indices))
        rows = self.context.read(
            lambda conn: queries.judgements_of(conn, self.manifest.batch_id, self.indices)
        )
        return settled_rows(rows)

    def _judge(
        self, judges: Sequence[JudgeConfig], indices: Sequence[int], progress: ChunkProgress
    ) -> None:
        """Judge and record what is not recorded yet."""
        rollouts = {index: self.rollouts[index - self.start] for index in indices}
        services = self.context.judging
        context = RequestContext(
            rules=self.plan.reward, bodies=services.extra_bodies, servers=services.servers
        )
        requests = chunk_requests(rollouts, judges, self.groups, context, self.rows)
        # A batch without judges still records its rollouts.
        if not (requests.pointwise or requests.comparisons) and judges:
            return
        asked = requests.asked
        progress.add(sum(one.decided is not None for one in requests.pointwise))
        resolver = _resolver(self.context, self.manifest, self.plan, self.budget)
        answered = requests.answered(_ask(asked, resolver, progress, self.load))
        self._record(judges, answered)
        # Under `reuse: off` the database is not read, so a later chunk needs the cached replies.
        if self.plan.reuse != "off":
            # The record has no score from a list of a group whose other list failed.
            scored = {one.key for one, answer in answered if answer.status is Status.SCORED}
            resolver.expire_recorded([one for one in asked if one.key in scored])
        failed = any(answer.status not in SETTLED for _, answer in answered)
        if self.context.shutdown.requested and failed:
            raise HandedBack(f"chunk {self.number} of batch {self.manifest.batch_id}")

    def _record(
        self, judges: Sequence[JudgeConfig], answered: Sequence[tuple[JudgeRequest, Answer]]
    ) -> None:
        judgements, attempts, spent_usd = [], [], 0.0
        for request, answer in answered:
            price = self.context.judging.price(request.judge)
            judgements.append(self._row(request, answer, price))
            attempts += attempt_rows(request, answer, price=price)
            # What another worker sent is not among the amounts that this one has to record.
            spent_usd += sum(one.cost_usd(price) for one in answer.attempts if not one.restored)
        written = record_chunk(
            self.context, self.manifest, self.number, self.rollouts, judges, judgements, attempts
        )
        self.rows.update((key_of(row), row) for row in written)
        if tracing.tracer() is not None:
            judged = [(*one, row) for one, row in zip(answered, judgements, strict=True)]
            record_spans(judged, self.context.config.endpoints)
        count_answers(
            self.context.measurements, self.manifest.run, answered, self.context.judging.price
        )
        if self.budget is not None and self.plan.budget is not None:
            self.context.measurements.note_run(self.manifest.run, self.plan.budget.usd)
            self.budget.recorded(spent_usd)
            self.budget.report()

    def _row(self, request: JudgeRequest, answer: Answer, price: Price | None) -> JudgementRow:
        row = judgement_row(request, answer, worker=self.context.name, price=price)
        if request.decided is not None:
            row["score"] = decided_score(request)
        elif request.request is not None and not self._changed.isdisjoint(request.rollouts):
            row["messages"] = messages_text(request.request.messages)
        failed = row["status"] not in SETTLED
        if failed and request.judge.fallback and request.index in self.groups.split:
            row["error"] = (row.get("error") or "") + FALLBACK_NOT_APPLIED
        return row


def _resolver(
    context: WorkerContext, manifest: Manifest, plan: Plan, budget: RunBudget | None
) -> Resolver:
    run = manifest.run if plan.reuse == "run" else None

    def recorded(keys: Sequence[str]) -> Mapping[str, StoredJudgement]:
        if plan.reuse == "off":
            return {}
        return context.read(lambda conn: queries.scored_by_request(conn, keys, run))

    services = context.judging
    caller = JudgeCaller(
        endpoints=services.endpoints,
        problems=services.problems,
        deadline=manifest.deadline + retry_storage(context.clock.ahead_s),
        cancelled=lambda: context.must_stop(manifest.batch_id),
        budget=budget,
        flow=Flow.of(manifest.run, manifest.priority, context.config.run_weights),
    )
    scopes = {"store": "", "run": f"run:{manifest.run}", "off": f"batch:{manifest.batch_id}"}
    return Resolver(
        caller=caller,
        reply_cache=services.reply_cache,
        single_flight=services.single_flight,
        record=recorded,
        scope=scopes[plan.reuse],
        batch_id=manifest.batch_id,
    )


def _ask(
    requests: Sequence[JudgeRequest], resolver: Resolver, progress: ChunkProgress, load: ChunkLoad
) -> dict[JudgementKey, Answer]:
    """Answer each request on its own greenlet; identical requests share one."""
    sharing: dict[str, list[JudgeRequest]] = {}
    for request in requests:
        assert request.key is not None
        sharing.setdefault(request.key, []).append(request)
    answers = resolver.known(requests)
    open_keys = [key for key in sharing if key not in answers]
    claims = resolver.claim(open_keys) if open_keys else {}
    load.calls = len(open_keys)

    def answer(key: str) -> None:
        log_values(judge=sharing[key][0].judge.name)
        answers[key] = resolver.answer(sharing[key][0], claimed=claims[key])
        load.calls -= 1
        progress.add()

    # Each greenlet in a copy of this context, which holds the values of log lines.
    calls = [gevent.spawn(contextvars.copy_context().run, answer, key) for key in open_keys]
    gevent.joinall(calls, raise_error=True)
    return {
        request.place: answers[key] if i == 0 else answers[key].joined
        for key, sharers in sharing.items()
        for i, request in enumerate(sharers)
    }
