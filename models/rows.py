"""Typed dicts of the rows that are written to and read from the record.

A missing key is NULL. Times are timezone-aware; `_ms` is milliseconds, `_usd` US dollars.
"""

from datetime import datetime
from typing import Any, NamedTuple, NotRequired, TypedDict


class BatchKey(NamedTuple):
    """The key columns that the rows of one batch share."""

    submitted_at: datetime
    batch_id: str


class BatchRow(TypedDict):
    """A batch as it was submitted."""

    id: str
    run: str
    step: int | None
    size: int
    plan: dict[str, Any]
    oyer_version: str
    submitted_at: datetime
    split: NotRequired[str | None]
    preliminary: NotRequired[bool]


class SubmissionRow(TypedDict):
    """One submission of a batch; columns as in `models/batch.py`."""

    batch_id: str
    sent_at: datetime
    why: str
    host: NotRequired[str | None]
    seen_at: NotRequired[datetime | None]
    worker: NotRequired[str | None]


class RolloutRow(TypedDict):
    """A rollout with its texts; `prompt` and `response` are text or chat messages."""

    rollout_index: int
    prompt: str | list[dict[str, Any]]
    response: str | list[dict[str, Any]]
    tools: NotRequired[list[dict[str, Any]] | None]
    truncated: bool
    reference: NotRequired[str | None]
    group_id: NotRequired[str | int | None]
    base_score: NotRequired[float | None]
    correct: NotRequired[bool | None]
    response_tokens: NotRequired[int | None]
    metadata: NotRequired[dict[str, Any] | None]


class CriterionRow(TypedDict):
    """A verdict on one criterion, within its judgement; columns as in `models/judgement.py`."""

    position: int
    name: str
    weight: float
    required: bool
    verdict: NotRequired[str | None]
    value: NotRequired[float | None]
    reason: NotRequired[str | None]
    span: NotRequired[str | None]


class JudgementRow(TypedDict):
    """Result of one judge for one rollout and sample; columns as in `models/judgement.py`."""

    rollout_index: int
    judge: str
    sample: int
    status: str
    attempts: int
    source: str
    score: NotRequired[float | None]
    reply: NotRequired[str | None]
    parsed_layer: NotRequired[str | None]
    parsed_span: NotRequired[str | None]
    parser_version: NotRequired[int | None]
    model: NotRequired[str | None]
    endpoint: NotRequired[str | None]
    rubric_hash: NotRequired[str | None]
    request_hash: NotRequired[str | None]
    prompt_tokens: NotRequired[int | None]
    completion_tokens: NotRequired[int | None]
    cost_usd: NotRequired[float | None]
    latency_ms: NotRequired[float | None]
    worker: NotRequired[str | None]
    error: NotRequired[str | None]
    started_at: NotRequired[datetime | None]
    finished_at: NotRequired[datetime | None]
    reasoning: NotRequired[str | None]
    view_truncated: NotRequired[bool | None]
    turn: NotRequired[int | None]
    parameters: NotRequired[str | None]
    """The text to be stored under `parameters_hash`."""
    messages: NotRequired[str | None]
    """The text to be stored under `messages_hash`."""
    criteria: NotRequired[list[CriterionRow]]
    """Rows of the table `criteria`; absent for a judge of one score."""


class StoredJudgement(JudgementRow):
    """A judgement on record, with all keys; the texts of its request by hash."""

    submitted_at: datetime
    batch_id: str
    parameters_hash: NotRequired[str | None]
    messages_hash: NotRequired[str | None]


class Turn(TypedDict):
    """A message that a re-ask adds to those of the first request."""

    role: str
    content: str


class Turns(TypedDict):
    """The messages of a re-ask: the first `kept` of the first request's, then `added`."""

    kept: int
    added: list[Turn]


class AttemptRow(TypedDict):
    """One HTTP request made for a judgement; `id` is a uuid."""

    rollout_index: int
    judge: str
    sample: int
    id: str
    number: int
    started_at: datetime
    url_index: NotRequired[int | None]
    http_status: NotRequired[int | None]
    error_class: NotRequired[str | None]
    latency_ms: NotRequired[float | None]
    prompt_tokens: NotRequired[int | None]
    completion_tokens: NotRequired[int | None]
    cost_usd: NotRequired[float | None]
    retry_wait_s: NotRequired[float | None]
    seed: NotRequired[int | None]
    error: NotRequired[str | None]
    hedge: NotRequired[bool | None]
    turns: NotRequired[Turns | None]
    parameters: NotRequired[str | None]
    """The text to be stored by hash, as are `reply` and `reasoning`."""
    reply: NotRequired[str | None]
    reasoning: NotRequired[str | None]


class StoredAttempt(TypedDict):
    """An attempt on record; columns as in `models/judgement.py`."""

    submitted_at: datetime
    batch_id: str
    rollout_index: int
    judge: str
    sample: int
    id: str
    number: int
    started_at: datetime
    url_index: int | None
    http_status: int | None
    error_class: str | None
    latency_ms: float | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    retry_wait_s: float | None
    parameters_hash: str | None
    seed: int | None
    turns: dict[str, Any] | None
    reply_hash: str | None
    reasoning_hash: str | None
    error: str | None
    hedge: bool | None


class RewardRow(TypedDict):
    """The reward of one rollout; NaN becomes NULL."""

    rollout_index: int
    status: str
    trainable: bool
    terms: dict[str, Any]
    created_at: datetime
    reward: NotRequired[float | None]
    unshaped_reward: NotRequired[float | None]
    judge_score: NotRequired[float | None]
    group_size: NotRequired[int | None]
    length_status: NotRequired[str | None]


class StoredReward(RewardRow):
    """A reward on record, with all keys."""

    submitted_at: datetime
    batch_id: str


class RubricRow(TypedDict):
    """A rubric, identified by its hash."""

    hash: str
    name: str
    text: str


class Usage(TypedDict):
    """Tokens and cost of a batch's attempts."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float


class StoredBatch(TypedDict):
    """A batch with its run; `counts` is judgements per status."""

    id: str
    run: str
    step: int | None
    size: int
    plan: dict[str, Any]
    status: str
    submissions: int
    oyer_version: str
    submitted_at: datetime
    finished_at: datetime | None
    ending: str | None
    split: str | None
    preliminary: bool
    counts: dict[str, int]
    usage: dict[str, Any] | None


class WorkRow(TypedDict):
    """The judgements that one worker process made of a batch."""

    worker: str | None
    judgements: int
    first_at: datetime | None
    last_at: datetime | None
