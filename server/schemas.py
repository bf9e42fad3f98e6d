"""Models of the requests and answers, for validation and for the OpenAPI schema."""

import json
import math
from collections.abc import Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from oyer.manager import InvalidInput, Rollout
from oyer.manager.score import Score


def read_json(body: bytes) -> Any:
    """Parse a request's JSON, with or without a byte order mark.

    Lone surrogates are accepted here, so that one such rollout does not fail the whole request.

    Raises:
        InvalidInput: the body is not JSON, or nests too deep.
    """
    try:
        return json.loads(body)
    except RecursionError as error:
        raise InvalidInput("body: nests too deep; flatten it") from error
    except ValueError as error:
        raise InvalidInput(f"body: Invalid JSON: {error}; send one JSON object") from error


class _Body(BaseModel):
    """A JSON object; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class RolloutBody(_Body):
    """One sampled completion."""

    prompt: str | list[dict[str, Any]]
    """Text, or chat messages."""
    response: str
    """The policy's completion."""
    group_id: str | int | None = None
    """Id of the prompt; rollouts with the same id form a group."""
    base_score: float | None = None
    """The verifier's score."""
    response_tokens: int | None = None
    """Length of the response in the policy's tokens."""
    token_ids: list[int] | None = None
    """The response's token ids, for the methods that look at repetition."""
    correct: bool | None = None
    """Whether the verifier found the answer correct."""
    truncated: bool = False
    """Whether generation hit the length limit."""
    reference: str | None = None
    """The reference answer, shown to the judge."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Stored with the rollout."""

    def rollout(self) -> Rollout:
        """Convert to the manager's type."""
        return Rollout(**{name: getattr(self, name) for name in type(self).model_fields})


class ScoreRequest(_Body):
    """`POST /v1/score`."""

    rollouts: list[RolloutBody] = Field(min_length=1)
    """Whole groups, or with `group_size` any part of them."""
    run: str | None = Field(None, min_length=1, max_length=200)
    """The training run; defaults to the server's."""
    step: int | None = Field(None, ge=0)
    """The training step, stored with the batch."""
    group_size: int | None = Field(None, ge=1)
    """Number of rollouts in each group, if a group arrives in several requests."""


class ScoreAnswer(_Body):
    """Columns in the order of the request; null for a missing number."""

    rewards: list[float | None]
    unshaped_rewards: list[float | None]
    """Base score and judges only, without length terms."""
    judge_scores: list[float | None]
    """The aggregated judge scores, on the judges' scale."""
    mask: list[bool]
    """True if the reward may be trained on."""
    statuses: list[str]
    """`scored`, or the reason for a missing score."""
    terms: dict[str, list[float | None]]
    """What each term adds (or multiplies)."""
    batch_ids: list[str | None]
    """The batch that each rollout is stored in."""
    errors: dict[str, str]
    """The first error of each failure status."""

    @classmethod
    def of(cls, scores: Sequence[Score]) -> Self:
        """Convert scores to columns."""
        names = dict.fromkeys(name for score in scores for name in score.terms)
        failed = [score for score in scores if score.error is not None]
        return cls(
            rewards=[_number(score.reward) for score in scores],
            unshaped_rewards=[_number(score.unshaped_reward) for score in scores],
            judge_scores=[_number(score.judge_score) for score in scores],
            mask=[score.trainable for score in scores],
            statuses=[score.status for score in scores],
            terms={
                name: [_number(score.terms.get(name, math.nan)) for score in scores]
                for name in names
            },
            batch_ids=[score.batch_id for score in scores],
            errors={score.status: str(score.error) for score in reversed(failed)},
        )


class GetRewardRequest(BaseModel):
    """`POST /get_reward`, as OpenRLHF sends it: one entry per rollout."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    query: list[str]
    """Empty if OpenRLHF 0.11.0 has several servers and sends the rollouts to another one."""
    prompts: list[str] | None = None
    labels: list[Any] | None = None


class GetRewardAnswer(BaseModel):
    """The answer to OpenRLHF: numbers only; `oyer_missing` marks placeholders for missing rewards."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]


class RemoteRequest(BaseModel):
    """`POST /rm`, as slime's `remote_rm` sends it."""

    prompt: str | list[dict[str, Any]]
    response: str
    label: Any = None


class ErrorAnswer(BaseModel):
    """An answer with a status other than 200."""

    error: str


class HealthAnswer(BaseModel):
    """`GET /healthz`; `error` says why batches cannot be scored."""

    status: str
    error: str | None = None


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
