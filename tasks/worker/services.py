"""Services of judge calls in one worker process: endpoints, limiters, reply cache, single flight."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from oyer.config.reward import Budget, EndpointConfig, JudgeConfig, Price
from oyer.models import queries
from oyer.protocol.errors import InvalidConfig
from oyer.protocol.redis_client import connect
from oyer.tasks.coordination.budget import RunBudget
from oyer.tasks.coordination.lessons import Lessons, server_identity
from oyer.tasks.coordination.limiter import Limiter
from oyer.tasks.coordination.reply_cache import ReplyCache
from oyer.tasks.coordination.single_flight import SingleFlight
from oyer.tasks.endpoint.client import EndpointClient
from oyer.tasks.judging.call import EndpointServices
from oyer.tasks.judging.hedging.race import Hedger

if TYPE_CHECKING:
    from oyer.tasks.worker.context import WorkerContext

_MIN_LOOKAHEAD = 64


class JudgeServices:
    """Shared by all judge tasks of a process.

    Attributes:
        endpoints: usable endpoints by name.
        problems: why another endpoint cannot be called. A missing API key disables one endpoint,
            not the worker: its judgements get the status `rejected`.
        extra_bodies: fields that this worker adds to each request, by endpoint.
        servers: identity of the servers behind each endpoint, for the request hash.
    """

    def __init__(self, context: "WorkerContext") -> None:
        self._context = context
        self._redis = connect(context.broker_url)
        self._budgets: dict[tuple[str, Budget], RunBudget] = {}
        config = context.config
        self.reply_cache = ReplyCache(self._redis, config.broker.result_expires_s)
        self.single_flight = SingleFlight(self._redis, context.name)
        self.extra_bodies: dict[str, dict[str, Any]] = {
            name: endpoint.extra_body for name, endpoint in config.endpoints.items()
        }
        self.servers = {name: server_identity(end) for name, end in config.endpoints.items()}
        self.endpoints: dict[str, EndpointServices] = {}
        self.problems = _Problems(context.name)
        for name, endpoint in config.endpoints.items():
            try:
                self.endpoints[name] = self._endpoint(name, endpoint)
            except InvalidConfig as error:
                self.problems[name] = str(error)

    def budget(self, run: str, budget: Budget) -> RunBudget:
        """Return this process's share of a run's budget."""
        known = self._budgets.get((run, budget))
        if known is None:
            config = self._context.config
            known = self._budgets[run, budget] = RunBudget(
                self._redis,
                run,
                budget,
                holder=self._context.name,
                recorded_usd=lambda: self._context.read(
                    lambda conn: queries.cost_of_run(conn, run)
                ),
                call_s=max(endpoint.timeout_s for endpoint in config.endpoints.values()),
                keep_s=config.broker.result_expires_s,
            )
        return known

    def lookahead(self, endpoints: Sequence[str]) -> int:
        """Return how many calls of a flow this process holds, in flight or waiting.

        Twice its part of the endpoints' limits: the next round of calls is prepared while one is in
        flight. The constant covers the time between two looks at the queues with small limits.
        Trainers of the last release name no endpoints: all of them count.
        """
        calls = _MIN_LOOKAHEAD
        for name in endpoints or self.endpoints:
            endpoint = self.endpoints.get(name)
            if endpoint is not None and endpoint.limiter is not None:
                workers = endpoint.limiter.workers
                calls += 2 * -(-endpoint.config.max_in_flight // workers)
        return calls

    def price(self, judge: JudgeConfig) -> Price | None:
        """Return the price of a judge's model; None if this worker has none."""
        endpoint = self._context.config.endpoints.get(judge.endpoint)
        return endpoint.prices.get(judge.model) if endpoint else None

    def close(self) -> None:
        """Return permits and claims, so that other workers need not wait until they expire."""
        for endpoint in self.endpoints.values():
            if endpoint.limiter is not None:
                endpoint.limiter.close()
        self.single_flight.close()

    def _endpoint(self, name: str, config: EndpointConfig) -> EndpointServices:
        client = EndpointClient(name, config, os.environ)
        limiter = Limiter(
            self._redis,
            name,
            max_in_flight=config.max_in_flight,
            requests_per_minute=config.requests_per_minute,
            tokens_per_minute=config.tokens_per_minute,
            adaptive=config.adaptive,
            worker_id=self._context.name,
        )
        hedger = None if config.hedge is None else Hedger(config.hedge, client, limiter.may_spare)
        return EndpointServices(
            config=config,
            client=client,
            limiter=limiter,
            lessons=Lessons(name, config, self._redis),
            hedger=hedger,
        )


class _Problems(dict[str, str]):
    """Reasons by endpoint; an endpoint without one is not configured."""

    def __init__(self, worker_name: str) -> None:
        super().__init__()
        self._worker_name = worker_name

    def __missing__(self, name: str) -> str:
        return (
            f"endpoint {name!r} is not in the configuration of this worker ({self._worker_name});"
            " add it under `endpoints` there"
        )
