"""Says what is wrong with a Redis that cannot be used, and what to do."""

import redis


def unreachable(error: redis.RedisError, fix: str) -> str:
    """Tell a refused password or certificate from a server that does not answer.

    Args:
        fix: what to do if it does not answer.
    """
    said = str(error)
    if isinstance(error, redis.AuthenticationError) or said.startswith(("WRONGPASS", "NOAUTH")):
        # Without a password, redis-py's first command is a HELLO, which Redis then refuses.
        if "required" in said.lower() or said.startswith(("NOAUTH", "HELLO")):
            return "Redis asks for a password; write it into broker.url, as redis://:password@host:6379/0"
        return "Redis answers, but refuses the user or password of broker.url; correct them"
    if isinstance(error, redis.exceptions.NoPermissionError):
        return f"Redis answers, but refuses a command to the user of broker.url ({said})"
    return f"Redis does not answer ({said.rstrip('.')}); {fix}"
