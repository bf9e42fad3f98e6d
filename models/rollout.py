"""The tables `rollouts`, `rollout_images` and `texts`.

Each image of chat messages is stored once: the messages hold a reference to its text.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from oyer.models.base import Base, BatchPart, set_index

REFERENCE = "oyer-image:"
"""Prefix of the hash that stands for an image in recorded messages."""

_DATA_URL = "data:"

_MIN_CHARS = 200
"""A shorter URL is left in its place; it is not much longer than a reference."""


class Rollout(BatchPart, Base):
    """One sampled completion of a batch, with its texts by hash."""

    __tablename__ = "rollouts"
    __table_args__ = (
        # A hash index, because a group id may be longer than a PostgreSQL B-tree key.
        Index(None, "group_id", postgresql_using="hash"),
        Index(None, "batch_id"),
        Index(None, "prompt_hash"),
        Index(None, "response_hash"),
        Index(None, "reference_hash"),
        set_index("tools_hash"),
        {"comment": "Sampled completions, with their texts by hash."},
    )

    group_id: Mapped[str | None] = mapped_column(
        comment="Group of rollouts that the trainer compares."
    )
    prompt_hash: Mapped[str] = mapped_column(
        String(64), ForeignKey("texts.hash"), comment="The prompt, as `texts.hash`."
    )
    response_hash: Mapped[str] = mapped_column(
        String(64),
        ForeignKey("texts.hash"),
        comment="The response, as `texts.hash`; messages as JSON.",
    )
    reference_hash: Mapped[str | None] = mapped_column(
        String(64),
        ForeignKey("texts.hash"),
        comment="The reference answer, as `texts.hash`; NULL if there is none.",
    )
    base_score: Mapped[float | None] = mapped_column(
        comment="The trainer's own score, e.g. of a verifier."
    )
    correct: Mapped[bool | None] = mapped_column(
        comment="Whether the trainer says that the response is correct."
    )
    truncated: Mapped[bool] = mapped_column(
        comment="Whether the response was cut off at the token limit."
    )
    response_tokens: Mapped[int | None] = mapped_column(comment="Length of the response in tokens.")
    details: Mapped[dict[str, Any] | None] = mapped_column(
        "metadata", comment="The trainer's own metadata (JSON)."
    )
    tools_hash: Mapped[str | None] = mapped_column(
        String(64),
        comment="Definitions of the tools that the policy could call, as `texts.hash`; NULL if none.",
    )


class RolloutImage(BatchPart, Base):
    """An image in the messages of a rollout; the messages hold `oyer-image:<hash>` in its place."""

    __tablename__ = "rollout_images"
    __table_args__ = (
        Index(None, "batch_id"),
        Index(None, "hash"),
        {"comment": "Images in the messages of rollouts; each image is stored once, in `texts`."},
    )

    hash: Mapped[str] = mapped_column(
        String(64),
        ForeignKey("texts.hash"),
        primary_key=True,
        comment="The image as a `data:` URL, as `texts.hash`.",
    )


class Text(Base):
    """A text of a rollout, a request or a reply; stored once."""

    __tablename__ = "texts"
    __table_args__ = (
        {
            "comment": "Prompts, responses, references and texts of requests; each text is stored once."
        },
    )

    hash: Mapped[str] = mapped_column(
        String(64), primary_key=True, comment="SHA-256 of the body's UTF-8, in hex."
    )
    body: Mapped[str] = mapped_column(
        comment="The text; chat messages as JSON with their keys in the original order."
    )


def without_images(value: Any, images: dict[str, str]) -> Any:
    """Replace the `data:` URLs in messages by references, and add them to `images` by hash."""
    if isinstance(value, str):
        if len(value) < _MIN_CHARS or not value.startswith(_DATA_URL):
            return value
        digest = sha256(value.encode("utf-8", "replace")).hexdigest()
        images[digest] = value
        return f"{REFERENCE}{digest}"
    if isinstance(value, Mapping):
        return {key: without_images(inner, images) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_images(inner, images) for inner in value]
    return value


def with_images(body: str | None, images: Mapping[str, str]) -> str | None:
    """Put images back into recorded messages.

    Args:
        body: the messages as JSON.
        images: by hash.
    """
    for digest, url in images.items():
        if body is not None:
            body = body.replace(f'"{REFERENCE}{digest}"', json.dumps(url))
    return body
