"""What a permit's holder reports of its call when it releases the permit."""

from dataclasses import dataclass, field

from oyer.tasks.coordination.adaptive import Evidence
from oyer.tasks.endpoint.types import Failure, Reply, RetryClass


@dataclass(slots=True)
class HeldPermit:
    """What a permit's release reports of its call; without a call, no tokens and no evidence."""

    used_tokens: int | None = 0
    """None keeps the estimate charged."""
    evidence: Evidence = field(default_factory=Evidence)
    retry_after_s: float | None = None

    def start(self) -> None:
        """Note that the request is sent: without `settle`, its estimate remains charged."""
        self.used_tokens = None

    def settle(self, result: Reply | Failure, *, first_attempt: bool) -> None:
        """Note how the call ended. A reply counts for a higher limit only at the first attempt."""
        if result.usage_reported:
            self.used_tokens = result.prompt_tokens + result.completion_tokens
        if isinstance(result, Reply):
            self.evidence = Evidence(clean=int(first_attempt))
        else:
            self.evidence = Evidence(
                transient=result.retry is RetryClass.TRANSIENT,
                rate_limited=result.retry is RetryClass.RATE_LIMIT,
            )
            self.retry_after_s = result.retry_after_s
