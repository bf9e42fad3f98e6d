"""Says when a batch is to be sent again: after a failure, or when it stands still; pure.

Times are seconds of one monotonic clock, handed in.
"""

MAX_SUBMISSIONS = 5
"""Times a batch is sent, the first included, before its future gives up."""

FAILURE_PAUSES_S = (1.0, 4.0, 15.0, 60.0)
"""Waits before a failed batch is sent again, one for each time: what failed it may need long."""

GONE_PAUSE_S = 5.0
"""Least wait before a batch that Redis has lost is sent again: its result may be just about to come,
since `combine` drops the payloads before Celery stores what it returned."""


class Recovery:
    """What one batch has gone through since it was submitted."""

    def __init__(self, stall_timeout_s: float, now_s: float) -> None:
        self.submissions = 1
        self._stall_timeout_s = stall_timeout_s
        self._moved_s = now_s
        self._most_judged = -1
        self._trouble: str | None = None
        self._due_s = 0.0

    @property
    def exhausted(self) -> bool:
        """Whether the batch was sent often enough to give it up."""
        return self.submissions >= MAX_SUBMISSIONS

    def judged(self, verdicts: int, now_s: float) -> None:
        """Note that the batch is under way, and how many verdicts there are.

        Only more than ever before is progress: a chunk that kills its worker each time counts
        to the same number again and again.
        """
        self._trouble = None
        if verdicts > self._most_judged:
            self._most_judged, self._moved_s = verdicts, now_s

    def unknown(self, now_s: float) -> None:
        """Note that the broker is away: nobody can tell whether the batch stands still."""
        self._moved_s = now_s

    def failed(self, cause: str, now_s: float) -> None:
        """Note that the batch ended with an error."""
        self._note(f"failed: {cause}", now_s + self._pause_s())

    def gone(self, now_s: float) -> None:
        """Note that Redis holds neither the batch nor its result."""
        self._note("is no longer in Redis", now_s + max(GONE_PAUSE_S, self._pause_s()))

    def due(self, now_s: float) -> str | None:
        """Say why the batch is to be sent again now; None where it is not."""
        if self._trouble is not None:
            return self._trouble if now_s >= self._due_s else None
        # Twice as long each time: a batch that only waits for its turn gains nothing.
        stall_s = self._stall_timeout_s * 2 ** (self.submissions - 1)
        if now_s - self._moved_s < stall_s:
            return None
        return f"made no progress for {stall_s:g} s"

    def sent(self, now_s: float) -> None:
        """Note that the batch was sent again; what it was sent for is forgotten."""
        self.submissions += 1
        self._moved_s, self._most_judged, self._trouble = now_s, -1, None

    def _pause_s(self) -> float:
        return FAILURE_PAUSES_S[min(self.submissions, len(FAILURE_PAUSES_S)) - 1]

    def _note(self, trouble: str, due_s: float) -> None:
        if self._trouble is None:
            self._trouble, self._due_s = trouble, due_s
