"""Where the processes and hosts of a run meet to make groups: one script over Redis (`group.lua`).

- A group is made once: its batch is published under the claim of one leader, and a leader that dies
  is replaced when its lease ends. After publishing, the batch's id stands, whoever sends it.
- What happens to a group is told to every process with a member of it, through its mailbox; a
  mailbox is a hint, and looking at the group says the same.
"""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from hashlib import sha1
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

from oyer.manager.streaming.identity import Parts, TimeoutPolicy
from oyer.protocol.batch_store import COUNTING_SCRIPT
from oyer.protocol.names import BACKLOG_ENDS_KEY, BACKLOG_KEY, group_key, mailbox_key

if TYPE_CHECKING:
    from redis import Redis

LEASE_S = 5.0
"""A leader that has not published its group for so long is replaced, in seconds."""

MEMORY_S = 120.0
"""How long a group's outcome is kept for a rollout handed over again, in seconds: trainers retry
within a few; a prompt may come back after that with the same response."""

_SCRIPT = COUNTING_SCRIPT + resources.files(__package__).joinpath("group.lua").read_text()
_SHA = sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()  # the name that Redis gives it


@dataclass(frozen=True, kw_only=True)
class Bringing:
    """Members of one group that a process brings at one time."""

    group: str
    size: int
    step: int | None
    timeout_s: float
    """How long the group waits; counts when it begins with these."""
    on_timeout: TimeoutPolicy
    ids: Sequence[str]
    parts: Parts


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One generation of a group as a process finds it; a group's name may come back later."""

    group: str
    generation: str
    state: Literal["open", "led", "claimed", "published", "sent", "failed", "gone"]
    """`open`: incomplete. `led`: another process sees to it. `claimed`: this one is to make its
    batch. `published`: this one is to send its batch. `sent`: wait for its batch. `failed`: late.
    `gone`: Redis has forgotten it."""
    n: int = 0
    policy: TimeoutPolicy = "partial"
    step: int | None = None
    late: bool = False
    wait_s: float = 0.0
    """For `open` and `led`: when to look again at the latest, in seconds."""
    ids: Sequence[str] = ()
    parts: Sequence[Parts] = ()
    """For `claimed`: the members, in order, and what they are."""
    batch: str = ""
    start: int = 0
    verdicts: int = 0
    """For `sent`: the batch, and the row of it that the group begins with."""

    @property
    def place(self) -> "Place":
        """What it is found by."""
        return self.group, self.generation


Place = tuple[str, str]
"""A group and its generation."""


@dataclass(frozen=True)
class Brought:
    """Where members were put."""

    places: Sequence[tuple[str, int, bool]]
    """Of each member: generation, row in the group, and whether it was not there before. A row of -1
    stands for a member of a group that was closed late before."""
    seen: Sequence[Seen] = field(default_factory=tuple)


@dataclass(frozen=True)
class _Call:
    """One run of the script."""

    groups: Sequence[str]
    operation: str
    args: Mapping[str, Any]
    parts: Parts | tuple[()] = ()


class GroupStore:
    """One process's part in the groups of a broker.

    Every method raises what `reached` makes of a broker that is away.
    """

    def __init__(
        self, redis: "Redis", reached: Callable[[], AbstractContextManager[None]], expires_s: int
    ) -> None:
        self._redis = redis
        self._reached = reached
        self._mailbox = mailbox_key(uuid.uuid4().hex)
        self._token = uuid.uuid4().hex
        self._always = {
            "mailbox": self._mailbox,
            "token": self._token,
            "lease_ms": int(LEASE_S * 1000),
            "expires_ms": expires_s * 1000,
            "memory_ms": int(MEMORY_S * 1000),
            "backlog": [BACKLOG_KEY, BACKLOG_ENDS_KEY],
        }

    def look(
        self, bringings: Sequence[Bringing] = (), places: Sequence[Place] = ()
    ) -> tuple[list[Brought], list[Seen]]:
        """Bring members, and look at groups that were brought before, in one round trip."""
        calls = [
            _Call(
                [b.group],
                "look",
                {
                    "ids": b.ids,
                    "size": b.size,
                    "step": -1 if b.step is None else b.step,
                    "timeout_ms": int(b.timeout_s * 1000),
                    "policy": b.on_timeout,
                },
                b.parts,
            )
            for b in bringings
        ]
        calls += [
            _Call([group], "look", {"ids": [], "generation": generation})
            for group, generation in places
        ]
        answers = self._run(calls)
        brought = [
            Brought(
                [(name, row, bool(fresh)) for name, row, fresh in json.loads(answer[0])],
                [_seen(b.group, *view) for view in answer[1]],
            )
            for b, answer in zip(bringings, answers, strict=False)
        ]
        looked = [
            _seen(group, *answer[1][0])
            for (group, _), answer in zip(places, answers[len(bringings) :], strict=True)
        ]
        return brought, looked

    def publish(self, starts: Mapping[Place, int], batch_id: str, verdicts: int) -> list[Place]:
        """Say which batch claimed groups are in, and from which row on: all of them or none.

        Returns:
            Those whose claim another process holds by now; then none is published.
        """
        places = list(starts)
        said = {"batch": batch_id, "verdicts": verdicts, "starts": list(starts.values())}
        return [places[i - 1] for i in self._together("publish", places, **said)]

    def announce(self, places: Sequence[Place]) -> None:
        """Say that the tasks of published groups are sent."""
        self._together("announce", places)

    def release(self, places: Sequence[Place]) -> None:
        """Leave claimed groups to the next process that looks."""
        self._together("release", places)

    def finish(self, places: Sequence[Place]) -> None:
        """Say that the batches of groups have ended: they are remembered for `MEMORY_S` more."""
        self._together("finish", places)

    def told(self) -> set[str]:
        """Empty the mailbox: the groups to look at."""
        with self._reached():
            pipe = self._redis.pipeline(transaction=True)
            pipe.lrange(self._mailbox, 0, -1)
            pipe.delete(self._mailbox)
            keys = pipe.execute()[0]
        return {key.decode().removeprefix(group_key("")) for key in keys}

    def _together(self, operation: str, places: Sequence[Place], **said: Any) -> Any:
        """Do the same to several groups in one run of the script."""
        if not places:
            return []
        args = {"generations": [generation for _, generation in places], **said}
        (answer,) = self._run([_Call([group for group, _ in places], operation, args)])
        return answer

    def _run(self, calls: Sequence[_Call]) -> list[Any]:
        """Run the script for each call, in one round trip; twice where Redis does not know it yet."""
        from redis.exceptions import NoScriptError

        if not calls:
            return []
        with self._reached():
            answers = self._attempt(calls)
            again = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            if again:
                self._redis.script_load(_SCRIPT)
                repeated = self._attempt([calls[i] for i in again])
                for i, answer in zip(again, repeated, strict=True):
                    answers[i] = answer
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        return answers

    def _attempt(self, calls: Sequence[_Call]) -> list[Any]:
        pipe = self._redis.pipeline(transaction=False)
        for call in calls:
            args = json.dumps({**self._always, **call.args})
            keys = [group_key(group) for group in call.groups]
            pipe.evalsha(_SHA, len(keys), *keys, call.operation, args, *call.parts)
        return list(pipe.execute(raise_on_error=False))


def _seen(group: str, packed: bytes, rows: Sequence[bytes]) -> Seen:
    said = json.loads(packed)
    if said["state"] == "gone":
        return Seen(group=group, generation=said["generation"], state="gone")
    return Seen(
        group=group,
        generation=said["generation"],
        state=said["state"],
        n=said["n"],
        policy=said["policy"],
        step=None if said["step"] < 0 else said["step"],
        late=said["late"],
        wait_s=said.get("wait_ms", 0) / 1000,
        ids=said.get("ids", ()),
        parts=list(zip(rows[0::3], rows[1::3], rows[2::3], strict=True)),
        batch=said.get("batch", ""),
        start=said.get("start", 0),
        verdicts=said.get("verdicts", 0),
    )
