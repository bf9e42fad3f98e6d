"""Starts the embedded backend in a supervisor process that ends with this process."""

import contextlib
import json
import logging
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

from oyer.config.loading import validate
from oyer.config.reward import RewardConfig
from oyer.local.processes import Report
from oyer.protocol import errors
from oyer.protocol.errors import BackendUnavailable

log = logging.getLogger(__name__)


def _log_part(part: str, state: str) -> None:
    log.info("embedded backend: %s %s", part, state)


class EmbeddedBackend:
    """Redis, store and workers in child processes, until `close` or the end of this process."""

    def __init__(
        self,
        config: RewardConfig,
        *,
        judge_processes: int | None = None,
        judge_concurrency: int | None = None,
        folder: str | Path | None = None,
        report: Report | None = None,
    ) -> None:
        """Start the backend and wait until its workers are ready.

        Args:
            config: its broker and store URLs, if set, replace the embedded ones.
            judge_processes: number of judge processes; defaults to one per core.
            judge_concurrency: number of chunks that a judge process works on at once.
            folder: where logs are written; defaults to a temporary folder that `close` removes.
            report: called with each part's name and state while the backend starts; by default
                they are logged at level INFO.

        Raises:
            BackendUnavailable: a part did not start; the message includes the end of its output.
        """
        options = {"judge_processes": judge_processes, "judge_concurrency": judge_concurrency}
        request = {
            "config": config.model_dump(mode="json"),
            "options": {name: value for name, value in options.items() if value is not None},
        }
        self.owns_broker = config.broker.url is None
        self._report = report or _log_part
        self._temporary = folder is None
        self.folder = Path(folder or tempfile.mkdtemp(prefix="oyer-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "oyer.local.supervisor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            self.config = validate(self._start({**request, "folder": str(self.folder)}))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop every part; calls in flight may finish within `grace_s`."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _stdin(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _start(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send the request and wait until the backend is ready; returns its configuration."""
        self._stdin.write(json.dumps(request) + "\n")
        self._stdin.flush()
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            if event["event"] == "part":
                self._report(event["part"], event["state"])
            if event["event"] == "ready":
                return dict(event["config"])
            if event["event"] == "failed":
                kind = getattr(errors, event["kind"], BackendUnavailable)
                raise kind(event["error"])
        raise BackendUnavailable("the embedded backend ended before it was ready; see its output")
