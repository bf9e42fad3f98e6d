"""Names groups and their members alike in every process, and packs members for each other; pure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, Literal

from oyer.config.reward import RewardConfig, plan_of
from oyer.protocol import token_ids
from oyer.protocol.errors import BatchFailed
from oyer.protocol.packing import WIRE_VERSION
from oyer.protocol.rollout import Rollout, decode_rollouts, encode_rollouts

TimeoutPolicy = Literal["partial", "neutral", "error"]
"""What becomes of a group that is late: scored as far as it is there; scored without length
terms; or an error for each of its rollouts."""

Parts = tuple[bytes, bytes, bytes]
"""Members as one process hands them to the others: ids, rollouts, and token ids or nothing."""


def plan_name(config: RewardConfig) -> str:
    """Name what scores a rollout: what is scored differently is not gathered together."""
    return _digest([WIRE_VERSION, plan_of(config)])


def group_name(plan: str, run: str, scope: str, group_id: str, size: int) -> str:
    """Name a group over all processes and hosts; `scope` is what `scope_of` gives its rollouts."""
    return _digest([plan, run, scope, group_id, size])


def scope_of(training: str, prompt: Any = None) -> str:
    """Name what may share a group: the rollouts of a training and, where given, of a prompt."""
    return _digest([training, prompt])


def identity_of(rollout: Rollout, run: str, step: int | None, *told_apart_by: Any) -> str:
    """Name a rollout by where it belongs and all that scores it, over all processes and hosts.

    Args:
        rollout: as `submission.plain` gives it.
        run: the training run.
        step: the training step.
        told_apart_by: whatever else makes two rollouts two.
    """
    place = [run, None if step is None else int(step), rollout.group_id, *told_apart_by]
    numbers = [rollout.base_score, rollout.correct, rollout.truncated, rollout.response_tokens]
    said = (rollout.prompt, rollout.response, rollout.reference)
    # Texts are long, and JSON would cost more than the hash; with their lengths, they follow bare.
    shape = [len(one) if isinstance(one, str) else one for one in said]
    return _digest([place, numbers, shape], *(one for one in said if isinstance(one, str)))


def pack(members: Mapping[str, Rollout], *, with_token_ids: bool) -> Parts:
    """Pack members, by id, for whichever process will submit their group."""
    rollouts = [r if r.token_ids is None else replace(r, token_ids=None) for r in members.values()]
    packed_ids = b""
    if with_token_ids and all(rollout.token_ids is not None for rollout in members.values()):
        packed_ids = token_ids.encode([token_ids.checked(r.token_ids) for r in members.values()])
    return ",".join(members).encode(), encode_rollouts(rollouts), packed_ids


def unpack(
    ids: Sequence[str], parts: Iterable[Parts], known: Mapping[str, Rollout]
) -> list[Rollout]:
    """Return a group's rollouts, in the order of `ids`.

    Args:
        ids: the group's members.
        parts: what the processes sent, in any order; a member sent twice counts once.
        known: members that need no unpacking.

    Raises:
        BatchFailed: a member is missing.
        MessageRefused: a part is of another version.
    """
    found = dict(known)
    for names, rollouts, packed_ids in parts:
        part_ids = names.decode().split(",")
        if all(name in found for name in part_ids):
            continue
        rows = decode_rollouts(rollouts)
        if packed_ids:
            tokens = token_ids.decode([packed_ids])
            rows = [
                replace(
                    row, token_ids=tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]].tolist()
                )
                for i, row in enumerate(rows)
            ]
        for name, row in zip(part_ids, rows, strict=True):
            found.setdefault(name, row)
    missing = [name for name in ids if name not in found]
    if missing:
        raise BatchFailed(
            f"{len(missing)} of a group's {len(ids)} rollouts are no longer in Redis;"
            " hand the group over again"
        )
    return [found[name] for name in ids]


_JSON = json.JSONEncoder(default=float)


def _digest(value: Any, *texts: str) -> str:
    digest = sha256(_JSON.encode(value).encode())
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]
