"""What a judge worker process keeps open: endpoint clients, shared limits, cache, single flight."""

import os
from functools import cache as once
from typing import Any

import redis

from oyer.config.reward import Budget, JudgeConfig, Price
from oyer.models import queries
from oyer.models.engine import reading
from oyer.protocol.errors import InvalidConfig
from oyer.protocol.redis_connection import connect
from oyer.tasks.coordination.budget import RunBudget
from oyer.tasks.coordination.lessons import Lessons, server_identity
from oyer.tasks.coordination.limiter import Limiter
from oyer.tasks.coordination.reply_cache import ReplyCache
from oyer.tasks.coordination.single_flight import SingleFlight
from oyer.tasks.endpoint.client import EndpointClient
from oyer.tasks.judging.call import EndpointServices
from oyer.tasks.worker import context
from oyer.tasks.worker.patience import patiently


@once
def endpoints() -> tuple[dict[str, EndpointServices], dict[str, str]]:
    """Return the endpoints of this worker, and why the others cannot be called.

    A missing key stops one endpoint, not the worker: its judgements are `rejected`.
    """
    usable: dict[str, EndpointServices] = {}
    problems: dict[str, str] = {}
    for name, config in context.config().endpoints.items():
        try:
            client = EndpointClient(name, config, os.environ)
        except InvalidConfig as error:
            problems[name] = str(error)
            continue
        limiter = Limiter(
            _redis(),
            name,
            max_in_flight=config.max_in_flight,
            requests_per_minute=config.requests_per_minute,
            tokens_per_minute=config.tokens_per_minute,
            adaptive=config.adaptive,
            worker_id=context.worker_name(),
        )
        lessons = Lessons(name, config, _redis())
        usable[name] = EndpointServices(
            config=config, client=client, limiter=limiter, lessons=lessons
        )
    return usable, problems


@once
def cache() -> ReplyCache:
    """Return the replies in Redis."""
    return ReplyCache(_redis(), context.config().broker.result_expires_s)


@once
def flight() -> SingleFlight:
    """Return the claims on requests that are being paid for."""
    return SingleFlight(_redis(), context.worker_name())


@once
def purse(run: str, budget: Budget) -> RunBudget:
    """Return this process's access to what a run may spend."""

    def recorded_usd() -> float:
        with reading(context.engine()) as conn:
            return queries.cost_of_run(conn, run)

    config = context.config()
    return RunBudget(
        _redis(),
        run,
        budget,
        holder=context.worker_name(),
        recorded_usd=lambda: patiently(recorded_usd),
        call_s=max(endpoint.timeout_s for endpoint in config.endpoints.values()),
        keep_s=config.broker.result_expires_s,
    )


def bodies() -> dict[str, dict[str, Any]]:
    """Return what this worker adds to the body of every request, by endpoint."""
    return {name: config.extra_body for name, config in context.config().endpoints.items()}


def servers() -> dict[str, str]:
    """Return what tells the servers behind each endpoint from others."""
    return {name: server_identity(config) for name, config in context.config().endpoints.items()}


def price(judge: JudgeConfig) -> Price | None:
    """Return what a judge's model costs at its endpoint, if this worker knows."""
    endpoint = context.config().endpoints.get(judge.endpoint)
    return endpoint.prices.get(judge.model) if endpoint else None


@once
def _redis() -> redis.Redis:
    return connect(context.broker_url())
