"""Memory, threads, descriptors and connections of processes; memory and keys of Redis."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import redis

from oyer.manager import RewardManager
from oyer.protocol import names
from oyer.protocol.measuring import live_workers

MIB = 2**20


@dataclass(frozen=True)
class Held:
    """Resources of one process at one moment."""

    rss_bytes: int
    threads: int
    descriptors: int


def held_by(pid: int) -> Held:
    """Read the resources of a process from /proc."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return Held(
        rss_bytes=int(status["VmRSS"].split()[0]) * 1024,
        threads=int(status["Threads"]),
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
    )


def peak_bytes(pid: int) -> int:
    """Most memory that a process has held since its start, or since `forget_peaks`."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def forget_peaks(pids: Callable[[], dict[str, int]]) -> None:
    """Reset the peaks (proc(5), clear_refs)."""
    for pid in pids().values():
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def processes_of(manager: RewardManager) -> dict[str, int]:
    """Process ids by name: this trainer, each worker, and Redis."""
    url = str(manager.config.broker.url)
    with redis.Redis.from_url(url) as client:
        found = {"trainer": os.getpid(), "redis": int(client.info()["process_id"])}
        for queue, entries in live_workers.workers(client).items():
            for i, entry in enumerate(sorted(entries, key=lambda e: e["pid"])):
                found[f"{queue}-{i + 1}"] = entry["pid"]
    return found


def immortal_keys(client: redis.Redis) -> list[str]:
    """Keys that never expire, but for the queues and kombu's own."""
    mine = {*names.QUEUES, "unacked", "unacked_index", "unacked_mutex"}
    return [
        key.decode()
        for key in client.scan_iter(count=1000)
        if client.ttl(key) == -1
        and key.decode() not in mine
        and not key.startswith(b"_kombu.binding")
    ]


class Sampler:
    """Samples the peak memory of Redis during a block, in a thread."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.most_bytes = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(0.1):
            self.most_bytes = max(self.most_bytes, int(self._client.info()["used_memory"]))
