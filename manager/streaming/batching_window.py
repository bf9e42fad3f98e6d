"""Decides how long a batch waits for more rollouts before it is sent; pure, time is passed in."""

import math

MAX_WINDOW_S = 0.02
"""Maximum batching delay in seconds; small next to a judge call (0.5-30 s)."""

FULL_RATE_PER_S = 100.0
"""Arrival rate from which on the whole window is used, in rollouts per second. Below it the window
shrinks in proportion, because few rollouts would arrive in it."""

_QUIET = 0.25
"""A batch stays open until nothing has arrived for this part of a window, so that a burst is not cut."""

_MAX_WINDOWS = 5
"""A batch is sent after this many windows even if rollouts keep arriving."""

MAX_BUSY_WINDOW_S = 0.1
"""Maximum batching delay in seconds while judge messages wait for a worker."""

_MESSAGE_S = 0.005
"""Time that a waiting judge message delays the next one, in seconds. A batch costs workers about 10 ms
of CPU; two of them share the messages."""

_DECAY_S = 0.25
"""Time constant of the arrival rate, in seconds."""


class ArrivalRate:
    """An exponentially decaying count of arrivals."""

    def __init__(self) -> None:
        self._level = 0.0
        self._at_s = 0.0
        self._waiting_messages = 0

    def seen(self, arrivals: int, now_s: float) -> None:
        """Count arrivals."""
        self._level = self._decayed(now_s) + arrivals
        self._at_s = now_s

    def sent(self, waiting_messages: int) -> None:
        """Note how many judge messages waited for a worker when a batch was sent.

        A rollout that is sent at once would wait behind them, so that a longer window costs no time.
        Larger batches, and fewer of them, then shorten the queue.
        """
        self._waiting_messages = waiting_messages

    def window_s(self, now_s: float) -> float:
        """Return how long a rollout may wait for others, in seconds."""
        rate_per_s = self._decayed(now_s) / _DECAY_S
        window_s = MAX_WINDOW_S * min(1.0, rate_per_s / FULL_RATE_PER_S)
        # Like the rate, the number of messages is forgotten when nothing arrives.
        busy_s = _MESSAGE_S * self._waiting_messages * min(1.0, self._decayed(now_s))
        return max(window_s, min(MAX_BUSY_WINDOW_S, busy_s))

    def due_at(self, since_s: float, now_s: float) -> float:
        """Return when a batch that was opened at `since_s` is to be sent."""
        window_s = self.window_s(now_s)
        quiet_at_s = self._at_s + _QUIET * window_s
        latest_s = max(window_s, min(_MAX_WINDOWS * window_s, _MAX_WINDOWS * MAX_WINDOW_S))
        return min(max(since_s + window_s, quiet_at_s), since_s + latest_s)

    def _decayed(self, now_s: float) -> float:
        return self._level * math.exp(min(0.0, (self._at_s - now_s) / _DECAY_S))
