"""Builds the command lines and environments of worker processes."""

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from oyer.protocol import names
from oyer.protocol.errors import InvalidInput
from oyer.tasks.worker.device import visible_gpus
from oyer.tasks.worker.pools import DEFAULT_CONCURRENCY, POOLS


def worker_argv(
    kind: str,
    *,
    name: str,
    queues: Sequence[str] = (),
    concurrency: int | None = None,
    loglevel: str = "WARNING",
) -> list[str]:
    """Build the command line of one worker process.

    Args:
        kind: `judge`, `length` or `combine`.
        name: unique on this host, e.g. `judge-1`.
        queues: queues to consume; defaults to the queue of the kind.
        concurrency: number of concurrent tasks; defaults to that of the kind.

    Raises:
        InvalidInput: the kind is unknown, or the concurrency is below 1.
    """
    if kind not in names.QUEUES:
        raise InvalidInput(f"worker kind {kind!r}: is one of {', '.join(names.QUEUES)}")
    if concurrency is not None and concurrency < 1:
        raise InvalidInput(f"--concurrency {concurrency}: is at least 1")
    argv = [sys.executable, "-P", "-m", "oyer.tasks", "--quiet", "-A", "oyer.tasks"]
    argv += ["worker", "-Q", ",".join(queues or (kind,))]
    argv += ["-P", POOLS[kind], "-c", str(concurrency or DEFAULT_CONCURRENCY[kind])]
    argv += ["-n", f"{name}@%h", "--loglevel", loglevel]
    # Prefetched messages would wait for a solo worker while other workers are idle.
    if POOLS[kind] == "solo":
        argv += ["--prefetch-multiplier", "1"]
    return [*argv, "--without-gossip", "--without-mingle", "--without-heartbeat"]


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Remove `CELERY_…` variables, which may configure another Celery program on this host."""
    return {name: value for name, value in environ.items() if not name.startswith("CELERY_")}


def device_environment(device: str | None, environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which torch sees one device only.

    Args:
        device: `cuda:N`, `cpu`, or None to leave the choice to the process.

    Raises:
        InvalidInput: the device is none of these, or does not exist.
    """
    if device is None:
        return dict(environ)
    if device == "cpu":
        return {**environ, "CUDA_VISIBLE_DEVICES": ""}
    kind, _, index = device.partition(":")
    if kind != "cuda" or not index.isdecimal():
        raise InvalidInput(f"--device {device!r}: is `cpu` or `cuda:N`, e.g. cuda:0")
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    chosen = None if visible is None else [name for name in visible.split(",") if name]
    if chosen is not None and int(index) >= len(chosen):
        raise InvalidInput(
            f"--device {device}: CUDA_VISIBLE_DEVICES={visible} shows {len(chosen)} device(s)"
        )
    return {**environ, "CUDA_VISIBLE_DEVICES": chosen[int(index)] if chosen else index}


def devices() -> list[str | None]:
    """Return the device of each length worker of this host: one worker per GPU, or one worker.

    Without torch there is one worker, since GPUs are used through torch only.
    """
    if find_spec("torch") is None:
        return [None]
    return [f"cuda:{i}" for i in range(visible_gpus())] or [None]


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
