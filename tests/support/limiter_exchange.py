"""Workers that exchange with the real `limiter.lua` one step at a time; no thread, no waiting."""

import json
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from redis import Redis

from oyer.protocol.redis_client import load_script
from oyer.tasks.coordination.adaptive import Evidence
from oyer.tasks.coordination.limiter_state import LimiterState, Limits, Permit

LIMITS = Limits(
    max_in_flight=8,
    requests=0,
    tokens=0,
    adaptive=False,
    share=0.5,
    window_s=60.0,
    worker_ttl_s=3600.0,
    delay_s=1.0,
)
names = count()
"""Numbers for workers and keys that are used once."""


@dataclass
class Worker:
    """A limiter state, its calls, and a clock that only the test moves."""

    redis: Redis
    key: str
    limits: Limits
    now_s: float = 1000.0
    waiting: list[int] = field(default_factory=list)
    calls: list[Permit] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = LimiterState(self.limits, f"w{next(names)}", clock_s=0.0)
        self.state.open(self.now_s)
        self.script = load_script(self.redis, "oyer.tasks.coordination", "limiter")

    def exchange(self, *, heard: bool = True, answered: bool = True, leave: bool = False) -> Any:
        """Exchange with Redis; the request or the answer may be lost."""
        self.state.want(len(self.waiting))
        ask = self.state.ask(self.now_s, self.waiting, leave=leave)
        if not heard:
            return self.state.fail()
        reply = json.loads(self.script(keys=[self.key], args=[json.dumps(ask)]))
        if not answered:
            return self.state.fail()
        return leave or self.state.take(reply, self.now_s, self.now_s)

    def begin(self) -> int:
        """Begin as many of the waiting calls as may; return how many."""
        begun = 0
        while self.waiting:
            permit = self.state.begin(self.now_s, self.waiting[0])
            if permit is None:
                break
            del self.waiting[0]
            self.calls.append(permit)
            begun += 1
        return begun

    def end(
        self,
        used_tokens: int | None = None,
        cool_s: float = 0.0,
        evidence: Evidence = Evidence(),  # noqa: B008 - frozen
    ) -> None:
        self.state.end(self.now_s, self.calls.pop(), used_tokens, evidence, cool_s)


@dataclass
class SharedEndpoint:
    """Workers that share one endpoint."""

    redis: Redis
    key: str

    def worker(self, **changed: Any) -> Worker:
        return Worker(self.redis, self.key, replace(LIMITS, **changed))
