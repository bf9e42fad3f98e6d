"""How judgements ended: answers, their rows on record, and a chunk's `JudgeResult`; pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import count, takewhile
from typing import Any, Literal
from uuid import uuid4

from oyer.config.reward import JudgeConfig, Price
from oyer.models.rows import AttemptRow, JudgementRow, StoredJudgement
from oyer.protocol.batch_result import MAX_REASON_CHARS
from oyer.protocol.partial_results import JudgeResult
from oyer.protocol.rollout import Message
from oyer.protocol.status import SETTLED, Status
from oyer.tasks.judging.aggregate import Verdict, aggregate
from oyer.tasks.judging.criteria.calls import criteria_results, criterion_rows, joined_calls
from oyer.tasks.judging.request_record import parameters_text, seed_of, turns_of
from oyer.tasks.judging.requests import JudgementKey, JudgeRequest
from oyer.tasks.judging.turns import TURNS, rows_of_turns, verdict_of_turns
from oyer.tasks.parsing.parser import PARSER_VERSION, ParsedScore

Source = Literal["called", "cache", "record", "joined", "none"]
"""Where a judgement's reply came from; `none` if no call was made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptRecord:
    """One HTTP request, for the record."""

    number: int
    """From 1."""
    started_at: datetime
    url_index: int
    http_status: int | None
    error_class: str | None
    """None if the attempt brought a reply."""
    latency_ms: float
    prompt_tokens: int
    completion_tokens: int
    retry_wait_s: float | None
    """Wait before the next attempt, in seconds; None after the last."""
    cached_tokens: int = 0
    """Part of `prompt_tokens`; in the metrics only, as `reasoning_tokens`."""
    reasoning_tokens: int = 0
    """Part of `completion_tokens`."""
    messages: Sequence[Message] = ()
    """As sent."""
    sent: Mapping[str, Any] = field(default_factory=dict)
    """The body that was sent, without its messages."""
    text: str | None = None
    """The reply's text; None without a reply."""
    reasoning: str | None = None
    error: str | None = None
    """The endpoint's or the network's error message; None with a reply."""
    id: str = field(default_factory=lambda: str(uuid4()))
    restored: bool = False
    """Whether it was read from the reply cache: another worker sent it and may have died."""
    hedge: bool = False
    """Whether it is the second request of a call, sent while the first one was in flight."""
    billed: tuple[int, int] | None = None
    """Prompt and completion tokens that count for its cost: an estimate for a reply without usage.
    None: those reported."""

    def cost_usd(self, price: Price | None) -> float:
        """Return its cost, as it counts for the run's budget; 0 without a price."""
        return cost_usd(price, *(self.billed or (self.prompt_tokens, self.completion_tokens)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The outcome of one request: a reply, or why there is none."""

    source: Source
    status: Status
    text: str | None = None
    reasoning: str | None = None
    parsed: ParsedScore | None = None
    """Set with a reply."""
    model: str | None = None
    error: str | None = None
    attempts: Sequence[AttemptRecord] = ()
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def joined(self) -> "Answer":
        """The same answer for a duplicate of the request, without cost."""
        return replace(self, source="joined", attempts=(), started_at=None, finished_at=None)

    @property
    def prompt_tokens(self) -> int:
        """Sum over all attempts."""
        return sum(attempt.prompt_tokens for attempt in self.attempts)

    @property
    def completion_tokens(self) -> int:
        """Sum over all attempts."""
        return sum(attempt.completion_tokens for attempt in self.attempts)

    def cost_usd(self, price: Price | None) -> float:
        """Return the cost of all attempts; 0 without a price."""
        return sum(attempt.cost_usd(price) for attempt in self.attempts)


def no_answer(status: Status, error: str | None) -> Answer:
    """Return the answer of a request for which no call was made."""
    return Answer(source="none", status=status, error=error)


def cost_usd(price: Price | None, prompt_tokens: int, completion_tokens: int) -> float:
    """Return the cost of a call's tokens; 0 without a price."""
    if price is None:
        return 0.0
    return (prompt_tokens * price.prompt_usd + completion_tokens * price.completion_usd) / 1e6


def judgement_row(
    job: JudgeRequest, answer: Answer, *, worker: str, price: Price | None
) -> JudgementRow:
    """Return the row of a judgement."""
    parsed = answer.parsed
    criteria = {"criteria": criterion_rows(job.criteria, parsed)} if job.criteria else {}
    last = answer.attempts[-1] if answer.attempts else None
    latency_ms = None
    if answer.started_at and answer.finished_at:
        latency_ms = (answer.finished_at - answer.started_at).total_seconds() * 1000
    return {
        "rollout_index": job.index,
        "judge": job.judge.name,
        "sample": job.sample,
        "status": parsed.status if parsed else answer.status,
        "score": parsed.score if parsed else None,
        "reply": answer.text,
        "reasoning": answer.reasoning,
        "parsed_layer": parsed.layer if parsed else None,
        "parsed_span": parsed.span if parsed else None,
        "parser_version": PARSER_VERSION if parsed else None,
        "model": answer.model or job.judge.model,
        "endpoint": job.judge.endpoint,
        "rubric_hash": job.rubric_hash,
        "request_hash": job.key,
        "parameters": parameters_text(job, last.sent if last else None) if job.key else None,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "cost_usd": answer.cost_usd(price),
        "latency_ms": latency_ms,
        "attempts": len(answer.attempts),
        "source": answer.source,
        "worker": worker,
        "error": answer.error,
        "view_truncated": job.view_truncated,
        "turn": job.turn,
        "started_at": answer.started_at,
        "finished_at": answer.finished_at,
        **criteria,  # type: ignore[typeddict-item]
    }


def attempt_rows(job: JudgeRequest, answer: Answer, *, price: Price | None) -> list[AttemptRow]:
    """Return a row for each HTTP request made for a judgement."""
    first = job.request.messages if job.request else ()
    return [
        {
            "rollout_index": job.index,
            "judge": job.judge.name,
            "sample": job.sample,
            "id": attempt.id,
            "number": attempt.number,
            "started_at": attempt.started_at,
            "url_index": attempt.url_index,
            "http_status": attempt.http_status,
            "error_class": attempt.error_class,
            "latency_ms": attempt.latency_ms,
            "prompt_tokens": attempt.prompt_tokens,
            "completion_tokens": attempt.completion_tokens,
            "cost_usd": attempt.cost_usd(price),
            "retry_wait_s": attempt.retry_wait_s,
            "parameters": parameters_text(job, attempt.sent),
            "seed": seed_of(attempt.sent),
            "turns": turns_of(first, attempt.messages),
            "reply": attempt.text,
            "reasoning": attempt.reasoning,
            "error": attempt.error,
            "hedge": attempt.hedge or None,
        }
        for attempt in answer.attempts
    ]


def key_of(row: JudgementRow | StoredJudgement) -> JudgementKey:
    """Return which judgement of its batch a row is."""
    return row["rollout_index"], row["judge"], row["sample"]


def settled_rows(rows: Iterable[StoredJudgement]) -> dict[JudgementKey, StoredJudgement]:
    """Return the judgements with a final status; the others are judged again."""
    return {key_of(row): row for row in rows if row["status"] in SETTLED}


def verdicts_on(
    rows: Mapping[JudgementKey, JudgementRow], judge: JudgeConfig, indices: Iterable[int]
) -> dict[int, Verdict]:
    """Aggregate a judge's samples to one verdict for each rollout."""
    return {i: _verdict_on(rows, judge, i) for i in indices}


def _verdict_on(
    rows: Mapping[JudgementKey, JudgementRow], judge: JudgeConfig, index: int
) -> Verdict:
    numbers = takewhile(lambda number: (index, judge.name, number) in rows, count())
    verdict = _verdict_of([rows[index, judge.name, number] for number in numbers], judge)
    if judge.view != "each_turn":
        return verdict
    earlier = [_verdict_of(found, judge) for found in rows_of_turns(rows, judge, index)]
    return verdict_of_turns([*earlier, verdict])


def _verdict_of(found: Sequence[JudgementRow], judge: JudgeConfig) -> Verdict:
    """Aggregate the judgements of one response or state, ordered by sample number."""
    if not judge.gives_verdicts or "criteria" not in found[0]:
        return aggregate(found[: judge.samples], judge)
    by_sample = [found[k :: judge.samples] for k in range(judge.samples)]
    verdict = aggregate([joined_calls(made, judge) for made in by_sample], judge)
    return replace(verdict, criteria=criteria_results(by_sample))


def judge_result(chunk: int, verdicts: Mapping[str, Mapping[int, Verdict]]) -> JudgeResult:
    """Return a chunk's verdicts, by judge and rollout index, in the form that `combine` reads."""
    ordered = {name: [found[i] for i in sorted(found)] for name, found in verdicts.items()}
    errors: dict[str, str] = {}
    for verdict in (verdict for found in ordered.values() for verdict in found):
        if verdict.error is not None:
            errors.setdefault(verdict.status, verdict.error)
    return JudgeResult(
        chunk=chunk,
        scores={name: [verdict.score for verdict in found] for name, found in ordered.items()},
        statuses={name: [verdict.status for verdict in found] for name, found in ordered.items()},
        errors=errors,
        criteria={
            name: [verdict.criteria for verdict in found]
            for name, found in ordered.items()
            if any(verdict.criteria for verdict in found)
        },
        turn_scores=next((turns for found in ordered.values() if any(turns := _turns(found))), []),
    )


def _turns(verdicts: Iterable[Verdict]) -> list[list[float | None]]:
    return [verdict.turn_scores for verdict in verdicts]


def with_observations(
    result: JudgeResult,
    rows: Mapping[JudgementKey, JudgementRow],
    judges: Sequence[JudgeConfig],
    sample: Iterable[int],
) -> JudgeResult:
    """Add the latencies of the judgements called for, and the replies on some rollouts.

    Args:
        rows: of the chunk.
        sample: rollouts whose replies are added, cut to `MAX_REASON_CHARS`; with several judges,
            each reply follows its judge's name. Those of other chunks are left out.
    """
    latencies_ms = [
        round(row.get("latency_ms") or 0.0)
        for row in rows.values()
        if row["source"] == "called" and row.get("latency_ms") is not None
    ]
    reasons = {}
    for i in sample:
        replies = {judge.name: _reply(rows, judge, i) for judge in judges}
        texts = [
            text if len(judges) == 1 else f"{name}: {text}"
            for name, text in replies.items()
            if text
        ]
        if texts:
            most = MAX_REASON_CHARS // len(texts)
            reasons[i] = "\n".join(text[:most] for text in texts)
    return replace(result, latencies_ms=latencies_ms, reasons=reasons)


def _reply(rows: Mapping[JudgementKey, JudgementRow], judge: JudgeConfig, index: int) -> str | None:
    """Return a judge's first reply on a rollout, or that of its fallback."""
    names = [judge.name] if judge.substitute is None else [judge.name, judge.substitute.name]
    found = (rows.get((index, name, 0)) for name in names)
    return next((row["reply"] for row in found if row is not None and row.get("reply")), None)


def recorded_result(
    chunk: int,
    indices: Sequence[int],
    judges: Sequence[JudgeConfig],
    rows: Mapping[JudgementKey, StoredJudgement],
    sample: Iterable[int] = (),
) -> JudgeResult | None:
    """Build a chunk's result from the record.

    Args:
        rows: the batch's. If all of a judge's are settled, its fallback was not needed.
        sample: see `with_observations`.

    Returns:
        None if any judgement is missing, because the chunk may be unfinished.
    """
    wanted = {(i, judge.name, k) for judge in judges for k in range(judge.samples) for i in indices}
    names = {name for judge in judges for name in (judge.name, judge.name + TURNS)}
    # Calls about further criteria and turns: a chunk is recorded as a whole, so all of them are there.
    wanted |= {key for key in rows if key[0] in indices and key[1] in names}
    settled = settled_rows(rows.values())
    if not wanted or not settled.keys() >= wanted:
        return None
    found = judge_result(
        chunk, {judge.name: verdicts_on(settled, judge, indices) for judge in judges}
    )
    own = {key: row for key, row in settled.items() if key[0] in indices}
    return with_observations(found, own, judges, sample)
