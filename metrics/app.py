"""The HTTP application of `oyer metrics`: `/metrics`, `/healthz` and `/readyz`."""

import hmac

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from redis import Redis
from sqlalchemy import Engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from oyer.config.reward import RewardConfig
from oyer.metrics.collector import BackendCollector
from oyer.tasks.monitoring.health_routes import health_routes
from oyer.tasks.monitoring.readiness import record_problem, redis_problem


def create_app(
    client: Redis, engine: Engine, config: RewardConfig, token: str | None = None
) -> Starlette:
    """Create the application; arguments as of `BackendCollector`.

    Args:
        token: required as bearer token by `/metrics` if set.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(BackendCollector(client, engine, config))

    # Not async, so that it runs in a thread.
    def metrics(request: Request) -> Response:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token is not None and not hmac.compare_digest(given.encode(), token.encode()):
            return PlainTextResponse("send `Authorization: Bearer …`", 401)
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), media_type=content_type)

    health = health_routes(lambda: redis_problem(client) or record_problem(engine))
    return Starlette(routes=[Route("/metrics", metrics), *health])
