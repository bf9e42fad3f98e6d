"""Decides when a batch is resubmitted: after a failure, or without progress; pure.

Times are seconds of one monotonic clock, passed in. See docs/internals/recovery.md.
"""

MAX_SUBMISSIONS = 5
"""Submissions of a batch, including the first, before its future fails."""

FAILURE_PAUSES_S = (1.0, 4.0, 15.0, 60.0)
"""Pauses before each resubmission of a failed batch: the cause may last."""

GONE_PAUSE_S = 5.0
"""Minimum pause before a batch whose payloads are gone is resubmitted. Its result may follow,
because `combine` deletes the payloads before Celery stores the result."""


class Recovery:
    """The submissions, progress and latest failure of one batch."""

    def __init__(self, stall_timeout_s: float, now_s: float) -> None:
        self.submissions = 1
        self._stall_timeout_s = stall_timeout_s
        self._progress_s = now_s
        self._most_judged = -1
        self._failure: str | None = None
        self._due_s = 0.0

    @property
    def exhausted(self) -> bool:
        """Whether no further submission is allowed."""
        return self.submissions >= MAX_SUBMISSIONS

    def judged(self, judgements: int, now_s: float) -> None:
        """Note the number of judgements so far.

        Only a new maximum is progress: a chunk that kills its worker each time reaches the same
        number after every submission.
        """
        self._failure = None
        if judgements > self._most_judged:
            self._most_judged, self._progress_s = judgements, now_s

    def outage(self, now_s: float) -> None:
        """Note that the broker is unreachable: this time does not count as a stall."""
        self._progress_s = now_s

    def failed(self, cause: str, now_s: float) -> None:
        """Note that the batch ended with an error."""
        self._note(f"failed: {cause}", now_s + self._pause_s())

    def gone(self, now_s: float) -> None:
        """Note that Redis has neither the payloads nor the result."""
        self._note("is no longer in Redis", now_s + max(GONE_PAUSE_S, self._pause_s()))

    def due(self, now_s: float) -> str | None:
        """Return why the batch is to be resubmitted now; None if it is not."""
        if self._failure is not None:
            return self._failure if now_s >= self._due_s else None
        # Doubled each time: resubmitting a batch that waits in the queue does not speed it up.
        stall_s = self._stall_timeout_s * 2 ** (self.submissions - 1)
        if now_s - self._progress_s < stall_s:
            return None
        return f"made no progress for {stall_s:g} s"

    def resubmitted(self, now_s: float) -> None:
        """Note that the batch was resubmitted, and forget why."""
        self.submissions += 1
        self._progress_s, self._most_judged, self._failure = now_s, -1, None

    def _pause_s(self) -> float:
        return FAILURE_PAUSES_S[min(self.submissions, len(FAILURE_PAUSES_S)) - 1]

    def _note(self, failure: str, due_s: float) -> None:
        if self._failure is None:
            self._failure, self._due_s = failure, due_s
