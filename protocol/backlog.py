"""The bytes under way on a broker, counted in Redis, so that trainers cannot fill it together."""

from importlib import resources
from typing import TYPE_CHECKING, Any

from oyer.protocol.errors import Overloaded
from oyer.protocol.names import BACKLOG_ENDS_KEY, BACKLOG_KEY

if TYPE_CHECKING:
    from redis import Redis


COUNTING_SCRIPT = resources.files(__package__).joinpath("counting.lua").read_text()
"""What a script that counts begins with."""


class Backlog:
    """Counts batches in and out; what a submission costs here does not grow with them.

    The rollouts of incomplete groups are counted too, by the script that puts them into Redis.
    """

    def __init__(self, redis: "Redis", *, expires_s: int) -> None:
        self._redis = redis
        self._expires_s = expires_s
        text = resources.files(__package__).joinpath("backlog.lua").read_text()
        self._script = redis.register_script(COUNTING_SCRIPT + text)

    def enter(self, batch_id: str, size_bytes: int, max_bytes: int | None) -> None:
        """Count a batch in, or anew where it is submitted again.

        Raises:
            Overloaded: with it, more than `max_bytes` would be under way.
        """
        limit = "" if max_bytes is None else max_bytes
        counted, held_bytes = self._call(batch_id, size_bytes, self._expires_s, limit)
        if counted:
            return
        if size_bytes > (max_bytes or 0):
            raise Overloaded(
                f"the batch is {size_bytes} bytes, packed, more than broker.max_backlog_bytes ="
                f" {max_bytes} for all together: submit it in parts, or raise the limit as far as"
                " Redis has memory"
            )
        raise Overloaded(
            f"{held_bytes} bytes of rollouts are under way, and with the {size_bytes} of this batch"
            f" more than broker.max_backlog_bytes = {max_bytes}: wait for earlier batches, start"
            " more workers, or raise the limit as far as Redis has memory"
        )

    def leave(self, batch_id: str, client: Any = None) -> None:
        """Count a batch out; once more changes nothing.

        Args:
            client: a pipeline to do it in.
        """
        self._call(batch_id, "", 0, "", client=client)

    def held_bytes(self) -> int:
        """Add up the payloads of all batches under way, and of groups that are incomplete."""
        held: int = self._call("", "", 0, "")[1]
        return held

    def _call(self, *args: str | int, client: Any = None) -> Any:
        return self._script(keys=[BACKLOG_KEY, BACKLOG_ENDS_KEY], args=args, client=client)
