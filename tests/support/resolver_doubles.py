"""A resolver whose reply cache, single flight, record and endpoint are in memory and scripted."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from oyer.config.reward import EndpointConfig, JudgeConfig, RewardRules
from oyer.models.rows import StoredJudgement
from oyer.protocol.rollout import Rollout
from oyer.protocol.status import Status
from oyer.tasks.coordination.fair_queue import ANY_FLOW, Flow
from oyer.tasks.coordination.lessons import Lessons
from oyer.tasks.coordination.limiter import Limiter
from oyer.tasks.coordination.limiter_state import Permit
from oyer.tasks.coordination.reply_cache import CachedReply, ReplyCache
from oyer.tasks.coordination.single_flight import SingleFlight, WaitResult
from oyer.tasks.endpoint.types import ChatRequest, Failure, Reply, RetryClass
from oyer.tasks.judging.call import EndpointServices, JudgeCaller
from oyer.tasks.judging.judgements import Answer
from oyer.tasks.judging.requests import JudgeRequest, requests_of
from oyer.tasks.judging.resolver import Resolver

REPLY = Reply(
    text="Sound. Final score: 8",
    finish_reason="stop",
    refusal=None,
    prompt_tokens=12,
    completion_tokens=3,
    usage_reported=True,
    model="m-2026",
)
FAILURE = Failure(
    status=Status.UNAVAILABLE,
    retry=RetryClass.NEVER,
    error_class="InternalServerError",
    message="HTTP 500",
    http_status=500,
)
NO_JSON = replace(
    FAILURE, status=Status.REJECTED, http_status=400, refused={"response_format": None}
)


def reply(text: str, **fields: Any) -> Reply:
    return replace(REPLY, text=text, **fields)


def kept(text: str = "Final score: 6") -> CachedReply:
    return CachedReply(text=text, finish_reason="stop", model="m-kept", usage={}, at_s=0.0)


@dataclass
class ScriptedClient:
    """Answers calls from a list, and keeps the requests."""

    results: list[Reply | Failure]
    requests: list[ChatRequest] = field(default_factory=list)

    def complete(self, request: ChatRequest, *, timeout_s: float) -> Reply | Failure:
        self.requests.append(request)
        return self.results.pop(0)


@dataclass
class RecordingLimiter(Limiter):
    """Grants every permit; records which replies were cached when one was released."""

    cache: "MemoryCache"
    kept_at_release: list[list[str]] = field(default_factory=list)

    def acquire(self, estimated_tokens: int, deadline: float, flow: Flow = ANY_FLOW) -> Permit:
        return Permit(0, estimated_tokens)

    def release(self, permit: Permit, **report: Any) -> None:
        self.kept_at_release.append([reply.text for reply in self.cache.replies.values()])


@dataclass
class MemoryCache(ReplyCache):
    """Replies in a dict."""

    replies: dict[str, CachedReply] = field(default_factory=dict)

    def get_many(self, keys: Sequence[str]) -> dict[str, CachedReply]:
        return {key: self.replies[key] for key in keys if key in self.replies}

    def keep(self, key: str, reply: CachedReply) -> None:
        self.replies[key] = reply

    def drop(self, keys: Sequence[str]) -> None:
        for key in keys:
            del self.replies[key]


@dataclass
class MemoryFlight(SingleFlight):
    """Claims in a set; the results of waiting are scripted."""

    cache: MemoryCache
    held: set[str] = field(default_factory=set)
    ends: list[WaitResult | CachedReply] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    taken_over: set[str] = field(default_factory=set)

    def claim(self, keys: Sequence[str]) -> dict[str, bool]:
        free = {key: key not in self.held and key not in self.cache.replies for key in keys}
        self.held |= {key for key in keys if free[key]}
        return free

    def holds(self, key: str) -> bool:
        return key not in self.taken_over

    def release(self, key: str) -> None:
        self.taken_over.discard(key)
        self.held.discard(key)
        self.released.append(key)

    def wait(self, key: str, deadline: float) -> WaitResult:
        end = self.ends.pop(0)
        if isinstance(end, CachedReply):
            self.cache.keep(key, end)
            return "done"
        self.held.discard(key)
        return end


class Bench:
    """A resolver whose surroundings are all in memory."""

    def __init__(self, *results: Reply | Failure, scope: str = "", **judge: Any) -> None:
        self.client = ScriptedClient(list(results))
        self.cache = MemoryCache()
        self.limiter = RecordingLimiter(self.cache)
        self.flight = MemoryFlight(self.cache)
        self.recorded: dict[str, StoredJudgement] = {}
        self.looked_up: list[Sequence[str]] = []
        self.cancelled = False
        self.judge = JudgeConfig.model_validate(
            {"name": "q", "endpoint": "e", "model": "m", "reasks": 0, **judge}
        )
        self.resolver = self.resolver_with(self.cache, self.flight, scope)

    def resolver_with(self, cache: ReplyCache, flight: SingleFlight, scope: str = "") -> Resolver:
        config = EndpointConfig.model_validate({"base_url": "http://h/v1", "max_attempts": 1})
        self.lessons = Lessons("e", config)
        endpoint = EndpointServices(
            config=config, client=self.client, limiter=self.limiter, lessons=self.lessons
        )
        caller = JudgeCaller(
            endpoints={"e": endpoint},
            problems={"gone": "endpoint 'gone' is not in the configuration of this worker"},
            deadline=time.time() + 600,
            cancelled=lambda: self.cancelled,
        )
        return Resolver(
            caller=caller,
            reply_cache=cache,
            single_flight=flight,
            record=self._record,
            scope=scope,
        )

    def _record(self, keys: Sequence[str]) -> Mapping[str, StoredJudgement]:
        self.looked_up.append(keys)
        return {key: self.recorded[key] for key in keys if key in self.recorded}

    def jobs(self, *responses: str, **judge: Any) -> list[JudgeRequest]:
        rollouts = {i: Rollout(prompt="p", response=text) for i, text in enumerate(responses)}
        changed = JudgeConfig.model_validate({**self.judge.model_dump(), **judge})
        return list(requests_of(rollouts, [changed], RewardRules(), {}))

    @property
    def job(self) -> JudgeRequest:
        return self.jobs("42")[0]

    @property
    def key(self) -> str:
        assert self.job.key is not None
        return self.job.key

    def claimed(self) -> Answer:
        """Claim the job's request and answer it."""
        assert self.resolver.claim([self.key]) == {self.key: True}
        return self.resolver.answer(self.job, claimed=True)


def stored(**fields: Any) -> StoredJudgement:
    row: dict[str, Any] = {"reply": "Final score: 5", "score": 5.0, "model": "m-stored"}
    return cast(StoredJudgement, row | fields)
