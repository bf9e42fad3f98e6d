"""What one worker process holds: its configuration, Redis, and the engine of the record.

Everything here is made on first use, so after the pool has forked or gevent has patched.
"""

import os
import secrets
import socket
from functools import cache
from typing import TYPE_CHECKING

import redis

from oyer.config.loading import load_config
from oyer.config.reward import RewardConfig
from oyer.protocol.batch_store import BatchStore
from oyer.protocol.errors import InvalidConfig
from oyer.protocol.redis_client import Client

if TYPE_CHECKING:
    from sqlalchemy import Engine


@cache
def config() -> RewardConfig:
    """Return this worker's own configuration."""
    return load_config()


def broker_url() -> str:
    """Return the URL of this worker's broker.

    Raises:
        InvalidConfig: it is not set.
    """
    url = config().broker.url
    if url is None:
        raise InvalidConfig(
            "broker.url: is not set; give the workers the broker of the trainers, e.g."
            " OYER_BROKER__URL=redis://localhost:6379/0, or run `oyer up`"
        )
    return url


@cache
def redis_client() -> redis.Redis:
    """Return this process's Redis connections, a pool shared by its greenlets or threads."""
    return Client.from_url(broker_url(), max_connections=300, health_check_interval=10)


@cache
def exchange() -> BatchStore:
    """Return the batches in transit."""
    return BatchStore(redis_client(), expires_s=config().broker.result_expires_s)


@cache
def engine() -> "Engine":
    """Return the engine of the record; one per process, since connections survive no fork."""
    # A length worker keeps no record and loads no SQLAlchemy.
    from oyer.models.engine import open_engine

    return open_engine(config().store.url)


def close_record() -> None:
    """Close the record, if it was opened: the last to close a SQLite file leaves no `-wal` behind."""
    if engine.cache_info().currsize:
        engine().dispose()


@cache
def worker_name() -> str:
    """Name this process in rows and leases; never again given to another process."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
