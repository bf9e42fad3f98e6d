"""Limiters in this process, and workers that use one in a process of their own."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from oyer.protocol.redis_client import connect
from oyer.tasks.coordination.adaptive import Evidence
from oyer.tasks.coordination.limiter import Limiter
from oyer.tasks.coordination.limiter_state import Permit
from tests.support.paths import SUPPORT

WORKER = SUPPORT / "limit_worker.py"


def limits(**changed: Any) -> dict[str, Any]:
    none = {"max_in_flight": 10_000, "requests_per_minute": None, "tokens_per_minute": None}
    return none | {"adaptive": False} | changed


@contextlib.contextmanager
def worker(redis_url: str, limiter: dict[str, Any], **job: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a worker process until the block ends, and require that it lived until then."""
    argv = [
        sys.executable,
        str(WORKER),
        json.dumps({"redis_url": redis_url, "limiter": limiter} | job),
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL


@contextlib.contextmanager
def limiter(redis_url: str, worker_id: str, **changed: Any) -> Iterator[Limiter]:
    """Open a limiter in this process; close it, and give what it holds back, at the end.

    Args:
        changed: The endpoint, and limits.
    """
    client = connect(redis_url)
    endpoint = changed.pop("endpoint", "judge")
    opened = Limiter(client, endpoint, worker_id=worker_id, **limits(**changed))
    yield opened
    opened.close()
    client.close()


def take(limiter: Limiter, most: int, wait_s: float) -> list[Permit]:
    """Ask for `most` permits at once; return those granted within `wait_s`."""
    taken: list[Permit] = []

    def one() -> None:
        permit = limiter.acquire(1, time.time() + wait_s)
        if permit is not None:
            taken.append(permit)

    threads = [threading.Thread(target=one) for _ in range(most)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def give(
    limiter: Limiter,
    permits: list[Permit],
    evidence: Evidence = Evidence(clean=1),  # noqa: B008 - frozen
    retry_after_s: float | None = None,
) -> None:
    for permit in permits:
        limiter.release(permit, used_tokens=None, evidence=evidence, retry_after_s=retry_after_s)
