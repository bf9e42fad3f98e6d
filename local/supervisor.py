"""Runs the embedded backend: starts Redis, migrates the store, starts and restarts the workers.

As a process (`python -m oyer.local.supervisor`) it reads one JSON line from standard input, writes
events as JSON lines to standard output, and ends when its standard input closes, that is, when
the trainer ends. The kernel ends its children if it is killed.
"""

import json
import os
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from oyer.config.loading import CONFIG_VARIABLE, validate
from oyer.config.reward import RewardConfig
from oyer.config.variables import secret_of
from oyer.local.embedded_redis import embedded_redis_argv
from oyer.local.extras import WORKER_PACKAGES, require
from oyer.local.processes import Child, Report, keep_alive, run_to_end, stop_all
from oyer.local.worker_commands import (
    cores,
    device_environment,
    devices,
    worker_argv,
    worker_environment,
)
from oyer.protocol import names
from oyer.protocol.batch_store import BatchStore
from oyer.protocol.errors import BackendUnavailable, MessageRefused, OyerError
from oyer.protocol.measuring import live_workers
from oyer.protocol.redis_client import connect, refuse_cluster, unreachable

START_TIMEOUT_S = 120.0
"""Maximum wait for all workers to be ready; long, because the machine may be busy."""

KILL_MARGIN_S = 5.0
"""A worker ends within `grace_s` of SIGTERM; it is killed this much later."""

CONFIG_FILE = "oyer.json"
"""Configuration of the workers, in the backend's folder while it runs."""

_POLL_S = 0.05

_REDIS = "redis"
"""Name of the broker's process; all others are workers."""


@dataclass
class Supervisor:
    """Starts the processes of a backend, restarts those that die, and stops all of them."""

    config: RewardConfig
    folder: Path
    """Folder of this run's configuration and logs."""
    report: Report
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set by the caller to end `start` and `watch`."""
    judge_processes: int = field(default_factory=cores)
    judge_concurrency: int | None = None
    combine_processes: int = 1
    loglevel: str = "INFO"
    length_workers: bool = True
    """Whether to start length workers; if not, the combine workers compute length terms."""

    def __post_init__(self) -> None:
        self._children: list[Child] = []
        self._workers: dict[str, int] = {}
        self._environ = worker_environment(os.environ)

    def start(self) -> None:
        """Start every process and wait until all workers are ready, or `stopping` is set.

        Raises:
            MissingExtra: the workers' packages are not installed.
            BackendUnavailable: a process did not start; the message includes the end of its output.
            InvalidConfig: the configuration lacks something that a worker needs.
        """
        require("a backend on this machine", "embedded", *WORKER_PACKAGES)
        self._check_keys()
        # The two are independent, and each takes about a second.
        with ThreadPoolExecutor(max_workers=1) as beside:
            migrated = beside.submit(self._migrate, dict(self._environ))
            if self.config.broker.url is None:
                self._start_redis()
            else:
                self._ping(self.config.broker.url)
                self.report(_REDIS, "configured broker answers")
            self._write_config()
            migrated.result()
        self.report("store", "migrated")
        self._start_workers()
        self._wait_for_workers()

    def watch(self) -> None:
        """Restart processes that die until `stopping` is set; call it on the main thread."""
        keep_alive(self._children, self.stopping, self.report)

    def stop(self) -> None:
        """Stop the workers, then Redis, so that calls in flight are recorded."""
        workers = [child for child in self._children if child.name != _REDIS]
        stop_all(workers, self.report)
        if any(child.name == _REDIS and not child.ended() for child in self._children):
            self._end_batches()
        stop_all([child for child in self._children if child.name == _REDIS], self.report)
        self._children.clear()
        if workers:  # a killed worker did not close the database
            from oyer.models.engine import checkpoint

            checkpoint(self.config.store.url)
        # It contains the passwords of the broker and the database.
        (self.folder / CONFIG_FILE).unlink(missing_ok=True)

    def _end_batches(self) -> None:
        """Record unfinished batches as ended, since their embedded broker is about to stop."""
        why = f"its backend was stopped ({socket.gethostname()}:{os.getpid()})"
        try:
            with connect(str(self.config.broker.url), timeout_s=5) as client:
                exchange = BatchStore(client, expires_s=self.config.broker.result_expires_s)
                endings = {
                    batch_id: exchange.ending(batch_id) or ("cancelled", why)
                    for batch_id in exchange.unfinished()
                }
        except (redis.RedisError, MessageRefused) as error:
            self.report("store", f"unfinished batches stay `submitted`: {error}")
            return
        if endings:
            # Imported here because it loads SQLAlchemy.
            from oyer.tasks.record import end_batches

            self.report("store", end_batches(endings, self.config.store.url))

    def _check_keys(self) -> None:
        for name, endpoint in self.config.endpoints.items():
            variable = endpoint.api_key_env
            if variable:
                secret_of(
                    variable,
                    os.environ,
                    where=f"endpoints.{name}.api_key_env",
                    fix="export it before starting the workers, or leave the key out for an open"
                    " server",
                )

    def _start_redis(self) -> None:
        argv, config_text, url = embedded_redis_argv(self.folder)
        child = self._add(_REDIS, argv, self._environ, stdin=config_text)
        child.start()
        deadline = time.monotonic() + 30
        while True:
            try:
                self._ping(url)
                break
            except BackendUnavailable:
                if child.ended() or time.monotonic() > deadline:
                    raise BackendUnavailable(f"redis did not start: {child.tail()}") from None
                time.sleep(_POLL_S)
        self.config = self.config.model_copy(
            update={"broker": self.config.broker.model_copy(update={"url": url})}
        )
        self.report(_REDIS, "embedded server answers")

    def _ping(self, url: str) -> None:
        try:
            with connect(url, timeout_s=5) as client:
                client.ping()
                refuse_cluster(client)
        except redis.RedisError as error:
            raise BackendUnavailable(
                "broker.url: "
                + unreachable(error, "start it, or leave the URL out for an embedded one")
            ) from error

    def _write_config(self) -> None:
        path = self.folder / CONFIG_FILE
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(self.config.model_dump(mode="json"), file)
        self._environ[CONFIG_VARIABLE] = str(path)
        # The file now holds the values of these variables.
        for variable in list(self._environ):
            section = variable.removeprefix("OYER_").lower().split("__")[0]
            if variable.startswith("OYER_") and section in RewardConfig.model_fields:
                del self._environ[variable]

    def _migrate(self, environ: dict[str, str]) -> None:
        argv = [sys.executable, "-P", "-m", "oyer.migrations", "upgrade"]
        environ["OYER_STORE__URL"] = self.config.store.url
        returncode, output = run_to_end(argv, environ)
        if returncode:
            raise BackendUnavailable(
                f"store.url: the store cannot be migrated: {output}; name an existing database, or a"
                " file that you can write"
            )

    def _start_workers(self) -> None:
        plan: list[tuple[str, str | None]] = [(names.JUDGE_QUEUE, None)] * self.judge_processes
        if self.length_workers:
            plan += [(names.LENGTH_QUEUE, device) for device in devices()]
        plan += [(names.COMBINE_QUEUE, None)] * self.combine_processes
        for kind, device in plan:
            self._workers[kind] = self._workers.get(kind, 0) + 1
            name = f"{kind}-{self._workers[kind]}"
            concurrency = self.judge_concurrency if kind == names.JUDGE_QUEUE else None
            # A manager with another configuration may still need length terms.
            shared = kind == names.COMBINE_QUEUE and not self.length_workers
            argv = worker_argv(
                kind,
                name=name,
                queues=(kind, names.LENGTH_QUEUE) if shared else (),
                concurrency=concurrency,
                loglevel=self.loglevel,
            )
            environ = device_environment(device, self._environ)
            self._add(name, argv, environ).start()

    def _wait_for_workers(self) -> None:
        assert self.config.broker.url is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        # On a shared broker, workers of other hosts may have the same process ids.
        host = socket.gethostname()
        waiting = {(host, child.pid): child for child in self._children if child.name != _REDIS}
        with connect(self.config.broker.url, timeout_s=5) as client:
            while waiting and not self.stopping.wait(_POLL_S):
                for entries in live_workers.workers(client).values():
                    for entry in entries:
                        child = waiting.pop((entry["host"], entry["pid"]), None)
                        if child is not None:
                            self.report(child.name, _ready_line(entry))
                for child in waiting.values():
                    if child.ended():
                        raise BackendUnavailable(f"{child.name} did not start: {child.tail()}")
                if waiting and time.monotonic() > deadline:
                    late = "; ".join(f"{c.name}: {c.tail()}" for c in waiting.values())
                    raise BackendUnavailable(
                        f"not ready after {START_TIMEOUT_S:g} s, see {self.folder}: {late}"
                    )

    def _add(
        self, name: str, argv: list[str], environ: dict[str, str], stdin: str | None = None
    ) -> Child:
        grace_s = self.config.grace_s + KILL_MARGIN_S
        child = Child(name, argv, environ, log_folder=self.folder, stdin=stdin, grace_s=grace_s)
        self._children.append(child)
        return child


def _ready_line(entry: dict[str, Any]) -> str:
    device = f" on {entry['device']}" if entry.get("device") else ""
    return f"ready, process {entry['pid']}{device}"


def main() -> int:
    """Start as the line on standard input says, and stop when standard input closes."""

    def write_event(**event: Any) -> None:
        try:
            print(json.dumps(event), flush=True)
        except BrokenPipeError:
            stopping.set()

    stopping = threading.Event()
    request = json.loads(sys.stdin.readline())
    config = validate(request["config"])
    supervisor = Supervisor(
        config=config,
        folder=Path(request["folder"]),
        report=lambda part, state: write_event(event="part", part=part, state=state),
        stopping=stopping,
        length_workers=bool(config.length),
        **request["options"],
    )

    def wait_for_parent() -> None:
        # Not `sys.stdin.read`: this thread would hold its lock at exit, which aborts the process.
        while os.read(sys.stdin.fileno(), 1024):
            pass
        stopping.set()

    threading.Thread(target=wait_for_parent, daemon=True).start()
    try:
        supervisor.start()
    except OyerError as error:
        write_event(event="failed", kind=type(error).__name__, error=str(error))
        supervisor.stop()
        return 1
    write_event(event="ready", config=supervisor.config.model_dump(mode="json"))
    supervisor.watch()
    supervisor.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
