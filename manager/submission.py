"""Turns rollouts into what travels: manifest, columns and packed chunks; pure."""

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

from oyer.manager.chunks import chunk_sizes
from oyer.tasks import payloads
from oyer.tasks.config import RewardConfig, plan_of
from oyer.tasks.payloads import Columns, Manifest, Rollout

_DEFAULT_IN_FLIGHT = 64
"""Calls in flight assumed where the endpoints live on the workers only."""


@dataclass(frozen=True)
class Submission:
    """A batch ready to be posted, and to be posted again."""

    manifest: Manifest
    columns: Columns
    chunks: list[bytes]

    @property
    def verdicts(self) -> int:
        """Verdicts that the batch will end with."""
        return self.manifest.size * len(self.manifest.plan["judges"])

    def again(self) -> "Submission":
        """Return the same batch as its next submission."""
        manifest = replace(self.manifest, submission=self.manifest.submission + 1)
        return replace(self, manifest=manifest)


def prepare(
    rollouts: Sequence[Rollout], config: RewardConfig, *, run: str, step: int | None
) -> Submission:
    """Pack checked rollouts under a new batch id."""
    rows = [_plain(rollout) for rollout in rollouts]
    in_flight = [
        endpoint.max_in_flight
        for name, endpoint in config.endpoints.items()
        if any(judge.endpoint == name for judge in config.judges)
    ]
    counts = chunk_sizes(
        [_bytes_of(row) for row in rows],
        in_flight=sum(in_flight) or _DEFAULT_IN_FLIGHT,
        judges=len(config.judges),
    )
    spans = [(sum(counts[:k]), count) for k, count in enumerate(counts)]
    now = time.time()
    manifest = Manifest(
        batch_id=str(uuid.uuid4()),
        run=run,
        step=step,
        submitted_at=now,
        deadline=now + config.deadline_s,
        plan=plan_of(config),
        chunks=spans,
    )
    columns = Columns(
        group_ids=[None if row.group_id is None else str(row.group_id) for row in rows],
        base_score=[row.base_score for row in rows],
        correct=[row.correct for row in rows],
        truncated=[row.truncated for row in rows],
        response_tokens=[row.response_tokens for row in rows],
    )
    chunks = [payloads.encode_rollouts(rows[start : start + count]) for start, count in spans]
    return Submission(manifest, columns, chunks)


def _plain(rollout: Rollout) -> Rollout:
    """Drop numpy scalars, and take the base score from `correct` where it is left out."""
    correct = None if rollout.correct is None else bool(rollout.correct)
    base = rollout.base_score
    if base is None and correct is not None:
        base = float(correct)
    tokens = rollout.response_tokens
    return Rollout(
        prompt=rollout.prompt,
        response=rollout.response,
        group_id=None if rollout.group_id is None else str(rollout.group_id),
        base_score=None if base is None else float(base),
        response_tokens=None if tokens is None else int(tokens),
        correct=correct,
        truncated=bool(rollout.truncated),
        reference=rollout.reference,
        metadata=rollout.metadata,
    )


def _bytes_of(row: Rollout) -> int:
    prompt = row.prompt if isinstance(row.prompt, str) else json.dumps(row.prompt)
    return len(prompt) + len(row.response) + len(row.reference or "")
