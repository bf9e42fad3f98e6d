"""Builds the FastAPI application: routes, authentication, error responses and health."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Annotated, Any

import redis
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from oyer.config.explaining import explain
from oyer.local.state import running_broker
from oyer.manager import InvalidInput, RewardManager
from oyer.protocol import names
from oyer.protocol.measuring import live_workers
from oyer.protocol.redis_client import connect
from oyer.server.auth import NOT_AUTHENTICATED, read_body, token_checks
from oyer.server.context import RequestOrigin
from oyer.server.docs import docs_page, documented, request_body
from oyer.server.graders import GradeAnswer, GradeRequest, Graders, RunAnswer, RunRequest
from oyer.server.held import HeldRequests
from oyer.server.idempotency import Replies, Reply
from oyer.server.routes import Scoring
from oyer.server.schemas import (
    ErrorAnswer,
    GetRewardAnswer,
    GetRewardRequest,
    HealthAnswer,
    RemoteRequest,
    ScoreAnswer,
    ScoreRequest,
)
from oyer.server.settings import ServerSettings
from oyer.tasks.monitoring.readiness import record_problem_at

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a request whose client disconnected; only logs see it."""

_ABOUT = (
    "Scores rollouts by LLM judges and length terms. A repeated request joins the one in progress,"
    " or gets its answer again. A missing score is null; where the protocol allows only numbers, a"
    " placeholder is sent and marked."
)

_ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"description": "The token is missing or wrong.", "model": ErrorAnswer},
    413: {"description": "The body is longer than the server accepts.", "model": ErrorAnswer},
    422: {"description": "A field is missing or wrong; nothing was submitted.", "model": ErrorAnswer},
    503: {
        "description": "The backend is unreachable, a judge is late, or a reward is missing under"
        " `reward.on_missing: raise`. Retry.",
        "model": ErrorAnswer,
    },
}  # fmt: skip

_RUN = Query(description="The training run to record the rollouts under.")
_STEP = Query(ge=0, description="The training step.")
_SPLIT = Query(
    min_length=1,
    max_length=100,
    description="`train` (default), or e.g. `eval`, whose rollouts do not wait for others.",
)
_KEY = Query(description="Answer with an object that holds the reward under this key.")


def _context(
    run: Annotated[str | None, _RUN] = None,
    step: Annotated[int | None, _STEP] = None,
    split: Annotated[str | None, _SPLIT] = None,
) -> RequestOrigin:
    return RequestOrigin(run=run, step=step, split=split)


_GIVES_WAY = (
    "the samples of this prompt that are still missing find no free connection: send the request"
    " again; the sample is being judged"
)

FromUrl = Annotated[RequestOrigin, Depends(_context)]

Score = Callable[[bytes, RequestOrigin], Awaitable[Reply]]
"""Scores a request body."""

Answer = Callable[[Request, RequestOrigin, Score, bool], Awaitable[Response]]
"""Scores a request; True if it may wait for others."""


def create_app(manager: RewardManager, settings: ServerSettings | None = None) -> FastAPI:
    """Create the application. It scores through `manager`, which the caller closes."""
    settings = settings or ServerSettings()
    scoring, replies = Scoring(manager, settings), Replies()
    # FastAPI's own documentation pages load scripts from a CDN.
    app = FastAPI(
        title="Oyer", version=version("oyer"), description=_ABOUT, docs_url=None, redoc_url=None
    )
    app.openapi = lambda: documented(app)  # type: ignore[method-assign]
    _add_error_handlers(app)
    _add_health(app, manager)

    async def answer(
        request: Request, context: RequestOrigin, score: Score, waits: bool
    ) -> Response:
        held = scoring.held if waits else None
        return await _answer(request, settings, replies, held, context, score)

    checks: Any = {"dependencies": token_checks(settings.token), "responses": _ERRORS}
    _add_trainers(app, scoring, answer, checks)
    _add_graders(app, Graders(manager, scoring), answer, checks)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi()))

    return app


def _add_trainers(app: FastAPI, scoring: Scoring, answer: Answer, checks: Any) -> None:
    @app.post("/v1/score", response_model=ScoreAnswer, **checks, **request_body(ScoreRequest))
    async def score(request: Request, context: FromUrl) -> Response:
        """Score a batch: whole groups or, with `group_size`, parts of them."""
        return await answer(request, context, scoring.score, scoring.parts_wait)

    @app.post(
        "/get_reward", response_model=GetRewardAnswer, **checks, **request_body(GetRewardRequest)
    )
    async def get_reward(request: Request, context: FromUrl) -> Response:
        """OpenRLHF's remote reward model."""
        return await answer(request, context, scoring.get_reward, scoring.texts_wait)

    @app.post("/rm", response_model=float | dict[str, Any], **checks, **request_body(RemoteRequest))
    async def remote_rm(
        request: Request, context: FromUrl, key: Annotated[str | None, _KEY] = None
    ) -> Response:
        """The `remote_rm` of slime, miles and ROLL."""
        context = replace(context, key=key)
        return await answer(request, context, scoring.remote_rm, scoring.texts_wait)


def _add_graders(app: FastAPI, graders: Graders, answer: Answer, checks: Any) -> None:
    @app.post("/grade", response_model=GradeAnswer, **checks, **request_body(GradeRequest))
    async def grade(request: Request, context: FromUrl) -> Response:
        """An endpoint grader: a sample and its item, answered with a score."""
        return await answer(request, context, graders.grade, False)

    @app.post("/graders/run", response_model=RunAnswer, **checks, **request_body(RunRequest))
    async def run_grader(request: Request, context: FromUrl) -> Response:
        """Run a grader in OpenAI's JSON, e.g. of the type `multi`."""
        return await answer(request, context, graders.run, False)


def _add_health(app: FastAPI, manager: RewardManager) -> None:
    @app.get("/healthz", response_model=HealthAnswer)
    async def healthz() -> Response:
        """Whether this server runs."""
        return JSONResponse({"status": "ok"})

    @app.get("/readyz", response_model=HealthAnswer, responses={503: {"model": HealthAnswer}})
    async def readyz() -> Response:
        """Whether batches can be scored: the broker, the record if `store.url` is set, workers."""
        problem = await run_in_threadpool(_problem, manager)
        if problem is None:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "unavailable", "error": problem}, status_code=503)


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(StarletteHTTPException)
    async def http_error(_: Request, error: StarletteHTTPException) -> Response:
        if error.status_code == 401:  # raised here, or by HTTPBasic for a malformed header
            return _error(401, NOT_AUTHENTICATED, {"WWW-Authenticate": "Bearer"})
        return _error(error.status_code, error.detail, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid_query(_: Request, error: RequestValidationError) -> Response:
        found = [(".".join(map(str, one["loc"])), one["msg"]) for one in error.errors()]
        return _error(422, "; ".join(f"{where}: {what}" for where, what in found))

    @app.exception_handler(ValidationError)
    async def invalid_body(_: Request, error: ValidationError) -> Response:
        return _error(422, explain(error))

    @app.exception_handler(InvalidInput)
    async def invalid_input(_: Request, error: InvalidInput) -> Response:
        return _error(422, str(error))

    @app.exception_handler(ClientDisconnect)
    async def disconnected(_: Request, __: ClientDisconnect) -> Response:
        # No client reads this answer; unhandled, the exception would be logged as a server error.
        return _error(400, "the body ended before its announced length: send it again")


async def _answer(
    request: Request,
    settings: ServerSettings,
    replies: Replies,
    held: HeldRequests | None,
    context: RequestOrigin,
    score: Score,
) -> Response:
    """Score a request, or join the equal request in progress, while the client is connected.

    Args:
        held: counts the connection if the request waits for others.
    """
    body = await read_body(request, settings.max_body_bytes)
    query = sorted(dict(request.query_params).items())
    content = hashlib.sha256(f"{request.url.path}?{query}\n".encode() + body).hexdigest()
    with replies.waiting(content) as copy:
        key = f"{content} {copy}"
        context = replace(context, key_of_reply=key)
        made = replies.get(key, lambda: score(body, context))
        if held is None:
            reply = await _while_connected(request, made)
        else:
            host, port = request.client or ("", 0)
            asks_again = request.url.path == "/rm" and "aiohttp/" in request.headers.get(
                "user-agent", ""
            )
            with held.connection(host, port, key, asks_again=asks_again) as connection:
                reply = await _while_connected(request, made, connection.gives_way)
    retry = {"Retry-After": "1"} if reply.status_code == 503 else None
    return JSONResponse(reply.content, status_code=reply.status_code, headers=retry)


async def _while_connected(
    request: Request, reply: Coroutine[Any, Any, Reply], gives_way: asyncio.Event | None = None
) -> Reply:
    """Wait for a reply until the client disconnects, or until its connection gives way to others.

    Raises:
        HTTPException: the client disconnected; scoring continues.
    """
    replying = asyncio.create_task(reply)
    disconnected = asyncio.create_task(_disconnect_of(request))
    giving_way = asyncio.create_task((gives_way or asyncio.Event()).wait())
    tasks = {replying, disconnected, giving_way}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if replying.done():
            return replying.result()
        if disconnected.done():
            raise HTTPException(CLIENT_CLOSED_REQUEST, "the client disconnected")
        return Reply(content={"error": _GIVES_WAY}, status_code=503, complete=False)
    finally:
        for task in tasks:
            task.cancel()


async def _disconnect_of(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _error(status_code: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    # The message may quote invalid Unicode from the request.
    message = message.encode("utf-8", "replace").decode()
    return JSONResponse({"error": message}, status_code=status_code, headers=headers)


def _problem(manager: RewardManager) -> str | None:
    """Return what prevents batches from being scored: broker, record or a queue without workers."""
    needed = [names.JUDGE_QUEUE] if manager.config.judges else []
    needed += [names.LENGTH_QUEUE] if manager.config.length else []
    try:
        url = manager.config.broker.url or running_broker()
        with connect(url, timeout_s=5) as client:
            workers = live_workers.workers(client)
    except (redis.RedisError, InvalidInput) as error:
        return f"the broker does not answer: {type(error).__name__}"
    idle = [queue for queue in [*needed, names.COMBINE_QUEUE] if not workers.get(queue)]
    if idle:
        return f"no worker on queue {', '.join(idle)}"
    store = manager.config.store
    # Where it is not set, only the workers' hosts know the record.
    return record_problem_at(store.url) if "url" in store.model_fields_set else None
