"""What one call must pass before it is made: the endpoint's limits, a cancelled batch, the budget.

A gate is the permits and the client of one call, so that each of its attempts is reserved for
before it is made and settled once it has ended.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from oyer.config.reward import EndpointConfig, Price
from oyer.protocol.status import Status
from oyer.tasks.coordination.budget import RunBudget
from oyer.tasks.coordination.lessons import Lessons
from oyer.tasks.endpoint.types import ChatRequest, Client, Failure, Reply
from oyer.tasks.judging.call import (
    BYTES_PER_TOKEN,
    UNLIMITED_REPLY_TOKENS,
    Permits,
    estimate_tokens,
)
from oyer.tasks.judging.judgements import cost_usd

TAKEN_OVER = "another worker has taken this request over"
"""Why a call is not made whose claim was lost; the other's reply is waited for then."""

_REFUSALS = {
    "soft": (
        Status.OVER_BUDGET,
        "the run's spending has passed the soft mark of its budget: one sample for each judgement",
    ),
    "hard": (
        Status.OVER_BUDGET,
        "the run's budget is spent: raise budget.usd, or go on without judges",
    ),
    "expired": (Status.EXPIRED, "the batch's deadline has passed"),
}
"""What becomes of a call that the budget refuses."""


@dataclass(frozen=True, kw_only=True)
class EndpointServices:
    """What calling one endpoint takes."""

    config: EndpointConfig
    client: Client
    permits: Permits
    lessons: Lessons
    """What the endpoint's models refuse, and what they are called in replies."""


@dataclass(kw_only=True)
class Gate:
    """The permits and the client of one call."""

    endpoint: EndpointServices
    request: ChatRequest
    first: bool
    """Whether the call is for the first sample of its judgement."""
    cancelled: Callable[[], bool]
    ours: Callable[[], bool]
    """Whether the request is still this worker's to pay for."""
    arrived: Callable[[Reply], None]
    """Takes a reply in before its permit is given back."""
    purse: RunBudget | None
    price: Price | None
    refusal: tuple[Status, str] | None = None
    """Why the call was not let through, if it was not for want of a permit."""
    _reserved_usd: float = 0.0
    _result: Reply | Failure | None = None

    def acquire(self, estimated_tokens: int, deadline: float) -> Any | None:
        """Wait for a permit and for the money; `attempts.Permits`."""
        self._result = None
        permit = self.endpoint.permits.acquire(estimated_tokens, deadline)
        if permit is None:
            return None
        let_through = False
        try:
            self.refusal = self._refusal(deadline)
            let_through = self.refusal is None
        finally:
            # Whatever went wrong: a permit that is not given back is lost to all workers.
            if not let_through:
                self.endpoint.permits.release(permit, used_tokens=0, clean=False)
        return permit if let_through else None

    def complete(self, request: ChatRequest, *, timeout_s: float) -> Reply | Failure:
        """Make one request; `attempts.Client`."""
        result = self._result = self.endpoint.client.complete(request, timeout_s=timeout_s)
        if isinstance(result, Reply):
            self.arrived(result)
        return result

    def release(self, permit: object, **report: Any) -> None:
        """Give the permit back, and settle what the attempt cost."""
        self.endpoint.permits.release(permit, **report)
        if self.purse is not None:
            self.purse.settle(self._reserved_usd, self._spent_usd())

    def _refusal(self, deadline: float) -> tuple[Status, str] | None:
        if self.cancelled():
            return Status.EXPIRED, "the batch was cancelled"
        if not self.ours():
            return Status.EXPIRED, TAKEN_OVER
        if self.purse is None:
            return None
        self._reserved_usd = self._estimate_usd(self.request.max_tokens or UNLIMITED_REPLY_TOKENS)
        refused = self.purse.reserve(self._reserved_usd, first=self.first, deadline=deadline)
        return _REFUSALS[refused] if refused else None

    def _estimate_usd(self, completion_tokens: int) -> float:
        reply_tokens = self.request.max_tokens or UNLIMITED_REPLY_TOKENS
        return cost_usd(self.price, estimate_tokens(self.request) - reply_tokens, completion_tokens)

    def _spent_usd(self) -> float:
        result = self._result
        if result is not None and result.usage_reported:
            return cost_usd(self.price, result.prompt_tokens, result.completion_tokens)
        if isinstance(result, Reply):
            return self._estimate_usd(round(len(result.text.encode()) / BYTES_PER_TOKEN))
        return 0.0
