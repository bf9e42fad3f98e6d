"""The tables `judgements`, `criteria`, `attempts` and `rubrics`."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from oyer.models.base import Base, BatchPart, set_index

SCORED = "scored"
"""Status of a judgement that is never replaced."""


class Judgement(BatchPart, Base):
    """Result of one judge for one rollout and sample: a score, or a status with the reason."""

    __tablename__ = "judgements"
    __table_args__ = (
        CheckConstraint("status <> 'scored' OR score IS NOT NULL", name="scored_has_score"),
        Index(None, "batch_id", "rollout_index"),
        Index(None, "judge", "submitted_at"),
        Index(None, "status", "submitted_at"),
        Index(None, "request_hash"),
        Index(None, "parameters_hash"),
        set_index("messages_hash"),
        {"comment": "One row per rollout, judge and sample: a score, or a status with the reason."},
    )

    judge: Mapped[str] = mapped_column(String(100), primary_key=True, comment="Name of the judge.")
    sample: Mapped[int] = mapped_column(
        primary_key=True, comment="0 unless the judge is asked several times."
    )
    status: Mapped[str] = mapped_column(
        String(20),
        comment="`scored`, or the reason why there is no score; see docs/troubleshooting.md.",
    )
    score: Mapped[float | None] = mapped_column(
        comment="On the judge's scale; set if and only if `status` is `scored`."
    )
    reply: Mapped[str | None] = mapped_column(comment="The judge's reply, verbatim.")
    reasoning: Mapped[str | None] = mapped_column(
        comment="Reasoning of the judge's model before the reply."
    )
    parsed_layer: Mapped[str | None] = mapped_column(
        comment="The parser layer that found the score."
    )
    parsed_span: Mapped[str | None] = mapped_column(
        comment="The part of the reply that holds the score."
    )
    parser_version: Mapped[int | None] = mapped_column(
        comment="Version of the parser that read it."
    )
    model: Mapped[str | None] = mapped_column(comment="The judge's model.")
    endpoint: Mapped[str | None] = mapped_column(comment="Name of the endpoint that answered.")
    rubric_hash: Mapped[str | None] = mapped_column(
        String(64), comment="The rubric, as `rubrics.hash`."
    )
    request_hash: Mapped[str | None] = mapped_column(
        String(64), comment="Equal for equivalent requests; reuse looks replies up by it."
    )
    parameters_hash: Mapped[str | None] = mapped_column(
        String(64), comment="Parameters of its request, as `texts.hash`; a text of JSON."
    )
    """The JSON text in `texts` with `key` and `scale`, from which the request and its hash are built
    together with rubric and rollout, and `body`, the last request's fields without messages."""
    messages_hash: Mapped[str | None] = mapped_column(
        String(64),
        comment="Messages of its request, as `texts.hash`; NULL if the rollout's texts give them.",
    )
    """The JSON text in `texts` with the messages; NULL if they can be rebuilt from the rollout's texts.
    They cannot if the record had to change a text that databases cannot store."""
    prompt_tokens: Mapped[int | None] = mapped_column(
        comment="Prompt tokens of all attempts together."
    )
    completion_tokens: Mapped[int | None] = mapped_column(
        comment="Completion tokens of all attempts together."
    )
    cost_usd: Mapped[float | None] = mapped_column(
        comment="Cost of all attempts together, in US dollars."
    )
    latency_ms: Mapped[float | None] = mapped_column(
        comment="From the first request to the last reply, including waits, in ms."
    )
    attempts: Mapped[int] = mapped_column(comment="HTTP requests made.")
    source: Mapped[str] = mapped_column(
        String(10),
        comment="`called`, `none`, or `cache`, `record`, `joined` for the reply of another call.",
    )
    worker: Mapped[str | None] = mapped_column(comment="Worker process that judged it.")
    error: Mapped[str | None] = mapped_column(comment="The error; NULL if there was none.")
    started_at: Mapped[datetime | None] = mapped_column(comment="When it started (UTC).")
    finished_at: Mapped[datetime | None] = mapped_column(comment="When it ended (UTC).")
    view_truncated: Mapped[bool | None] = mapped_column(
        comment="Whether the judge was shown a shortened response (`max_view_chars`)."
    )
    turn: Mapped[int | None] = mapped_column(
        comment="Under `view: each_turn`, the last turn that the judge was shown, from 0; else NULL."
    )
    """Turns before the last have rows of the judge `<name>/turns`."""


class JudgementCriterion(BatchPart, Base):
    """A verdict on one criterion; the key columns before `position` identify its judgement."""

    __tablename__ = "criteria"
    __table_args__ = (
        Index(None, "batch_id"),
        {"comment": "One row per criterion of a judgement: the verdict, or none if it is missing."},
    )

    judge: Mapped[str] = mapped_column(String(100), primary_key=True, comment="Name of the judge.")
    sample: Mapped[int] = mapped_column(primary_key=True, comment="As in `judgements`.")
    position: Mapped[int] = mapped_column(
        primary_key=True, comment="Place of the criterion in its request, from 0."
    )
    name: Mapped[str] = mapped_column(comment="Name of the criterion.")
    verdict: Mapped[str | None] = mapped_column(
        comment="`true`, `false` or the choice; NULL if the judge gave none."
    )
    value: Mapped[float | None] = mapped_column(
        comment="The verdict as a number from 0 to 1: met is 1, also of a pitfall; NULL if missing."
    )
    reason: Mapped[str | None] = mapped_column(comment="The judge's reason.")
    weight: Mapped[float] = mapped_column(comment="Weight; negative for a pitfall.")
    required: Mapped[bool] = mapped_column(
        comment="Whether the criterion limits the score to 0 unless it is met."
    )
    span: Mapped[str | None] = mapped_column(
        comment="The part of the reply that holds the verdict."
    )


class Attempt(BatchPart, Base):
    """One HTTP request made for a judgement, including failed ones.

    The first five key columns identify the judgement. A later judgement may replace it, but its
    attempts stay, because each may have been charged. `parameters_hash`, `reply_hash` and
    `reasoning_hash` are NULL if a scored judgement holds the same value.
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
        {"comment": "One row per HTTP request to a judge, including failed ones."},
    )

    judge: Mapped[str] = mapped_column(String(100), primary_key=True, comment="Name of the judge.")
    sample: Mapped[int] = mapped_column(
        primary_key=True, comment="0 unless the judge is asked several times."
    )
    id: Mapped[str] = mapped_column(String(36), primary_key=True, comment="UUID of the attempt.")
    number: Mapped[int] = mapped_column(comment="1 for the first request of its judgement.")
    started_at: Mapped[datetime] = mapped_column(comment="When it was sent (UTC).")
    url_index: Mapped[int | None] = mapped_column(
        comment="Index of the endpoint's base URL, from 0."
    )
    http_status: Mapped[int | None] = mapped_column(
        comment="HTTP status; NULL if there was no response."
    )
    error_class: Mapped[str | None] = mapped_column(
        comment="Kind of failure; NULL if it succeeded."
    )
    latency_ms: Mapped[float | None] = mapped_column(comment="From request to response, in ms.")
    prompt_tokens: Mapped[int | None] = mapped_column(comment="Prompt tokens charged.")
    completion_tokens: Mapped[int | None] = mapped_column(comment="Completion tokens charged.")
    cost_usd: Mapped[float | None] = mapped_column(comment="Cost in US dollars.")
    retry_wait_s: Mapped[float | None] = mapped_column(
        comment="Wait before the next request, in s; NULL if there was none."
    )
    parameters_hash: Mapped[str | None] = mapped_column(
        String(64), comment="As in `judgements`; NULL if the scored judgement holds the same."
    )
    seed: Mapped[int | None] = mapped_column(
        BigInteger, comment="Seed of the request; NULL if it had none."
    )
    """The body's `seed`; not in the parameters, because it differs per request."""
    turns: Mapped[dict[str, Any] | None] = mapped_column(
        comment="Messages of a re-ask: number of first messages `kept`, and those `added` (JSON)."
    )
    reply_hash: Mapped[str | None] = mapped_column(
        String(64),
        comment="Its reply, as `texts.hash`; NULL if the scored judgement holds the same.",
    )
    reasoning_hash: Mapped[str | None] = mapped_column(
        String(64), comment="As `reply_hash`, for the reasoning before the reply."
    )
    error: Mapped[str | None] = mapped_column(
        comment="Error of the endpoint or the network if there was no reply."
    )
    hedge: Mapped[bool | None] = mapped_column(
        comment="True for the second request of a hedged call; NULL for every other request."
    )


class Rubric(Base):
    """A rubric's text, referenced by hash from judgements."""

    __tablename__ = "rubrics"
    __table_args__ = ({"comment": "Rubrics that judges used."},)

    hash: Mapped[str] = mapped_column(
        String(64), primary_key=True, comment="SHA-256 of the rubric, in hex."
    )
    name: Mapped[str] = mapped_column(comment="Name in the rubric's front matter, or the judge's.")
    text: Mapped[str] = mapped_column(comment="The rubric.")
