"""A rollout and its encoding."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from oyer.protocol.packing import decode_json, pack

Message = dict[str, Any]
"""One chat message: `{"role": …, "content": …}`, and if needed `reasoning_content`, `tool_calls`,
`tool_call_id`, `name`. The content is text, content parts (OpenAI's format), or None."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One sampled completion.

    `submit` validates it, not the constructor, so that an error can name the row.
    """

    prompt: str | list[Message]
    """Text, or chat messages."""
    response: str | list[Message]
    """The policy's completion: text, or the messages of a trajectory. Messages of the role `assistant`
    are the policy's own words, all others are what tools and users answered."""
    group_id: str | int | None = None
    """The prompt's uid; rollouts with the same id form a group."""
    base_score: float | None = None
    """The verifier's score; default: 1 or 0 from `correct` if that is set, else no base score."""
    response_tokens: int | None = None
    """Number of the policy's own tokens in the response, without those of tools and users; required
    unless a tokenizer is configured."""
    token_ids: Sequence[int] | None = None
    """The policy's own token ids in the response, for length methods that measure repetition."""
    correct: bool | None = None
    """Whether the verifier accepted the answer."""
    truncated: bool = False
    """Whether generation hit the length limit."""
    reference: str | None = None
    """The reference answer, shown to the judge."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """JSON values stored with the rollout in the database."""
    tools: list[dict[str, Any]] | None = None
    """Definitions of the tools that the policy could call (OpenAI's function format), shown to the
    judge."""


_ROLLOUTS = TypeAdapter(list[Rollout], config=ConfigDict(defer_build=True))


def encode_rollouts(rollouts: list[Rollout]) -> bytes:
    """Pack rollouts for transport."""
    return pack(_ROLLOUTS.dump_json(rollouts))


def decode_rollouts(blob: bytes) -> list[Rollout]:
    """Unpack rollouts.

    Raises:
        MessageRefused: the bytes are of another version or not from Oyer.
    """
    return decode_json(_ROLLOUTS, blob, "rollouts")
