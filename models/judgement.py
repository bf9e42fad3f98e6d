"""The `judgements` table."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from oyer.models.base import Base, BatchPart, set_index


class Judgement(BatchPart, Base):
    """One judge's verdict on one rollout, one sample: a score, or a status that says why not."""

    __tablename__ = "judgements"
    __table_args__ = (
        CheckConstraint("status <> 'scored' OR score IS NOT NULL", name="scored_has_score"),
        Index(None, "batch_id", "rollout_index"),
        Index(None, "judge", "submitted_at"),
        Index(None, "status", "submitted_at"),
        Index(None, "request_hash"),
        Index(None, "parameters_hash"),
        set_index("messages_hash"),
    )

    judge: Mapped[str] = mapped_column(String(100), primary_key=True)
    sample: Mapped[int] = mapped_column(primary_key=True)
    """0 unless the judge is asked several times."""
    status: Mapped[str] = mapped_column(String(20))
    score: Mapped[float | None]
    """On the judge's own scale; always there when `status` is `scored`."""
    reply: Mapped[str | None]
    """The judge's reply, as it came."""
    reasoning: Mapped[str | None]
    """What the judge's model thought before the reply; a score is never read from it."""
    parsed_layer: Mapped[str | None]
    """Which reading of the reply gave the score."""
    parsed_span: Mapped[str | None]
    """The words that the score was read from."""
    parser_version: Mapped[int | None]
    model: Mapped[str | None]
    endpoint: Mapped[str | None]
    """The endpoint's name."""
    rubric_hash: Mapped[str | None] = mapped_column(String(64))
    request_hash: Mapped[str | None] = mapped_column(String(64))
    """Equal for requests that would be answered alike; what reuse looks up."""
    parameters_hash: Mapped[str | None] = mapped_column(String(64))
    """The text in `texts`, JSON: `key` and `scale` of which the request and its hash are made with
    the rubric and the rollout, and `body`, the request's fields as sent last, without messages."""
    messages_hash: Mapped[str | None] = mapped_column(String(64))
    """The text in `texts` with the messages, JSON; NULL where the rollout's texts on record make
    them: those that no database can store are on record changed."""
    prompt_tokens: Mapped[int | None]
    completion_tokens: Mapped[int | None]
    cost_usd: Mapped[float | None]
    """All attempts together, in US dollars."""
    latency_ms: Mapped[float | None]
    """From the first request to the last answer, waits included, in milliseconds."""
    attempts: Mapped[int]
    """HTTP requests made."""
    source: Mapped[str] = mapped_column(String(10))
    """`called`, or `cache`, `record`, `joined` for a reply paid for elsewhere, or `none`."""
    worker: Mapped[str | None]
    error: Mapped[str | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Attempt(BatchPart, Base):
    """One HTTP request made for a judgement, failed ones too.

    The judgement is known by the key's first five columns. It may be replaced by a later one;
    the attempts stay, since each may have been charged. `parameters_hash`, `reply_hash` and
    `reasoning_hash` are NULL where the judgement is scored and holds the same.
    """

    __tablename__ = "attempts"
    __table_args__ = (
        Index(None, "batch_id"),
        set_index("parameters_hash"),
        set_index("reply_hash"),
        set_index("reasoning_hash"),
        Index(
            "ix_attempts_turns",
            "batch_id",
            sqlite_where=text("turns IS NOT NULL"),
            postgresql_where=text("turns IS NOT NULL"),
        ),
    )

    judge: Mapped[str] = mapped_column(String(100), primary_key=True)
    sample: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    number: Mapped[int]
    """1 for the first request of its judgement."""
    started_at: Mapped[datetime]
    url_index: Mapped[int | None]
    """Which of the endpoint's base URLs was asked."""
    http_status: Mapped[int | None]
    error_class: Mapped[str | None]
    latency_ms: Mapped[float | None]
    prompt_tokens: Mapped[int | None]
    completion_tokens: Mapped[int | None]
    cost_usd: Mapped[float | None]
    retry_wait_s: Mapped[float | None]
    """Wait before the next request, in seconds; NULL when none followed."""
    parameters_hash: Mapped[str | None] = mapped_column(String(64))
    """The text in `texts` with the request's parameters, as of `Judgement.parameters_hash`."""
    seed: Mapped[int | None] = mapped_column(BigInteger)
    """The body's `seed`, which the parameters leave out since it differs by request."""
    turns: Mapped[dict[str, Any] | None]
    """The messages of a re-ask: of the first request's, `kept` many stay, and `added` follow, each
    with the hash of its content."""
    reply_hash: Mapped[str | None] = mapped_column(String(64))
    """The text in `texts` that the judge replied."""
    reasoning_hash: Mapped[str | None] = mapped_column(String(64))
    """The text in `texts` that the judge's model thought before the reply."""
    error: Mapped[str | None]
    """What the endpoint or the network said where there is no reply; redacted."""
