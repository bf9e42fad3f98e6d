"""The page of one group: its responses side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import pstdev
from typing import Any

from markupsafe import Markup
from sqlalchemy import Connection, select

from oyer.history.curves import number, scatter
from oyer.history.words import Piece, difference
from oyer.models.batch import Batch, Run
from oyer.models.requests import texts_of
from oyer.models.reward import Reward
from oyer.models.rollout import Rollout
from oyer.protocol.batch_result import components_of, split_recorded
from oyer.protocol.errors import InvalidInput

SHOWN_CHARS = 20_000
"""Longest response that a group's page shows, in characters; the score's page has all."""


@dataclass
class Member:
    """One rollout of a group."""

    index: int
    response_hash: str
    response: str
    tokens: int | None
    reward: float | None
    status: str
    trainable: bool
    components: dict[str, float | None]
    rank: int | None = None
    """1 for the highest reward."""
    advantage: float | None = None
    """(reward - mean) / standard deviation of the group's trainable rewards, as in GRPO
    (arXiv 2402.03300, section 4.1.2)."""
    equal: list[int] = field(default_factory=list)
    """Rollouts with the same response, which are folded into this one."""
    pieces: Sequence[Piece] = ()
    compared: bool = True
    """Whether the words that differ are marked; not in texts that take too long to compare."""


def group_page(
    conn: Connection, batch_id: str, index: int, base: int | None
) -> dict[str, Any] | None:
    """Return the group of a rollout; None if the rollout is not on record.

    Args:
        base: the rollout whose response the others are compared with; by default the best.

    Raises:
        InvalidInput: `base` is not a rollout of the group.
    """
    place = place_of(conn, batch_id)
    if place is None:
        return None
    own = _rollouts(place).where(Rollout.rollout_index == index)
    row = conn.execute(own).one_or_none()
    if row is None:
        return None
    group = _rollouts(place)
    if row.group_id is None:
        group = group.where(Rollout.rollout_index == index)
    else:
        group = group.where(Rollout.group_id == row.group_id)
    members = _members(conn, conn.execute(group.order_by(Rollout.rollout_index)).all())
    _rank(members)
    shown = _folded(members)
    compared = _compared(shown, base)
    _mark(shown, compared)
    names = sorted({name for one in members for name in one.components})
    return {
        **place,
        "group_id": row.group_id,
        "index": index,
        "prompt": texts_of(conn, [row.prompt_hash]).get(row.prompt_hash, ""),
        "members": shown,
        "size": len(members),
        "base": compared.index,
        "components": names,
        "charts": [chart for name in names if (chart := _length_chart(members, name, index))],
    }


def place_of(conn: Connection, batch_id: str) -> dict[str, Any] | None:
    """Return a batch's run, step, split and plan; None if it is not on record."""
    query = select(
        Batch.id, Batch.submitted_at, Batch.step, Batch.split, Batch.plan, Batch.oyer_version,
        Batch.preliminary, Run.id.label("run_id"), Run.name.label("run_name"),
    ).join_from(Batch, Run)  # fmt: skip
    row = conn.execute(query.where(Batch.id == batch_id)).one_or_none()
    if row is None:
        return None
    return {
        "run": {"id": row.run_id, "name": row.run_name},
        "step": row.step,
        "split": row.split,
        "batch_id": row.id,
        "submitted_at": row.submitted_at,
        "plan": row.plan,
        "preliminary": row.preliminary,
    }


def _rollouts(place: dict[str, Any]) -> Any:
    return (
        select(
            Rollout.rollout_index, Rollout.group_id, Rollout.prompt_hash, Rollout.response_hash,
            Rollout.response_tokens, Reward.reward, Reward.status, Reward.trainable, Reward.terms,
        )
        .outerjoin_from(
            Rollout,
            Reward,
            (Reward.submitted_at == Rollout.submitted_at)
            & (Reward.batch_id == Rollout.batch_id)
            & (Reward.rollout_index == Rollout.rollout_index),
        )
        .where(
            Rollout.submitted_at == place["submitted_at"], Rollout.batch_id == place["batch_id"]
        )
    )  # fmt: skip


def _members(conn: Connection, rows: Sequence[Any]) -> list[Member]:
    texts = texts_of(conn, [row.response_hash for row in rows])
    found = []
    for row in rows:
        recorded = split_recorded(row.terms or {})
        found.append(
            Member(
                index=row.rollout_index,
                response_hash=row.response_hash,
                response=texts.get(row.response_hash, "")[:SHOWN_CHARS],
                tokens=row.response_tokens,
                reward=row.reward,
                status=row.status or "not ended",
                trainable=bool(row.trainable),
                components=components_of(recorded),
            )
        )
    return found


def _rank(members: Sequence[Member]) -> None:
    rewards = [one.reward for one in members if one.reward is not None and one.trainable]
    if not rewards:
        return
    mean, deviation = sum(rewards) / len(rewards), pstdev(rewards)
    for one in members:
        if one.reward is not None and one.trainable:
            one.rank = 1 + sum(reward > one.reward for reward in rewards)
            one.advantage = (one.reward - mean) / deviation if deviation else 0.0


def _folded(members: Sequence[Member]) -> list[Member]:
    """Fold equal responses into the first; best first."""
    first: dict[str, Member] = {}
    for one in sorted(members, key=lambda one: (one.rank or len(members) + 1, one.index)):
        kept = first.setdefault(one.response_hash, one)
        if kept is not one:
            kept.equal.append(one.index)
    return list(first.values())


def _compared(shown: Sequence[Member], base: int | None) -> Member:
    if base is None:
        return shown[0]
    for one in shown:
        if base in (one.index, *one.equal):
            return one
    raise InvalidInput(f"base: rollout {base} is not of this group; follow a link of its page")


def _mark(shown: Sequence[Member], compared: Member) -> None:
    """Mark the words that differ from the compared response."""
    for one in shown:
        pieces = None if one is compared else difference(one.response, compared.response)
        one.compared = one is compared or pieces is not None
        one.pieces = pieces or [Piece(one.response)]


def _length_chart(members: Sequence[Member], name: str, index: int) -> Markup | None:
    """Draw a component by response length; None if fewer than two rollouts have both."""
    points: list[tuple[float, float, str]] = []
    marked = None
    for one in members:
        value = one.components.get(name)
        if value is None or one.tokens is None:
            continue
        if one.index == index:
            marked = len(points)
        label = f"rollout {one.index}, reward {number(one.reward)}"
        points.append((float(one.tokens), float(value), label))
    return scatter(f"{name} by tokens", points, marked) if len(points) > 1 else None
