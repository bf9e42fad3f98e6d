"""Answers the requests of a chunk: from the reply cache, from the record, or by a call.

Identical requests of all processes are called for once, by single flight. An endpoint's failure is
an answer with a status, never an exception.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import sha256

from oyer.config.reward import JudgeConfig
from oyer.models.rows import StoredJudgement
from oyer.protocol.status import Status
from oyer.tasks.coordination.reply_cache import CachedReply, ReplyCache
from oyer.tasks.coordination.single_flight import SingleFlight
from oyer.tasks.judging.attempt import restored_attempts
from oyer.tasks.judging.call import DEADLINE_PASSED, TAKEN_OVER, Claim, JudgeCaller
from oyer.tasks.judging.judge_call import joined_attempts, judge_call
from oyer.tasks.judging.judgements import Answer, AttemptRecord, Source, no_answer
from oyer.tasks.judging.reading import LOGPROBS
from oyer.tasks.judging.requests import JudgeRequest

Record = Callable[[Sequence[str]], Mapping[str, StoredJudgement]]
"""Returns the recorded, scored judgements by request hash."""


@dataclass(frozen=True, kw_only=True)
class Resolver:
    """Answers the requests of one batch's chunk."""

    caller: JudgeCaller
    reply_cache: ReplyCache
    single_flight: SingleFlight
    record: Record
    scope: str
    """Replies are shared within this name: empty for the whole store, else the run or the batch."""
    batch_id: str = ""
    """The batch of the requests; empty restores no attempts from the reply cache."""

    def known(self, jobs: Sequence[JudgeRequest]) -> dict[str, Answer]:
        """Return the answers that need no call, by request key, in two round trips per chunk."""
        asked: dict[str, JudgeRequest] = {}
        for job in jobs:
            if job.key:
                # Of equal requests, the first one is called for.
                asked.setdefault(job.key, job)
        scoped = {self._scoped(key): key for key in asked}
        answers: dict[str, Answer] = {}
        outdated = []
        for scoped_key, reply in self.reply_cache.get_many(list(scoped)).items():
            key = scoped[scoped_key]
            answer = self._from_cache(reply, asked[key], "cache")
            if not self._is_current(reply.model, asked[key].judge):
                outdated.append(scoped_key)
            elif answer is not None:
                answers[key] = answer
        if outdated:
            # A process waiting for the new reply would take the outdated one for it.
            self.reply_cache.drop(outdated)
        rest = [key for key in asked if key not in answers]
        for key, row in self.record(rest).items() if rest else ():
            answer = _from_record(row, asked[key])
            if answer is not None and self._is_current(answer.model, asked[key].judge):
                answers[key] = answer
        return answers

    def claim(self, keys: Sequence[str]) -> dict[str, bool]:
        """Claim requests; returns for each whether this worker is to call for it."""
        claims = self.single_flight.claim([self._scoped(key) for key in keys])
        return {key: claims[self._scoped(key)] for key in keys}

    def answer(self, job: JudgeRequest, *, claimed: bool) -> Answer:
        """Call for a claimed request; else wait for its reply, and call if its owner is gone."""
        assert job.key is not None
        claim = Claim(self._scoped(job.key), self.single_flight, self.reply_cache, self.batch_id)
        made: tuple[AttemptRecord, ...] = ()
        while True:
            answer = None if claimed else self._joined(job, claim.key)
            if answer is None:
                try:
                    answer = judge_call(self.caller, job, claim)
                finally:
                    self.single_flight.release(claim.key)
            answer = replace(answer, attempts=joined_attempts(made, answer.attempts))
            if answer.error != TAKEN_OVER.reason:
                return answer
            made, claimed = tuple(answer.attempts), False

    def _joined(self, job: JudgeRequest, scoped_key: str) -> Answer | None:
        """Wait for another process's reply; None once this worker is to call for the request."""
        while True:
            if self.single_flight.wait(scoped_key, self.caller.deadline) == "expired":
                return no_answer(DEADLINE_PASSED.status, DEADLINE_PASSED.reason)
            reply = self.reply_cache.get_many([scoped_key]).get(scoped_key)
            if reply is not None:
                # A cached reply blocks `claim`. If this worker's parser cannot read it, as during
                # an upgrade, call without a claim.
                return self._from_cache(reply, job, "joined")
            if self.single_flight.claim([scoped_key])[scoped_key]:
                return None

    def expire_recorded(self, jobs: Sequence[JudgeRequest]) -> None:
        """Let cached replies to these requests expire soon: their answers are on record now."""
        self.reply_cache.expire_soon([self._scoped(job.key) for job in jobs if job.key is not None])

    def _is_current(self, model: str | None, judge: JudgeConfig) -> bool:
        """Whether a reply came from the model that the endpoint now reports for `judge.model`."""
        endpoint = self.caller.endpoints.get(judge.endpoint)
        if judge.version is not None or endpoint is None:
            return True
        reported = endpoint.lessons.reported(judge.model)
        return reported is None or model is None or model == reported

    def _from_cache(self, reply: CachedReply, job: JudgeRequest, source: Source) -> Answer | None:
        """Read a cached reply again; None if the present parser finds no score in it."""
        parsed = job.reading.read_again(reply.text, reply.expected_score)
        if parsed is None:
            return None
        answer = Answer(
            source=source,
            status=Status.SCORED,
            text=reply.text,
            reasoning=reply.reasoning,
            parsed=parsed,
            model=reply.model,
        )
        attempts = restored_attempts(reply, job, self.batch_id)
        if not attempts:
            return answer
        (made,) = attempts
        ended_at = made.started_at + timedelta(milliseconds=made.latency_ms)
        return replace(
            answer,
            source="called",
            attempts=attempts,
            started_at=made.started_at,
            finished_at=ended_at,
        )

    def _scoped(self, key: str) -> str:
        return sha256(f"{self.scope}\n{key}".encode()).hexdigest() if self.scope else key


def _from_record(row: StoredJudgement, job: JudgeRequest) -> Answer | None:
    text = row.get("reply") or ""
    expected = row.get("score") if row.get("parsed_layer") == LOGPROBS else None
    parsed = job.reading.read_again(text, expected)
    if parsed is None:
        return None
    return Answer(
        source="record",
        status=Status.SCORED,
        text=text,
        reasoning=row.get("reasoning"),
        parsed=parsed,
        model=row.get("model"),
    )
