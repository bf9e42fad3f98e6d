"""Sends a second request for a call that takes unusually long; the first complete reply counts.

Rules and limits: docs/internals/hedging.md. Needs gevent: the request that lost is ended by an
exception thrown into its greenlet, which closes its connection.
"""

import time
from collections.abc import Callable
from itertools import takewhile
from typing import Any, Generic, TypeVar

import gevent
from gevent import Greenlet, GreenletExit

from oyer.config.endpoint import Hedge
from oyer.protocol.status import Status
from oyer.tasks.endpoint.types import ChatRequest, Failure, HedgingClient, Reply, RetryClass
from oyer.tasks.judging.hedging.policy import HedgeBudget, Latencies

CANCELLED_CLASS = "Cancelled"
"""`error_class` of the request that was cancelled, or whose reply came second."""

LOOKS = 20
"""Number of looks at the calls in flight during the time after which they are hedged."""
LOOK_MIN_S, LOOK_MAX_S = 0.01, 0.25
"""Shortest and longest pause between two looks, in seconds."""

T = TypeVar("T")


class _Overtaken(GreenletExit):  # type: ignore[misc]  # gevent has no types
    """Thrown into the greenlet of a request whose call has a reply."""


class Race(Generic[T]):
    """The requests of one call: the first one, and at most one more.

    Args:
        send_second: Sends the second request by `second`; returns None if it may not be sent.
    """

    def __init__(
        self,
        hedger: "Hedger",
        client: HedgingClient,
        model: str,
        send_second: "Callable[[Race[T]], T | None]",
    ) -> None:
        self.winner: Reply | None = None
        """The first complete reply."""
        self.over = False
        """Whether the first request has ended: no second one may be sent any more."""
        self.sent_s = 0.0
        """When the first request was sent, by `time.monotonic`."""
        self.model = model
        self._hedger = hedger
        self._client = client
        self._send_second = send_second
        self._url_index = 0
        self._running: list[Any] = []
        self._second: Greenlet | None = None
        self._second_sent = False

    @property
    def age_s(self) -> float:
        """Time since the first request was sent, in seconds."""
        return time.monotonic() - self.sent_s

    @property
    def hedged(self) -> bool:
        """Whether a second request was sent or is being prepared."""
        return self._second is not None

    def run(self, send_first: Callable[[], T]) -> tuple[T, T | None]:
        """Call `send_first`, which is to use `first`.

        Returns:
            What became of the first request, and of the second one if it was sent.
        """
        try:
            first = send_first()
            # If the first one failed, the second one may still bring a reply. If it was overtaken,
            # the reply of the second one is being cached.
            second, sent = self._second, self._second_sent
            return first, second.get() if second is not None and sent else None
        except BaseException:
            self.over = True
            self._end_running()
            raise

    def first(self, request: ChatRequest, *, timeout_s: float) -> Reply | Failure:
        """Make the first request; in this greenlet."""
        self._url_index = self._client.pick_url()
        self.sent_s = time.monotonic()
        self._hedger.begin(self)
        result: Reply | Failure | None = None
        try:
            result = self._complete(request, timeout_s, self._url_index)
            return result
        finally:
            self.over = True
            self._hedger.end(self, self.age_s if _tells_latency(result) else None)

    def other_url(self) -> int | None:
        """Return the URL of the second request; None if no URL for it is healthy."""
        return self._client.other_url(self._url_index)

    def second(self, request: ChatRequest, url_index: int, *, timeout_s: float) -> Reply | Failure:
        """Make the second request, unless `over`; in its own greenlet."""
        self._second_sent = True
        return self._complete(request, timeout_s, url_index)

    def start_second(self) -> None:
        """Prepare and send the second request on a greenlet of its own."""
        self._second = gevent.spawn(self._run_second)

    def _run_second(self) -> T | None:
        try:
            return self._send_second(self)
        finally:
            if not self._second_sent:
                self._hedger.not_sent()
                self._second = None

    def _complete(self, request: ChatRequest, timeout_s: float, url_index: int) -> Reply | Failure:
        result: Reply | Failure | None = None
        started_s = time.perf_counter()
        current = gevent.getcurrent()
        self._running.append(current)
        try:
            result = self._client.complete(request, timeout_s=timeout_s, url_index=url_index)
        except _Overtaken:
            if self.winner is None:
                raise  # the call was given up
        finally:
            self._running.remove(current)
        if self.winner is not None:
            latency_ms = (time.perf_counter() - started_s) * 1000
            return _cancelled(self.winner, result, url_index, latency_ms)
        assert result is not None
        if isinstance(result, Reply):
            self.winner = result
            self._end_running()
        return result

    def _end_running(self) -> None:
        if self._running:
            gevent.get_hub().loop.run_callback(self._throw)

    def _throw(self) -> None:
        """End the requests that are still running; the hub alone may throw into a greenlet."""
        for greenlet in list(self._running):
            greenlet.throw(_Overtaken)


class _Model:
    def __init__(self) -> None:
        self.latencies = Latencies()
        self.in_flight: dict[Race[Any], None] = {}
        """In the order in which they were sent."""


class Hedger:
    """Hedges one endpoint's calls in one worker process.

    Args:
        spare: Returns whether the endpoint's limits may have room for one more request.
    """

    def __init__(self, config: Hedge, client: HedgingClient, spare: Callable[[], bool]) -> None:
        self._config = config
        self._client = client
        self._spare = spare
        self._budget = HedgeBudget(config.at_most)
        self._models: dict[str, _Model] = {}
        self._watching = False

    def race(self, model: str, send_second: Callable[[Race[T]], T | None]) -> Race[T]:
        """Return the race of one call."""
        return Race(self, self._client, model, send_second)

    def begin(self, race: Race[Any]) -> None:
        """Watch a call from now on."""
        self._budget.call()
        self._models.setdefault(race.model, _Model()).in_flight[race] = None
        if not self._watching:
            self._watching = True
            gevent.spawn(self._watch)

    def end(self, race: Race[Any], latency_s: float | None) -> None:
        """Watch a call no longer; its latency counts unless it is None."""
        model = self._models[race.model]
        del model.in_flight[race]
        if latency_s is not None:
            model.latencies.add(latency_s)

    def not_sent(self) -> None:
        """Return the budget of a second request that was not sent."""
        self._budget.give_back()

    def after_s(self, model: str) -> float | None:
        """Return the time in flight after which a call is hedged, in seconds; None if unknown."""
        known, quantile = self._models.get(model), self._config.quantile
        if quantile is None or known is None:
            return self._config.after_s
        now_s = time.monotonic()
        # From the youngest to the oldest.
        ages_s = [now_s - race.sent_s for race in reversed(known.in_flight)]
        return known.latencies.quantile(quantile, ages_s)

    def _watch(self) -> None:
        """Look at the calls in flight from time to time, while there are any."""
        try:
            while pauses_s := [
                self._look(name, model)
                for name, model in list(self._models.items())
                if model.in_flight
            ]:
                gevent.sleep(min(pauses_s))
        finally:
            self._watching = False

    def _look(self, name: str, model: _Model) -> float:
        """Hedge the calls that are due; returns the pause until the next look, in seconds."""
        after_s = self.after_s(name)
        if after_s is None:
            return LOOK_MAX_S
        due_s = time.monotonic() - after_s
        for race in list(takewhile(lambda race: race.sent_s <= due_s, model.in_flight)):
            if race.over or race.hedged:
                continue
            if not self._spare() or not self._budget.take():
                break
            race.start_second()
        return min(max(after_s / LOOKS, LOOK_MIN_S), LOOK_MAX_S)


def _tells_latency(result: Reply | Failure | None) -> bool:
    """Whether a request's duration says how long replies take: an error's does not."""
    if not isinstance(result, Failure):
        return result is not None
    return result.error_class == CANCELLED_CLASS or result.status is Status.TIMEOUT


def _cancelled(
    winner: Reply, result: Reply | Failure | None, url_index: int, latency_ms: float
) -> Failure:
    """Return the result of the request that lost.

    Without usage of its own, its tokens are those of the reply that counts, as an estimate: endpoints
    charge for a request that they have begun, and report no usage of a cancelled one.
    """
    usage = result if result is not None and result.usage_reported else winner
    reported = usage is result
    return Failure(
        status=Status.UNAVAILABLE,
        retry=RetryClass.NEVER,
        error_class=CANCELLED_CLASS,
        message="cancelled, because the other request of this call was answered first"
        + ("" if reported else "; its tokens are estimated by those of that reply"),
        http_status=None if result is None else result.http_status,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        usage_reported=reported,
        latency_ms=latency_ms,
        url_index=url_index,
        sent=winner.sent,
    )
