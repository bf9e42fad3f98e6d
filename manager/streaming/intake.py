"""What is handed over alone: where it belongs, and its name in every process; pure."""

from collections.abc import Callable, Sequence
from typing import TypedDict

from oyer.manager.backend.prepare import plain
from oyer.manager.streaming import identity
from oyer.manager.streaming.group_queue import GroupRequest, PendingRollout
from oyer.manager.streaming.identity import TimeoutPolicy
from oyer.protocol.errors import InvalidInput
from oyer.protocol.rollout import Rollout

GROUP_TIMEOUT_S = 60.0
"""How long a group waits for its last rollout unless told otherwise, in seconds."""


class Owner(TypedDict, total=False):
    """Whose rollouts they are."""

    run: str
    """The training run, `default` when left out; processes that name the same run share its groups."""
    training: str | None
    """Which training's processes share the groups, where `run` was not named for this training alone:
    `RewardManager.training`, which also stands where both are left out."""


class Where(Owner, total=False):
    """What a rollout handed over alone belongs to."""

    one_prompt: bool
    """True where a group's rollouts all have one prompt: those of another never enter it."""
    step: int | None
    """The training step, for the record."""
    group_size: int | None
    """Rollouts of its group, in whichever process; left out, a group is handed over in one call."""
    sample_id: str | None
    """Tells two samples with the same text in one group from one sample handed over twice."""
    group_timeout_s: float
    """How long its group waits for the last rollout; the group's first rollout decides."""
    on_group_timeout: TimeoutPolicy
    """`partial` (default), `neutral` or `error`; the group's first rollout decides."""


def members_of(rollouts: Sequence[Rollout], where: Where) -> list[PendingRollout]:
    """Name rollouts; the same once more in one call is another sample."""
    run, step = where.get("run", "default"), where.get("step")
    seen: dict[str, int] = {}
    members = []
    for rollout in rollouts:
        row = plain(rollout, rollout.token_ids)
        name = identity.identity_of(row, run, step, where.get("group_size"), where.get("sample_id"))
        seen[name] = seen.get(name, 0) + 1
        members.append(PendingRollout(rollout=row, id=f"{name}-{seen[name]}"))
    return members


def candidates_of(
    where: Where, max_timeout_s: float, training: str
) -> Callable[[PendingRollout, float], GroupRequest] | None:
    """Return what makes members candidates for their groups; None where whole groups come.

    Args:
        training: the manager's, for rollouts that name neither run nor training.

    Raises:
        InvalidInput: names what is wrong.
    """
    size = where.get("group_size")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise InvalidInput(f"group_size: is {size!r}; give the number of rollouts of one prompt")
    policy = where.get("on_group_timeout", "partial")
    if policy not in ("partial", "neutral", "error"):
        raise InvalidInput(f"on_group_timeout: is {policy!r}; give partial, neutral or error")
    timeout_s = where.get("group_timeout_s", GROUP_TIMEOUT_S)
    if not isinstance(timeout_s, (int, float)) or not 0 <= timeout_s <= max_timeout_s:
        raise InvalidInput(
            f"group_timeout_s: is {timeout_s!r}; give seconds, `broker.result_expires_s` at most"
        )
    if size is None:
        return None
    run, step = where.get("run", "default"), where.get("step")
    shared = where.get("training") or ("" if "run" in where else training)
    one_prompt = where.get("one_prompt", False)

    def candidate(member: PendingRollout, now: float) -> GroupRequest:
        scope = identity.scope_of(shared, member.rollout.prompt if one_prompt else None)
        return GroupRequest(member, run, scope, step, size, now + timeout_s, policy)

    return candidate
