"""Packs rollouts into a batch: manifest, columns and chunks; pure."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil

from oyer.config.reward import RewardConfig, plan_of
from oyer.manager.backend.chunks import bytes_of, chunk_sizes, split_groups
from oyer.protocol import token_ids
from oyer.protocol.batch import Columns, Manifest, Priority, Submission
from oyer.protocol.rollout import Rollout, encode_rollouts

_DEFAULT_IN_FLIGHT = 64
"""Assumed calls in flight if only the workers configure endpoints."""


@dataclass(frozen=True)
class PreparedBatch:
    """A packed batch, ready to be submitted or resubmitted."""

    manifest: Manifest
    columns: Columns
    chunks: list[bytes]
    token_ids: list[bytes]
    """By chunk; empty if no length method reads them."""

    @property
    def verdicts(self) -> int:
        """Number of judgements that the finished batch has: one per rollout and judge."""
        return self.manifest.size * len(self.manifest.plan["judges"])

    def resubmission(self, why: str) -> "PreparedBatch":
        """Return the same batch as its next submission."""
        return replace(self, manifest=self.manifest.again(why))


def prepare(
    rollouts: Sequence[Rollout],
    config: RewardConfig,
    *,
    run: str,
    step: int | None,
    split: str | None = None,
    preliminary: bool = False,
    incomplete: Sequence[int] = (),
    priority: Priority = "training",
    sizes_bytes: Sequence[int] | None = None,
    now_s: float | None = None,
) -> PreparedBatch:
    """Pack checked rollouts under a new batch id, as submitted at `now_s` by the clock of Redis.

    Args:
        preliminary: whether the rollouts are scored again with their groups.
        incomplete: rows whose groups lack rollouts.
        sizes_bytes: `[N]`, as `validation.check` returned them.
    """
    rows = [plain(rollout) for rollout in rollouts]
    by_group = any(judge.kind == "group" or judge.fallback for judge in config.judges)
    group_ids = [None if row.group_id is None else str(row.group_id) for row in rows]
    spans = _spans(rows, sizes_bytes, group_ids if by_group else None, config)
    ids = _token_ids(rollouts, config, spans)
    now = time.time() if now_s is None else now_s
    manifest = Manifest(
        batch_id=str(uuid.uuid4()),
        run=run,
        step=None if step is None else int(step),
        priority=priority,
        submitted_at=now,
        sendings=[Submission.now("submit")],
        deadline=now + config.deadline_s,
        plan=plan_of(config),
        chunks=spans,
        length_follows_judges=config.length_follows_judges,
        token_ids=bool(ids),
        split=split,
        preliminary=preliminary,
        split_groups=split_groups(group_ids, spans) if by_group else [],
        one_task=len(spans) == 1 and _suits_one_task(rows, config),
    )
    chunks = [encode_rollouts(rows[start : start + count]) for start, count in spans]
    return PreparedBatch(manifest, _columns(rows, group_ids, incomplete, config), chunks, ids)


def _spans(
    rows: Sequence[Rollout],
    sizes_bytes: Sequence[int] | None,
    group_ids: list[str | None] | None,
    config: RewardConfig,
) -> list[tuple[int, int]]:
    """Return the first rollout and the number of rollouts of each chunk."""
    used = {judge.endpoint for judge in config.judges}
    responses = [row.response for row in rows]
    in_flight = sum(one.max_in_flight for name, one in config.endpoints.items() if name in used)
    counts = chunk_sizes(
        [bytes_of(row) for row in rows] if sizes_bytes is None else sizes_bytes,
        in_flight=in_flight or _DEFAULT_IN_FLIGHT,
        calls=ceil(sum(judge.mean_calls(responses) for judge in config.judges)),
        group_ids=group_ids,
        whole=any(judge.kind == "group" for judge in config.judges),
    )
    return list(zip(accumulate(counts, initial=0), counts, strict=False))


def _suits_one_task(rows: Sequence[Rollout], config: RewardConfig) -> bool:
    """Whether a judge worker may compute the length terms: they need no tokenizer and scan no text."""
    counted = all(row.response_tokens is not None for row in rows)
    return bool(config.judges) and all(
        not (item.spans or item.takes_token_ids)
        and (counted or item.unit != "tokens" or "lengths" not in item.takes)
        and not any("texts" in need.split("|") for need in item.needs)
        for item in config.length
    )


def _columns(
    rows: Sequence[Rollout],
    group_ids: list[str | None],
    incomplete: Sequence[int],
    config: RewardConfig,
) -> Columns:
    keys = {key for item in config.length for key in item.metadata_keys.values()}
    return Columns(
        group_ids=group_ids,
        base_score=[row.base_score for row in rows],
        correct=[row.correct for row in rows],
        truncated=[row.truncated for row in rows],
        response_tokens=[row.response_tokens for row in rows],
        metadata={key: [row.metadata.get(key) for row in rows] for key in sorted(keys)},
        incomplete=list(incomplete),
    )


def _token_ids(
    rollouts: Sequence[Rollout], config: RewardConfig, spans: Sequence[tuple[int, int]]
) -> list[bytes]:
    """Pack token ids by chunk if a length method reads them and every rollout has them."""
    wanted = any(item.takes_token_ids for item in config.length)
    if not wanted or any(rollout.token_ids is None for rollout in rollouts):
        return []
    rows = [token_ids.checked(rollout.token_ids) for rollout in rollouts]
    return [token_ids.encode(rows[start : start + count]) for start, count in spans]


def plain(rollout: Rollout, token_ids: Sequence[int] | None = None) -> Rollout:
    """Convert NumPy scalars, and fill `base_score` and `response_tokens` where they follow.

    Args:
        token_ids: token ids of the returned rollout; a batch packs them separately.
    """
    correct = None if rollout.correct is None else bool(rollout.correct)
    base = rollout.base_score
    if base is None and correct is not None:
        base = float(correct)
    tokens = rollout.response_tokens
    if tokens is None and rollout.token_ids is not None:
        tokens = len(rollout.token_ids)
    return Rollout(
        prompt=rollout.prompt,
        response=rollout.response,
        group_id=None if rollout.group_id is None else str(rollout.group_id),
        base_score=None if base is None else float(base),
        response_tokens=None if tokens is None else int(tokens),
        token_ids=token_ids,
        correct=correct,
        truncated=bool(rollout.truncated),
        reference=rollout.reference,
        metadata=rollout.metadata,
        tools=rollout.tools,
    )
