"""The routes `/healthz` and `/readyz` of a Starlette application."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


def health_routes(problem: Callable[[], str | None]) -> list[Route]:
    """Return the routes: `/healthz` says that the process runs, `/readyz` whether it can work.

    Args:
        problem: returns why it cannot work, or None; is called in a thread.
    """

    def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    def readyz(_: Request) -> Response:
        error = problem()
        if error is None:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "unavailable", "error": error}, status_code=503)

    return [Route("/healthz", healthz), Route("/readyz", readyz)]
