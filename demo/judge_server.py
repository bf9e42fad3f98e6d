"""A scripted OpenAI-compatible judge server: a plan decides each reply, delay and fault.

    with JudgeServer({"rules": [{"when": {"sequence": 0}, "then": "unavailable"}]}) as server:
        ...                                           # an endpoint at server.base_url
        server.wait_until(lambda log: len(log) == 2)  # rather than sleeping

    python -m oyer.demo.judge_server --latency-s 0.5 --plan plan.json

- `POST …/chat/completions` follows the plan; `GET …/models` lists one model; other routes are 404.
- `POST /control/plan`, `/control/reset`, `/control/release` and `GET /control/log` control a
  server in another process.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from oyer.demo.chat_endpoint import ChatEndpoint, PlanSource, listen, shut_down
from oyer.demo.request_log import RequestEntry
from oyer.demo.responses import Action
from oyer.protocol.errors import BackendUnavailable, InvalidInput
from oyer.tasks.worker.open_files import raise_limit

HOST = "127.0.0.1"
"""Loopback only, because no key is required."""


class JudgeServer:
    """The judge server in a thread of this process.

    An exception in the server, e.g. one that the plan raises, is raised again at the end of the
    `with` block.
    """

    def __init__(
        self,
        plan: PlanSource | None = None,
        *,
        port: int = 0,
        body_limit_bytes: int = 2**20,
    ) -> None:
        self._endpoint = ChatEndpoint(plan or Action(), body_limit_bytes=body_limit_bytes)
        self._port = port
        self._ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, name="judge-server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._loop, self._stop, self.port = self._ready.result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        if self._errors and error is None:
            raise self._errors[0]

    @property
    def base_url(self) -> str:
        """The `base_url` for an endpoint's configuration."""
        return f"http://{HOST}:{self.port}/v1"

    @property
    def requests(self) -> list[RequestEntry]:
        """The log in the order of arrival."""
        with self._endpoint.changed:
            return list(self._endpoint.arrivals)

    def set_plan(self, plan: PlanSource) -> None:
        """Use another plan for later requests."""
        self._in_loop(lambda: self._endpoint.install(plan))

    def reset(self) -> None:
        """Clear the log and restart the plan."""
        self._in_loop(self._endpoint.reset)

    def release(self) -> None:
        """Answer the requests held so far by actions with `hold`."""
        self._in_loop(self._endpoint.release)

    def wait_until(
        self, predicate: Callable[[list[RequestEntry]], bool], timeout_s: float = 60.0
    ) -> None:
        """Wait until the log satisfies a predicate, which is evaluated at each arrival and end.

        Raises:
            TimeoutError: it was not satisfied within `timeout_s`.
        """
        endpoint = self._endpoint
        with endpoint.changed:
            if not endpoint.changed.wait_for(lambda: predicate(endpoint.arrivals), timeout_s):
                open_count = sum(a.finished_at_s is None for a in endpoint.arrivals)
                raise TimeoutError(
                    f"not within {timeout_s} s: {len(endpoint.arrivals)} requests have arrived,"
                    f" {open_count} of them unanswered"
                )

    def _in_loop(self, change: Callable[[], None]) -> None:
        done: Future[None] = Future()

        def run() -> None:
            try:
                change()
            except InvalidInput as error:
                done.set_exception(error)
            else:
                done.set_result(None)

        self._loop.call_soon_threadsafe(run)
        done.result()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        loop.set_exception_handler(self._note_error)
        try:
            server = await listen(self._endpoint, HOST, self._port)
        except OSError as error:
            self._ready.set_exception(error)
            return
        self._ready.set_result((loop, stop, server.sockets[0].getsockname()[1]))
        await stop.wait()
        await shut_down(server, self._endpoint)

    def _note_error(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._errors.append(context.get("exception") or RuntimeError(context["message"]))


@contextmanager
def judge_process(*arguments: str) -> Iterator[str]:
    """Run the judge server in a child process, which ends with this process.

    Args:
        arguments: As on the command line, e.g. `"--latency-s", "0.5"`.

    Yields:
        Its base URL.

    Raises:
        BackendUnavailable: the server did not start.
    """
    command = [
        sys.executable,
        "-P",
        "-m",
        "oyer.demo.judge_server",
        "--exit-with-parent",
        *arguments,
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise BackendUnavailable("the judge server did not start; its error output says why")
        try:
            yield json.loads(line)["base_url"]
        finally:
            # Popen would close it too, but only after waiting for the process.
            process.stdin.close()


def main() -> None:
    """Serve until SIGTERM, SIGINT or, with `--exit-with-parent`, the end of standard input."""
    parser = argparse.ArgumentParser(
        prog="python -m oyer.demo.judge_server",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=0, help="port; 0 chooses a free one")
    parser.add_argument(
        "--latency-s", type=float, default=0.0, help="latency of the default reply, in seconds"
    )
    parser.add_argument(
        "--text", help="text of the default reply; by default a rule scores the response"
    )
    parser.add_argument("--plan", type=Path, help="JSON file with a plan; see oyer.demo.scenarios")
    parser.add_argument("--log", type=Path, help="file to append each finished request to")
    parser.add_argument(
        "--body-limit-bytes",
        type=int,
        default=2**20,
        help="maximum size of a logged request body; longer ones are logged as a hash",
    )
    parser.add_argument(
        "--exit-with-parent", action="store_true", help="exit when standard input ends"
    )
    raise_limit()
    asyncio.run(_serve_process(parser))


async def _serve_process(parser: argparse.ArgumentParser) -> None:
    options = parser.parse_args()
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if options.exit_with_parent:
        threading.Thread(target=_await_stdin_end, args=(loop, stop), daemon=True).start()
    try:
        log_file = options.log and options.log.open("a", encoding="utf-8", buffering=1)
        endpoint = ChatEndpoint(
            json.loads(options.plan.read_text(encoding="utf-8")) if options.plan else {},
            default=Action(latency_s=options.latency_s, text=options.text),
            body_limit_bytes=options.body_limit_bytes,
            log_file=log_file,
        )
        server = await listen(endpoint, HOST, options.port)
    except (OSError, ValueError) as error:
        # The port is in use, a file is missing, or the plan is invalid.
        parser.error(str(error))
    port = server.sockets[0].getsockname()[1]
    ready = {"base_url": f"http://{HOST}:{port}/v1", "pid": os.getpid()}
    print(json.dumps(ready), flush=True)
    await stop.wait()
    await shut_down(server, endpoint)
    if log_file:
        log_file.close()


def _await_stdin_end(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    # Not through sys.stdin: this thread would hold its lock at exit.
    while os.read(0, 4096):
        pass
    loop.call_soon_threadsafe(stop.set)


if __name__ == "__main__":
    main()
