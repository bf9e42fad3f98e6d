"""The embedded backend as the trainer holds it: a supervisor process that ends with it."""

import contextlib
import fcntl
import json
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from oyer.config.loading import validate
from oyer.config.reward import RewardConfig
from oyer.protocol import errors
from oyer.protocol.errors import BackendUnavailable, InvalidConfig

log = logging.getLogger(__name__)

STATE_FILE = Path(".oyer") / "backend.json"
"""Where `oyer up` leaves the URL of its embedded broker, for managers started beside it."""


LOCK_FILE = STATE_FILE.with_name("lock")
"""Locked for as long as that `oyer up` runs."""


def running_broker() -> str:
    """Find the broker of an `oyer up` in this folder.

    Raises:
        InvalidConfig: there is none.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if _is_locked(LOCK_FILE):
            return str(json.loads(STATE_FILE.read_text())["broker_url"])
    raise InvalidConfig(
        "broker.url: is not set, and no `oyer up` runs in this folder; set it to the workers'"
        " Redis, start `oyer up` here, or use RewardManager.local (`oyer score --local`)"
    )


def _is_locked(path: Path) -> bool:
    """Whether a living process holds a lock; one that was killed leaves its files, but no lock."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


Report = Callable[[str, str], None]
"""Told about each part: its name and its state."""


def _log_part(part: str, state: str) -> None:
    log.info("embedded backend: %s %s", part, state)


class EmbeddedBackend:
    """Redis, store and workers in processes of their own, for as long as this object lives."""

    def __init__(
        self,
        config: RewardConfig,
        *,
        judge_processes: int | None = None,
        judge_concurrency: int | None = None,
        folder: str | Path | None = None,
        report: Report | None = None,
    ) -> None:
        """Start the backend and wait until it takes work.

        Args:
            config: a broker or store URL in it is used instead of an embedded one.
            judge_processes: one per core when left out.
            judge_concurrency: chunks under way at once in a judge process.
            folder: where logs go; a temporary folder, removed on `close`, when left out.
            report: called with each part's name and state while the backend starts; logged as
                information when left out.

        Raises:
            BackendUnavailable: a part did not start; the message holds the end of its output.
        """
        options = {"judge_processes": judge_processes, "judge_concurrency": judge_concurrency}
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
        request = {
            "config": config.model_dump(mode="json"),
            "folder": str(self.folder),
            "options": {name: value for name, value in options.items() if value is not None},
        }
        try:
            self._stdin.write(json.dumps(request) + "\n")
            self._stdin.flush()
            self.config = validate(self._wait_ready())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop every part; calls in flight are finished first."""
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

    def _wait_ready(self) -> dict[str, Any]:
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
