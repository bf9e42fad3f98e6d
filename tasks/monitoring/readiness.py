"""Whether Redis and the record can be used, for `/readyz`.

The reasons name no host and no user, because `/readyz` is answered without a token.
"""

from typing import TYPE_CHECKING

from redis import RedisError

from oyer.protocol.redis_client import connect

if TYPE_CHECKING:
    from redis import Redis
    from sqlalchemy import Engine

TIMEOUT_S = 5.0
"""Longest wait for a reply of Redis, in seconds."""


def redis_problem(broker: "str | Redis") -> str | None:
    """Return why the broker cannot be used; None if it answers.

    Args:
        broker: its URL, or a client.
    """
    try:
        if isinstance(broker, str):
            with connect(broker, timeout_s=TIMEOUT_S) as client:
                client.ping()
        else:
            broker.ping()
    except RedisError as error:
        return f"the broker does not answer: {type(error).__name__}"
    return None


def record_problem(engine: "Engine") -> str | None:
    """Return why the record cannot be used; None if it answers and is migrated."""
    from sqlalchemy.exc import SQLAlchemyError

    from oyer import migrations

    try:
        problem = migrations.schema_problem(migrations.current_of(engine))
    except (SQLAlchemyError, OSError) as error:
        return f"the record does not answer: {type(error).__name__}"
    return None if problem is None else f"the record {problem}; run `oyer db upgrade`"


def record_problem_at(store_url: str) -> str | None:
    """Return the same for the record at a URL."""
    from oyer.models.engine import open_engine

    engine = open_engine(store_url)
    try:
        return record_problem(engine)
    finally:
        engine.dispose()
