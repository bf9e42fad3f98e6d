"""Reaches an answer for every request of a chunk: cached, on record, joined, or called for.

Identical requests are answered once, whoever asks: within the chunk by grouping, over all
processes by single flight. Nothing here raises for what an endpoint does.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Protocol

from oyer.config.reward import JudgeConfig
from oyer.models.rows import StoredJudgement
from oyer.protocol.status import Status
from oyer.tasks.coordination.reply_cache import CachedReply
from oyer.tasks.endpoint.types import Reply
from oyer.tasks.judging.call import AttemptRecord
from oyer.tasks.judging.gate import TAKEN_OVER
from oyer.tasks.judging.judge_call import JudgeCaller, joined_attempts, no_answer
from oyer.tasks.judging.judgements import LOGPROBS, Answer, Source
from oyer.tasks.judging.requests import JudgeRequest
from oyer.tasks.parsing.parser import ParsedScore, parse_score

Record = Callable[[Sequence[str]], Mapping[str, StoredJudgement]]
"""Looks scored judgements up by request hash."""


class Cache(Protocol):
    """`oyer.tasks.coordination.reply_cache.ReplyCache`."""

    def get_many(self, keys: Sequence[str]) -> dict[str, CachedReply]:
        """Return the replies there are."""

    def keep(self, key: str, reply: CachedReply) -> None:
        """Keep a reply; it is there when this returns."""

    def drop(self, keys: Sequence[str]) -> None:
        """Delete replies."""

    def fade(self, keys: Sequence[str]) -> None:
        """Let replies go soon."""


class Flight(Protocol):
    """`oyer.tasks.coordination.single_flight.SingleFlight`."""

    def claim(self, keys: Sequence[str]) -> dict[str, bool]:
        """Say of each request whether the caller is to pay for it."""

    def done(self, key: str) -> None:
        """Give a claimed request up."""

    def ours(self, key: str) -> bool:
        """Say whether a claimed request is still the caller's."""

    def wait(self, key: str, deadline: float) -> str:
        """Wait for a request that somebody else has claimed."""


@dataclass(frozen=True, kw_only=True)
class Resolver:
    """Answers the requests of one batch's chunk."""

    asker: JudgeCaller
    cache: Cache
    flight: Flight
    record: Record
    scope: str
    """Reply sharing ends at this name: empty for the whole store, else the run or the batch."""

    def known(self, jobs: Sequence[JudgeRequest]) -> dict[str, Answer]:
        """Look up what needs no call, in two round trips for the whole chunk."""
        judges = {job.key: job.judge for job in jobs if job.key}
        shared = {self._shared(key): key for key in judges}
        cached = self.cache.get_many(list(shared))
        answers: dict[str, Answer] = {}
        replaced = []
        for name, reply in cached.items():
            key = shared[name]
            answer = _kept(reply, judges[key], "cache")
            if not self._is_current(reply.model, judges[key]):
                replaced.append(name)
            elif answer is not None:
                answers[key] = answer
        if replaced:
            # A kept reply would be taken for that of whoever pays for the request now.
            self.cache.drop(replaced)
        rest = [key for key in judges if key not in answers]
        for key, row in self.record(rest).items() if rest else ():
            answer = _recorded(row, judges[key])
            if answer is not None and self._is_current(answer.model, judges[key]):
                answers[key] = answer
        return answers

    def claim(self, keys: Sequence[str]) -> dict[str, bool]:
        """Say which of these requests this worker pays for."""
        claims = self.flight.claim([self._shared(key) for key in keys])
        return {key: claims[self._shared(key)] for key in keys}

    def answer(self, job: JudgeRequest, *, claimed: bool) -> Answer:
        """Call for a claimed request; for another's, wait, and take over if its owner is gone."""
        assert job.key is not None
        shared = self._shared(job.key)
        made: tuple[AttemptRecord, ...] = ()
        while True:
            answer = None if claimed else self._joined(job, shared)
            if answer is None:
                answer = self._asked(job, shared)
            answer = replace(answer, attempts=joined_attempts(made, answer.attempts))
            if answer.error != TAKEN_OVER:
                return answer
            made, claimed = tuple(answer.attempts), False

    def _joined(self, job: JudgeRequest, shared: str) -> Answer | None:
        """Wait for another's reply; None where the request is this worker's to pay for."""
        while True:
            if self.flight.wait(shared, self.asker.deadline) == "expired":
                return no_answer(Status.EXPIRED, "the batch's deadline has passed")
            reply = self.cache.get_many([shared]).get(shared)
            if reply is not None:
                # One that its payer could read and this worker cannot is nobody's to claim:
                # another is paid for.
                return _kept(reply, job.judge, "joined")
            if self.flight.claim([shared])[shared]:
                return None

    def _asked(self, job: JudgeRequest, shared: str) -> Answer:
        try:
            return self.asker.ask(
                job,
                ours=lambda: self.flight.ours(shared),
                keep=lambda reply, reading: self.cache.keep(shared, _to_keep(reply, reading, job)),
            )
        finally:
            self.flight.done(shared)

    def recorded(self, jobs: Sequence[JudgeRequest]) -> None:
        """Note that the answers to these requests are on record, where all will look for them."""
        self.cache.fade([self._shared(job.key) for job in jobs if job.key is not None])

    def _is_current(self, model: str | None, judge: JudgeConfig) -> bool:
        """Whether a reply is of the model that the endpoint now reports for the judge's model."""
        endpoint = self.asker.endpoints.get(judge.endpoint)
        if judge.version is not None or endpoint is None:
            return True
        now = endpoint.lessons.reported(judge.model)
        return now is None or model is None or model == now

    def _shared(self, key: str) -> str:
        return sha256(f"{self.scope}\n{key}".encode()).hexdigest() if self.scope else key


def _kept(reply: CachedReply, judge: JudgeConfig, source: Source) -> Answer | None:
    """Read a kept reply anew; one that today's parser cannot read is no answer."""
    reading = _read_again(reply.text, judge, reply.expected_score)
    if reading is None:
        return None
    return Answer(
        source=source,
        status=Status.SCORED,
        text=reply.text,
        reasoning=reply.reasoning,
        reading=reading,
        model=reply.model,
    )


def _recorded(row: StoredJudgement, judge: JudgeConfig) -> Answer | None:
    text = row.get("reply") or ""
    expected = row.get("score") if row.get("parsed_layer") == LOGPROBS else None
    reading = _read_again(text, judge, expected)
    if reading is None:
        return None
    return Answer(
        source="record",
        status=Status.SCORED,
        text=text,
        reasoning=row.get("reasoning"),
        reading=reading,
        model=row.get("model"),
    )


def _read_again(text: str, judge: JudgeConfig, expected: float | None) -> ParsedScore | None:
    reading = parse_score(text, scale=judge.scale)
    if reading.status is not Status.SCORED:
        return None
    if expected is None or not judge.expected_score:
        return reading
    return replace(reading, score=expected, layer=LOGPROBS)


def _to_keep(reply: Reply, reading: ParsedScore, job: JudgeRequest) -> CachedReply:
    return CachedReply(
        text=reply.text,
        finish_reason="stop",
        model=reply.model or job.judge.model,
        usage={
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
        },
        at_s=time.time(),
        expected_score=reading.score if reading.layer == LOGPROBS else None,
        reasoning=reply.reasoning,
    )
