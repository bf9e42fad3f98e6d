"""The state file and lock of `oyer up`, through which processes in the same folder find its broker."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from oyer.protocol.errors import BackendUnavailable, InvalidConfig

STATE_FILE = Path(".oyer") / "backend.json"
"""Holds the URL of the embedded broker, for managers started in the same folder."""

LOCK_FILE = STATE_FILE.with_name("lock")
"""Locked while that `oyer up` runs."""


def running_broker() -> str:
    """Return the URL of the broker of the `oyer up` in this folder.

    Raises:
        InvalidConfig: none runs here.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if _is_locked(LOCK_FILE):
            return str(json.loads(STATE_FILE.read_text())["broker_url"])
    raise InvalidConfig(
        "broker.url: is not set, and no `oyer up` runs in this folder; set it to the workers'"
        " Redis, start `oyer up` here, or use RewardManager.local (`oyer score --local`)"
    )


@contextlib.contextmanager
def folder_lock(path: Path) -> Iterator[None]:
    """Hold the lock of a folder; the kernel releases it however this process ends.

    Raises:
        BackendUnavailable: another `oyer up` holds it, or the folder is not writable.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        raise BackendUnavailable(
            f"{path.parent}: {error.strerror}; start `oyer up` in a folder that you can write to"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BackendUnavailable(
                f"an `oyer up` already runs in this folder ({path.parent}); stop it, or use another"
                " folder"
            ) from error
        yield


def write_state(path: Path, broker_url: str | None) -> None:
    """Write the broker's URL, readable by the owner only because it may hold a password."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with open(os.open(path, flags, 0o600), "w") as file:
        json.dump({"broker_url": broker_url, "pid": os.getpid()}, file)


def _is_locked(path: Path) -> bool:
    """Whether a living process holds the lock; a killed process leaves the file without a lock."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
