"""The web application of `oyer view`."""

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from oyer.history.access import Access, AccessRules
from oyer.history.downloads import attached, file_of, rows_of_step
from oyer.history.pages import groups, runs, scores, search, steps, verdicts
from oyer.history.pages.judges import judge_name, scales_of, scores_rollouts
from oyer.history.pages.step_filters import Filters
from oyer.history.parameters import (
    author_of,
    decimal,
    decimal_number,
    form_of,
    mode_of,
    review_of,
    whole,
    whole_number,
)
from oyer.history.reading import bounded
from oyer.history.rendering import STATIC, html
from oyer.models.requests import texts_of
from oyer.protocol.errors import InvalidInput, OyerError
from oyer.tasks.monitoring.health_routes import health_routes
from oyer.tasks.monitoring.readiness import record_problem

_REFUSED = psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction
_ABSENT = psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn

Query = Callable[[Connection], Any]


@dataclass(frozen=True)
class _Pages:
    """Handlers of the pages, on one record."""

    engine: Engine

    async def runs(self, request: Request) -> Response:
        """All runs."""
        before = whole(request, "before")
        found = await self._read(lambda conn: runs.runs_page(conn, before))
        return html("runs.html", found)

    async def run(self, request: Request) -> Response:
        """One run."""
        run_id, before = request.path_params["run_id"], whole(request, "before")
        split = request.query_params.get("split")
        return html(
            "run.html",
            await self._found(lambda conn: runs.run_page(conn, run_id, split, before)),
        )

    async def step(self, request: Request) -> Response:
        """One step."""
        return html("step.html", await self._step(request))

    async def step_rows(self, request: Request) -> Response:
        """The rollouts that a step's page shows, as a file."""
        found = await self._step(request)
        return file_of(rows_of_step(found), request.path_params["kind"])

    async def _step(self, request: Request) -> Mapping[str, Any]:
        given = request.query_params
        filters = Filters(
            status=given.get("status") or None,
            component=given.get("component") or None,
            low=decimal(request, "low"),
            high=decimal(request, "high"),
            text=given.get("text") or None,
            sort=given.get("sort", "order"),
        )
        run_id, step = (
            request.path_params["run_id"],
            whole_number("step", request.path_params["step"]),
        )
        return await self._found(
            lambda conn: steps.step_page(conn, run_id, step, given.get("split"), filters)
        )

    async def group(self, request: Request) -> Response:
        """One group."""
        batch_id, index = request.path_params["batch_id"], request.path_params["index"]
        base = whole(request, "base")
        return html(
            "group.html",
            await self._found(lambda conn: groups.group_page(conn, batch_id, index, base)),
        )

    async def score(self, request: Request) -> Response:
        """One score."""
        batch_id, index = request.path_params["batch_id"], request.path_params["index"]
        found = await self._found(lambda conn: scores.score_page(conn, batch_id, index))
        review = review_of(request)
        return html("score.html", {**found, "review": review, "author": author_of(request)})

    async def search(self, request: Request) -> Response:
        """Search."""
        query = search.Query.of(request.query_params)
        after = request.query_params.get("after")
        return html(
            "search.html",
            await self._read(lambda conn: search.search_page(conn, query, after)),
        )

    async def review(self, request: Request) -> Response:
        """Redirect to the next judgement to review."""
        run_id = whole(request, "run")
        mode = mode_of(request.query_params.get("mode"))
        author = author_of(request)
        if run_id is None or not author:
            choices = await self._read(lambda conn: verdicts.runs_to_review(conn, run_id))
            return html("review.html", {"runs": choices, "author": author, "run_id": run_id})
        chosen = await self._read(lambda conn: verdicts.next_to_review(conn, run_id, mode, author))
        if chosen is None:
            return html("review.html", {"runs": [], "author": author, "run_id": run_id})
        batch_id, index, judge = chosen
        answer = RedirectResponse(
            request.url_for("score", batch_id=batch_id, index=index)
            .include_query_params(review=run_id, mode=mode, judge=judge)
            .replace(scheme="", netloc="")
            .__str__(),
            303,
        )
        answer.set_cookie("oyer_author", author.encode().hex(), samesite="strict", httponly=True)
        return answer

    async def add_verdict(self, request: Request) -> Response:
        """Add a person's verdict, and return to the page or to the review queue."""
        form = await form_of(request)
        batch_id, index, judge = (
            form.get("batch_id", ""),
            form.get("index", ""),
            form.get("judge", ""),
        )
        mode = mode_of(form.get("mode"))
        if not index.isdecimal():
            raise InvalidInput("index: is missing; use the form of a score's page")
        if not scores_rollouts(judge):
            raise InvalidInput(
                "judge: give a verdict on a rollout's score, not on a comparison or an earlier turn"
            )
        number = whole_number("index", index)
        place = await self._read(lambda conn: groups.place_of(conn, batch_id))
        row = await self._read(lambda conn: scores.judgement_of(conn, batch_id, number, judge))
        if place is None or row is None:
            raise HTTPException(404, "This judgement is not on record.")
        score = form.get("score", "").strip()
        await run_in_threadpool(
            verdicts.add,
            self.engine,
            batch_id=batch_id,
            index=number,
            judge=judge,
            verdict=form.get("verdict", ""),
            score=decimal_number("score", score) if score else None,
            scale=scales_of(place["plan"]).get(judge_name(judge), (0.0, 1.0)),
            note=form.get("note", ""),
            author=form.get("author", ""),
            blind=form.get("blind") == "1",
        )
        author = form["author"].strip()
        run_id = form.get("review", "")
        target = f"/scores/{batch_id}/{index}#verdicts"
        if run_id.isdigit():
            target = f"/review?run={run_id}&mode={mode}"
        answer = RedirectResponse(target, 303)
        answer.set_cookie("oyer_author", author.encode().hex(), samesite="strict", httponly=True)
        return answer

    async def labels(self, request: Request) -> Response:
        """The verdicts of people as JSON lines."""
        run = request.query_params.get("run") or None
        lines = await self._read(lambda conn: list(verdicts.labels(conn, run)))
        return attached("".join(f"{line}\n" for line in lines), "labels.jsonl")

    async def text(self, request: Request) -> Response:
        """One whole text, as plain text."""
        digest = request.path_params["digest"]
        found = await self._read(lambda conn: texts_of(conn, [digest]).get(digest))
        if found is None:
            raise HTTPException(404, "This text is not on record.")
        return PlainTextResponse(found)

    async def _read(self, query: Query) -> Any:
        def run() -> Any:
            with bounded(self.engine) as conn:
                try:
                    return query(conn)
                except (DataError, OverflowError) as error:
                    raise InvalidInput(
                        "the address has a value that the record cannot hold, e.g. too large a number"
                    ) from error

        return await run_in_threadpool(run)

    async def _found(self, query: Query) -> Mapping[str, Any]:
        found: Mapping[str, Any] | None = await self._read(query)
        if found is None:
            raise HTTPException(404, "This is not on record.")
        return found


def create_app(engine: Engine, rules: AccessRules | None = None) -> Starlette:
    """Create the application on a record, which the caller closes."""
    pages = _Pages(engine)
    return Starlette(
        routes=[
            Route("/", pages.runs, name="runs"),
            Route("/runs/{run_id:number}", pages.run, name="run"),
            Route("/runs/{run_id:number}/steps/{step}", pages.step, name="step"),
            Route("/runs/{run_id:number}/steps/{step}/rollouts.{kind}", pages.step_rows),
            Route("/groups/{batch_id}/{index:number}", pages.group, name="group"),
            Route("/scores/{batch_id}/{index:number}", pages.score, name="score"),
            Route("/search", pages.search, name="search"),
            Route("/review", pages.review, name="review"),
            Route("/verdicts", pages.add_verdict, methods=["POST"]),
            Route("/labels.jsonl", pages.labels),
            Route("/texts/{digest}", pages.text),
            *health_routes(lambda: record_problem(engine)),
            Mount("/static", StaticFiles(directory=STATIC), name="static"),
        ],
        middleware=[Middleware(Access, rules=rules or AccessRules())],
        exception_handlers={
            HTTPException: _http_error,
            OyerError: _oyer_error,
            DBAPIError: _database_error,
        },
    )


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return html("error.html", {"message": error.detail}, error.status_code)


async def _oyer_error(_: Request, error: Exception) -> Response:
    return html(
        "error.html", {"message": str(error)}, 422 if isinstance(error, InvalidInput) else 503
    )


async def _database_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, DBAPIError)
    text = str(error.orig).splitlines()[0].rstrip(".")
    sqlite_code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    status, fix = 503, "Try again; `oyer check` says whether the record works."
    if isinstance(error.orig, _REFUSED) or sqlite_code == sqlite3.SQLITE_READONLY:
        status = 403
        fix = "This role may only read: open the page with a role that may add to human_verdicts."
    elif isinstance(error.orig, _ABSENT) or text.startswith("no such "):
        fix = "The record may be of an older release: run `oyer db upgrade`."
    elif sqlite_code == sqlite3.SQLITE_BUSY:
        fix = "Another process has locked the record: go back and try again."
    return html("error.html", {"message": f"{text}. {fix}"}, status)
