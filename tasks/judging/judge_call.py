"""One judgement by a judge: its call, resent without refused fields, and its re-asks."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from oyer.config.reward import JudgeConfig
from oyer.protocol.status import Status
from oyer.tasks.coordination.reply_cache import CachedReply
from oyer.tasks.endpoint.types import ChatRequest, Reply
from oyer.tasks.judging.call import CallResult, Claim, JudgeCaller
from oyer.tasks.judging.judgements import Answer, AttemptRecord, no_answer
from oyer.tasks.judging.requests import JudgeRequest
from oyer.tasks.parsing.normalize import normalise, strip_thinking, unwrap
from oyer.tasks.parsing.parser import ParsedScore

_QUOTED_CHARS = 120
"""Characters that an error quotes from the end of a reply without a score."""


def judge_call(caller: JudgeCaller, job: JudgeRequest, claim: Claim | None = None) -> Answer:
    """Call for a judgement; whatever the endpoint does is an `Answer`, never an exception.

    Args:
        claim: checked before each attempt; an answer with `call.TAKEN_OVER` says that it was lost.
    """
    assert job.request is not None
    judge = job.judge
    endpoint = caller.endpoints.get(judge.endpoint)
    if endpoint is None:
        return no_answer(Status.REJECTED, caller.problems[judge.endpoint])
    if caller.budget is not None and judge.model not in endpoint.config.prices:
        return no_answer(
            Status.REJECTED,
            f"endpoint {judge.endpoint!r} has no price for {judge.model!r} on this worker, so"
            " that its calls cannot be kept within the budget; add it under `prices`",
        )
    answer = _call_without_refused_fields(caller, job, job.request, claim)
    for left in reversed(range(judge.reasks)):
        if answer.parsed is None or answer.parsed.status is not Status.UNPARSEABLE:
            break
        question, reading = job.reading.reask(answer.parsed, last=left == 0)
        request = reask(job.request, answer.text or "", question)
        job = replace(job, special_reading=reading)
        again = _call_without_refused_fields(caller, job, request, claim)
        # If the re-ask fails, the reply that was not parseable remains the answer.
        answer = replace(
            again if again.parsed is not None else answer,
            attempts=joined_attempts(answer.attempts, again.attempts),
            started_at=answer.started_at,
            finished_at=again.finished_at,
        )
    return _settled(answer, job, claim)


def _settled(answer: Answer, job: JudgeRequest, claim: Claim | None) -> Answer:
    """Score a reply that lacks something but has enough, once a re-ask brought nothing more."""
    if answer.parsed is None:
        return answer
    parsed = job.reading.settled(answer.parsed)
    if parsed is answer.parsed:
        return answer
    if claim is not None:
        # The call could not cache it: whether a re-ask completes the reply was still open.
        claim.reply_cache.keep(
            claim.key,
            CachedReply(
                text=answer.text or "",
                finish_reason="stop",
                model=answer.model or job.judge.model,
                usage={
                    "prompt_tokens": answer.prompt_tokens,
                    "completion_tokens": answer.completion_tokens,
                },
                at_s=time.time(),
                reasoning=answer.reasoning,
            ),
        )
    return replace(answer, parsed=parsed, status=parsed.status, error=None)


def reask(request: ChatRequest, reply: str, question: str) -> ChatRequest:
    """Continue the conversation with the reply and a question for what it lacks.

    A reply without visible text returns the request unchanged: many endpoints refuse an empty
    assistant message, and chat templates that drop thinking make thinking alone an empty one.
    """
    visible = strip_thinking(normalise(reply))
    if visible is None or not unwrap(visible).strip():
        return request
    return replace(
        request,
        messages=[
            *request.messages,
            {"role": "assistant", "content": reply},
            {"role": "user", "content": question},
        ],
    )


def joined_attempts(
    before: Sequence[AttemptRecord], after: Sequence[AttemptRecord]
) -> tuple[AttemptRecord, ...]:
    """Concatenate the attempts of two calls and number them consecutively."""
    return (
        *before,
        *(replace(attempt, number=attempt.number + len(before)) for attempt in after),
    )


def _call_without_refused_fields(
    caller: JudgeCaller, job: JudgeRequest, request: ChatRequest, claim: Claim | None
) -> Answer:
    """Call, and call again without fields that the endpoint refuses."""
    lessons = caller.endpoints[job.judge.endpoint].lessons
    attempts: tuple[AttemptRecord, ...] = ()
    while True:
        request = replace(request, refused=lessons.refused(request.model))
        result = caller.call(job, request, claim)
        attempts = joined_attempts(attempts, result.attempts)
        refused = result.failure.refused if result.failure else {}
        if not refused or lessons.learn(request.model, refused) == request.refused:
            return _answer(result, attempts, job.judge)


def _answer(result: CallResult, attempts: tuple[AttemptRecord, ...], judge: JudgeConfig) -> Answer:
    answer = Answer(
        source="called" if attempts else "none",
        status=result.status,
        error=result.failure.message if result.failure else result.stop_reason,
        attempts=attempts,
        started_at=attempts[0].started_at if attempts else None,
        finished_at=datetime.now(UTC),
    )
    if result.reply is None or result.parsed is None:
        return answer
    return replace(
        answer,
        text=result.reply.text if result.parsed.reply is None else result.parsed.reply,
        reasoning=result.reply.reasoning,
        parsed=result.parsed,
        model=result.reply.model or judge.model,
        error=_why_no_score(result.reply, result.parsed, judge),
    )


def _why_no_score(reply: Reply, parsed: ParsedScore, judge: JudgeConfig) -> str | None:
    if parsed.status is Status.SCORED:
        return None
    text = reply.text.rpartition("</think>")[2].strip()
    if parsed.status is Status.TRUNCATED and (
        (reply.thought and not text) or text.startswith("<think>")
    ):
        limit = "" if judge.max_tokens is None else f" ({judge.max_tokens})"
        return (
            f"no score: the judge spent all of max_tokens{limit} on thinking; raise the judge's"
            " max_tokens, or lower its reasoning_effort"
        )
    if parsed.layer in ("finish_reason", "refusal"):
        # `span` is the endpoint's finish reason: it names the limit or filter that ended the reply.
        return f"no score: {parsed.layer} {parsed.span!r}"
    if parsed.problem:
        return f"no score: {parsed.problem}"
    # The verdict is expected at the end.
    end = " ".join(reply.text.split())
    end = end if len(end) <= _QUOTED_CHARS else f"…{end[-_QUOTED_CHARS:]}"
    why = "" if parsed.layer == "none" else f" ({parsed.layer})"
    return f"no score{why} in the reply {end!r}"
