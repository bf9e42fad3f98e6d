"""The state of groups in Redis, shared by all processes of a training: one script, `group.lua`.

What it promises, how, and which tests hold it: docs/internals/group_store.md.
"""

import json
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1
from importlib import resources
from typing import Any, Literal, NamedTuple

from oyer.manager.backend.connection import Broker, backend
from oyer.manager.streaming.identity import PackedRollouts, pack
from oyer.manager.streaming.pending import GroupClosing, PendingRollout, TimeoutPolicy
from oyer.protocol.batch_store import COUNTING_SCRIPT
from oyer.protocol.names import BACKLOG_ENDS_KEY, BACKLOG_KEY, group_key, mailbox_key, spread_key

CLAIM_S = 5.0
"""A claim expires after this time unless its group is published, in seconds."""

MEMORY_S = 120.0
"""How long a finished group is kept for retries of its rollouts, in seconds. Trainers retry within
seconds; later, the same response to a prompt may be another sample."""

ABANDONED_S = 30.0
"""An open group that no process has closed this long after it was overdue is abandoned, in seconds: its
processes have ended, because a running one reads its groups every `READ_PAUSE_S`. Later rollouts, e.g. of
the resumed training, form a new group."""

_SCRIPT = COUNTING_SCRIPT + "".join(
    resources.files(__package__).joinpath(name).read_text()
    for name in ("group_wait.lua", "group.lua")
)
_SHA = sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()  # its name in Redis

GroupKey = tuple[str, str]
"""A group's name and its generation: the name may come back for another group."""

_Call = tuple[list[str], tuple[Any, ...]]
"""Keys and arguments of one run of the script."""


@dataclass(frozen=True, kw_only=True)
class GroupState:
    """A group in Redis as one process sees it."""

    key: GroupKey
    state: Literal["open", "claimed_elsewhere", "claimed", "published", "sent", "failed", "gone"]
    """`open`: incomplete. `claimed`: this process submits it. `claimed_elsewhere`: another does.
    `published`: this process sends the tasks of its batch. `sent`: it is in a batch.
    `failed`: overdue under the policy `error`. `gone`: not in Redis."""
    n: int = 0
    """Its rollouts so far."""
    policy: TimeoutPolicy = "partial"
    step: int | None = None
    late: bool = False
    """Whether it was closed without some of its rollouts."""
    told: bool = False
    """Whether a process said that these would not come."""
    waited_s: float = 0.0
    """For a group closed late: how long it was open, in seconds."""
    wait_s: float = 0.0
    """For `open` and `claimed_elsewhere`: when the state changes by itself, in seconds."""
    ids: Sequence[str] = ()
    """For `claimed`: its rollouts, by row."""
    packed: Sequence[PackedRollouts] = ()
    batch: str = ""
    start: int = 0
    """For `sent`: its first row in the batch."""
    verdicts: int = 0
    """For `sent`: the judgements of the whole batch."""

    @property
    def with_length(self) -> bool:
        """Whether its rewards get length terms."""
        return not self.late or self.policy == "partial"


class Joined(NamedTuple):
    """A rollout's place in a group."""

    rollout: PendingRollout
    group: GroupState
    row: int
    """-1 if the group was closed late before the rollout arrived."""
    is_new: bool
    """False if the rollout was in the group before."""


class GroupStore:
    """One process's access to the groups of a broker.

    Every method raises `BackendUnavailable` if the broker cannot be reached.
    """

    def __init__(self, broker: Broker, *, with_token_ids: bool = False) -> None:
        self._broker = broker
        self._with_token_ids = with_token_ids
        self._mailbox = mailbox_key(uuid.uuid4().hex)
        self._args = {
            "mailbox": self._mailbox,
            "token": uuid.uuid4().hex,
            "lease_ms": int(CLAIM_S * 1000),
            "expires_ms": broker.expires_s * 1000,
            "memory_ms": int(MEMORY_S * 1000),
            "abandoned_ms": int(ABANDONED_S * 1000),
            "backlog": [BACKLOG_KEY, BACKLOG_ENDS_KEY],
        }

    def join(self, groups: Sequence[Sequence[PendingRollout]]) -> list[Joined]:
        """Add rollouts to their groups; each inner sequence is of one group and step."""
        joined = []
        answers = self._run([self._join_call(rollouts) for rollouts in groups])
        for rollouts, (places, views) in zip(groups, answers, strict=True):
            states = [_state(str(rollouts[0].group), *view) for view in views]
            by_generation = {state.key[1]: state for state in states}
            joined += [
                Joined(one, by_generation[generation], row, bool(new))
                for one, (generation, row, new) in zip(rollouts, json.loads(places), strict=True)
            ]
        return joined

    def read(self, keys: Sequence[GroupKey]) -> list[GroupState]:
        """Read groups; this process claims those that are overdue or whose claim has expired."""
        calls = [
            self._call("join", [group], {"ids": [], "generation": generation})
            for group, generation in keys
        ]
        answers = zip(keys, self._run(calls), strict=True)
        return [_state(group, *views[0]) for (group, _), (_, views) in answers]

    def close(self, closings: Sequence[GroupClosing]) -> None:
        """Note rollouts that will not come; groups without further ones are due at once."""
        calls = []
        for closing in closings:
            args: dict[str, Any] = {"size": closing.group_size, "step": _step(closing.step)}
            if closing.absent is not None:
                args["absent"] = closing.absent
            calls.append(self._call("close", closing.groups, args))
        self._run(calls)

    def publish(
        self, starts: Mapping[GroupKey, int], batch_id: str, verdicts: int
    ) -> list[GroupKey]:
        """Set the batch of claimed groups and their first rows in it: of all or of none.

        Returns:
            Groups that other processes have claimed by now; if there are any, none is published.
        """
        keys = list(starts)
        batch = {"batch": batch_id, "verdicts": verdicts, "starts": list(starts.values())}
        return [keys[i - 1] for i in self._update("publish", keys, **batch)]

    def mark_sent(self, keys: Sequence[GroupKey]) -> None:
        """Note that the tasks of published groups are sent."""
        self._update("mark_sent", keys)

    def release(self, keys: Sequence[GroupKey]) -> None:
        """Give up the claims on groups, so that another process can claim them."""
        self._update("release", keys)

    def finish(self, keys: Sequence[GroupKey]) -> None:
        """Note that the batches of groups have ended: the groups expire after `MEMORY_S`."""
        self._update("finish", keys)

    def changed(self) -> set[str]:
        """Empty the mailbox; returns the names of groups that may have changed."""
        source = backend(*self._broker)
        with source.reached():
            pipe = source.redis.pipeline(transaction=True)
            pipe.lrange(self._mailbox, 0, -1)
            pipe.delete(self._mailbox)
            keys = pipe.execute()[0]
        return {key.decode().removeprefix(group_key("")) for key in keys}

    def _join_call(self, rollouts: Sequence[PendingRollout]) -> _Call:
        first = rollouts[0]
        args = {
            "ids": [one.id for one in rollouts],
            "size": first.group_size,
            "step": _step(first.step),
            "policy": first.on_group_timeout,
            "spread": spread_key(first.spread),
        }
        if first.group_due_s is not None:
            left_s = first.group_due_s - time.monotonic()
            args["timeout_ms"] = max(0, math.ceil(left_s * 1000))
        by_id = {one.id: one.rollout for one in rollouts}
        packed = pack(by_id, with_token_ids=self._with_token_ids)
        return self._call("join", [str(first.group)], args, *packed)

    def _update(self, operation: str, keys: Sequence[GroupKey], **args: Any) -> Any:
        """Apply an operation to several groups in one run of the script."""
        if not keys:
            return []
        args["generations"] = [generation for _, generation in keys]
        return self._run([self._call(operation, [group for group, _ in keys], args)])[0]

    def _call(
        self, operation: str, groups: Sequence[str], args: Mapping[str, Any], *packed: bytes
    ) -> _Call:
        argv = (operation, json.dumps({**self._args, **args}), *packed)
        return [group_key(group) for group in groups], argv

    def _run(self, calls: Sequence[_Call]) -> list[Any]:
        """Run the script for each call, in one round trip; load it first if Redis does not have it."""
        from redis.exceptions import NoScriptError

        if not calls:
            return []
        source = backend(*self._broker)
        with source.reached():
            answers = self._attempt(source.redis, calls)
            again = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            if again:
                source.redis.script_load(_SCRIPT)
                repeated = self._attempt(source.redis, [calls[i] for i in again])
                for i, answer in zip(again, repeated, strict=True):
                    answers[i] = answer
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        return answers

    def _attempt(self, redis: Any, calls: Sequence[_Call]) -> list[Any]:
        pipe = redis.pipeline(transaction=False)
        for keys, argv in calls:
            pipe.evalsha(_SHA, len(keys), *keys, *argv)
        return list(pipe.execute(raise_on_error=False))


def _step(step: int | None) -> int:
    return -1 if step is None else int(step)


def _state(group: str, view: bytes, rows: Sequence[bytes]) -> GroupState:
    fields = json.loads(view)
    key = group, fields["generation"]
    if fields["state"] == "gone":
        return GroupState(key=key, state="gone")
    return GroupState(
        key=key,
        state=fields["state"],
        n=fields["n"],
        policy=fields["policy"],
        step=None if fields["step"] < 0 else fields["step"],
        late=fields["late"],
        told=fields["told"],
        waited_s=fields.get("waited_ms", 0) / 1000,
        wait_s=fields.get("wait_ms", 0) / 1000,
        ids=fields.get("ids", ()),
        packed=list(zip(rows[0::3], rows[1::3], rows[2::3], strict=True)),
        batch=fields.get("batch", ""),
        start=fields.get("start", 0),
        verdicts=fields.get("verdicts", 0),
    )
