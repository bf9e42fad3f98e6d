"""Asks a judge for one verdict: in JSON or in words, once more where the verdict line is missing.

- Nothing here raises for what an endpoint does; each way to end is an `Answer`.
- A reply is kept before its permit is given back, so that a worker's death costs no more calls than
  may be in flight.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from oyer.config.reward import JudgeConfig
from oyer.protocol.status import Status
from oyer.tasks.coordination.budget import RunBudget
from oyer.tasks.endpoint.types import ChatRequest, Reply
from oyer.tasks.judging.call import AttemptRecord, CallResult, call
from oyer.tasks.judging.gate import EndpointServices, Gate
from oyer.tasks.judging.judgements import LOGPROBS, Answer
from oyer.tasks.judging.reask import reask
from oyer.tasks.judging.requests import JudgeRequest
from oyer.tasks.parsing.expected_score import expected_score
from oyer.tasks.parsing.parser import ParsedScore, parse_score

_RANDOM = random.Random()

Keep = Callable[[Reply, ParsedScore], None]
"""Takes a reply in that holds a score."""

_QUOTED_CHARS = 120
"""How much of the end of a reply without a score an error quotes."""


@dataclass(frozen=True, kw_only=True)
class JudgeCaller:
    """Makes the calls of one batch's chunk."""

    endpoints: Mapping[str, EndpointServices]
    problems: Mapping[str, str]
    """Why an endpoint that a judge names cannot be called from this worker."""
    deadline: float
    """Epoch seconds after which no call is begun."""
    cancelled: Callable[[], bool]
    purse: RunBudget | None = None
    """What the run may still spend; None where it has no budget."""

    def ask(
        self,
        job: JudgeRequest,
        ours: Callable[[], bool] = lambda: True,
        keep: Keep = lambda reply, reading: None,
    ) -> Answer:
        """Reach an answer to a job's request.

        Args:
            ours: looked at before each call; once false, the error is `gate.TAKEN_OVER`.
            keep: called with the reply that holds the score, while it still counts as in flight.
        """
        assert job.request is not None
        judge = job.judge
        endpoint = self.endpoints.get(judge.endpoint)
        if endpoint is None:
            return no_answer(Status.REJECTED, self.problems[judge.endpoint])
        if self.purse is not None and judge.model not in endpoint.config.prices:
            return no_answer(
                Status.REJECTED,
                f"endpoint {judge.endpoint!r} has no price for {judge.model!r} on this worker, so"
                " that its calls cannot be kept within the budget; add it under `prices`",
            )
        calls = _Calls(self, endpoint, job, ours, keep)
        answer = calls.make(job.request)
        for _ in range(judge.reasks):
            if answer.reading is None or answer.reading.status is not Status.UNPARSEABLE:
                break
            again = calls.make(reask(job.request, answer.text or "", judge))
            # A re-ask that failed leaves the reply that was there, unread as it is.
            answer = replace(
                again if again.reading is not None else answer,
                attempts=joined_attempts(answer.attempts, again.attempts),
                started_at=answer.started_at,
                finished_at=again.finished_at,
            )
        return answer


@dataclass
class _Calls:
    """The calls that one job may take."""

    asker: JudgeCaller
    endpoint: EndpointServices
    job: JudgeRequest
    ours: Callable[[], bool]
    keep: Keep
    reading: ParsedScore | None = None
    """Of the last reply."""

    def make(self, request: ChatRequest) -> Answer:
        """Call as configured, and again without the fields that the endpoint refuses."""
        lessons = self.endpoint.lessons
        made: tuple[AttemptRecord, ...] = ()
        while True:
            request = replace(request, refused=lessons.refused(request.model))
            outcome = self._call(request)
            made = joined_attempts(made, outcome.attempts)
            refused = outcome.failure.refused if outcome.failure else {}
            if not refused or lessons.learn(request.model, refused) == request.refused:
                break
        return _answer(replace(outcome, attempts=made), self.reading, self.job.judge)

    def _call(self, request: ChatRequest) -> CallResult:
        self.reading = None
        config = self.endpoint.config
        gate = Gate(
            endpoint=self.endpoint,
            request=request,
            first=self.job.sample == 0,
            cancelled=self.asker.cancelled,
            ours=self.ours,
            arrived=self._arrived,
            purse=self.asker.purse,
            price=config.prices.get(request.model),
        )
        outcome = call(
            gate,
            request,
            permits=gate,
            deadline=self.asker.deadline,
            timeout_s=config.timeout_s,
            max_attempts=config.max_attempts,
            clock=time.time,
            sleep=time.sleep,
            rng=_RANDOM,
        )
        if gate.refusal is None:
            return outcome
        status, reason = gate.refusal
        return replace(outcome, status=status, failure=None, stop_reason=reason)

    def _arrived(self, reply: Reply) -> None:
        self.reading = read_reply(reply, self.job.judge)
        self.endpoint.lessons.report(self.job.judge.model, reply.model)
        if self.reading.status is Status.SCORED:
            self.keep(reply, self.reading)


def no_answer(status: Status, error: str) -> Answer:
    """Say why nothing was asked."""
    return Answer(source="none", status=status, error=error)


def joined_attempts(
    before: Sequence[AttemptRecord], after: Sequence[AttemptRecord]
) -> tuple[AttemptRecord, ...]:
    """Number the attempts of two calls through."""
    return (
        *before,
        *(replace(attempt, number=attempt.number + len(before)) for attempt in after),
    )


def _answer(outcome: CallResult, reading: ParsedScore | None, judge: JudgeConfig) -> Answer:
    attempts = outcome.attempts
    started_at = attempts[0].started_at if attempts else None
    now = datetime.now(UTC)
    if outcome.reply is None or reading is None:
        return Answer(
            source="called" if attempts else "none",
            status=outcome.status,
            error=outcome.failure.message if outcome.failure else outcome.stop_reason,
            attempts=attempts,
            started_at=started_at,
            finished_at=now,
        )
    return Answer(
        source="called",
        status=reading.status,
        text=outcome.reply.text,
        reasoning=outcome.reply.reasoning,
        reading=reading,
        model=outcome.reply.model or judge.model,
        error=_why_no_score(outcome.reply, reading, judge),
        attempts=attempts,
        started_at=started_at,
        finished_at=now,
    )


def _why_no_score(reply: Reply, reading: ParsedScore, judge: JudgeConfig) -> str | None:
    if reading.status is Status.SCORED:
        return None
    text = reply.text.rpartition("</think>")[2].strip()
    if reading.status is Status.TRUNCATED and (
        (reply.thought and not text) or text.startswith("<think>")
    ):
        limit = "" if judge.max_tokens is None else f" ({judge.max_tokens})"
        return (
            f"no score: the judge spent all of max_tokens{limit} on thinking; raise the judge's"
            " max_tokens, or lower its reasoning_effort"
        )
    if reading.layer in ("finish_reason", "refusal"):
        # The endpoint's word tells a user which limit or filter ended the reply.
        return f"no score: {reading.layer} {reading.span!r}"
    # The verdict should be at the end.
    end = " ".join(reply.text.split())
    end = end if len(end) <= _QUOTED_CHARS else f"…{end[-_QUOTED_CHARS:]}"
    why = "" if reading.layer == "none" else f" ({reading.layer})"
    return f"no score{why} in the reply {end!r}"


def read_reply(reply: Reply, judge: JudgeConfig) -> ParsedScore:
    """Read a reply as its judge is configured: the score that it states, or the expected one."""
    reading = parse_score(
        reply.text, scale=judge.scale, finish_reason=reply.finish_reason, refusal=reply.refusal
    )
    if not judge.expected_score or reading.status is not Status.SCORED or not reply.token_logprobs:
        return reading
    tokens = [
        {
            "token": token.token,
            "logprob": token.logprob,
            "top_logprobs": [{"token": name, "logprob": p} for name, p in token.top],
        }
        for token in reply.token_logprobs
    ]
    expected = expected_score(tokens, judge.scale, reading.score)
    return reading if expected is None else replace(reading, score=expected, layer=LOGPROBS)
