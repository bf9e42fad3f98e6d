"""The ASGI app: routes, who may ask, and what an error is answered with."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import redis
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from oyer.config.explaining import explain
from oyer.local.backend import running_broker
from oyer.manager import InvalidInput, RewardManager
from oyer.protocol import live_workers, names
from oyer.server.auth import RefusedError, check_token, read_body
from oyer.server.idempotency import Replies, Reply
from oyer.server.openapi import page, schema
from oyer.server.routes import Scoring
from oyer.server.settings import ServerSettings

CLIENT_CLOSED_REQUEST = 499
"""What servers log in place of an answer that nobody waits for."""

Scorer = Callable[[bytes, Mapping[str, str], int], "Awaitable[Reply]"]


def create_app(manager: RewardManager, settings: ServerSettings | None = None) -> Starlette:
    """Make the app; it scores through `manager`, which the caller closes."""
    settings = settings or ServerSettings()
    scoring, replies = Scoring(manager, settings), Replies()

    def route(path: str, scorer: Scorer) -> Route:
        async def endpoint(request: Request) -> Response:
            return await _scored(request, scorer, settings, replies)

        return Route(path, endpoint, methods=["POST"])

    async def healthz(request: Request) -> Response:
        problem = await run_in_threadpool(_problem, manager)
        if problem is None:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "unavailable", "error": problem}, status_code=503)

    async def openapi(request: Request) -> Response:
        return JSONResponse(schema(secured=settings.token is not None))

    async def docs(request: Request) -> Response:
        return HTMLResponse(page(schema(secured=settings.token is not None)))

    return Starlette(
        routes=[
            route("/v1/score", scoring.score),
            route("/get_reward", scoring.get_reward),
            route("/rm", scoring.remote_rm),
            Route("/healthz", healthz),
            Route("/openapi.json", openapi),
            Route("/docs", docs),
        ]
    )


async def _scored(
    request: Request, scorer: Scorer, settings: ServerSettings, replies: Replies
) -> Response:
    try:
        check_token(request, settings.token)
        body = await read_body(request, settings.max_body_bytes)
        query = dict(request.query_params)
        named = hashlib.sha256(f"{request.url.path}?{sorted(query.items())}\n".encode() + body)
        with replies.asking(named.hexdigest()) as copy:

            async def make() -> Reply:
                return await scorer(body, query, copy)

            reply = await _while_connected(
                request, replies.get(f"{named.hexdigest()} {copy}", make)
            )
    except ClientDisconnect:
        # Nobody reads this; without it, the server's log would speak of a fault of its own.
        return _error(400, "the body ended before its announced length: send it again")
    except RefusedError as error:
        shown = {"WWW-Authenticate": "Bearer"} if error.status_code == 401 else None
        return _error(error.status_code, str(error), shown)
    except ValidationError as error:
        return _error(422, explain(error))
    except InvalidInput as error:
        return _error(422, str(error))
    retry = {"Retry-After": "1"} if reply.status_code == 503 else None
    return JSONResponse(reply.content, status_code=reply.status_code, headers=retry)


async def _while_connected(request: Request, answer: Coroutine[Any, Any, Reply]) -> Reply:
    """Wait for an answer for as long as the client does.

    Raises:
        RefusedError: the client hung up; what it asked for goes on.
    """
    answering, hung_up = asyncio.create_task(answer), asyncio.create_task(_hung_up(request))
    try:
        await asyncio.wait({answering, hung_up}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise RefusedError(CLIENT_CLOSED_REQUEST, "the client hung up")
        return answering.result()
    finally:
        answering.cancel()
        hung_up.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _error(status_code: int, message: str, headers: dict[str, str] | None = None) -> Response:
    # A message may quote what is no valid text.
    message = message.encode("utf-8", "replace").decode()
    return JSONResponse({"error": message}, status_code=status_code, headers=headers)


def _problem(manager: RewardManager) -> str | None:
    """Say what keeps batches from being scored: no broker, or a queue without workers."""
    needed = [names.JUDGE_QUEUE] if manager.config.judges else []
    needed += [names.LENGTH_QUEUE] if manager.config.length else []
    try:
        url = manager.config.broker.url or running_broker()
        with redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5) as client:
            there = live_workers.workers(client)
    except (redis.RedisError, InvalidInput) as error:
        return f"the broker does not answer: {type(error).__name__}"
    idle = [queue for queue in [*needed, names.COMBINE_QUEUE] if not there.get(queue)]
    return f"no worker on queue {', '.join(idle)}" if idle else None
