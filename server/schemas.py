"""Models of the requests and answers, for validation and for the OpenAPI schema."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from oyer.manager import InvalidInput, Rollout
from oyer.manager.openrlhf import group_id_of, reference_of
from oyer.manager.openrlhf.query_text import QueryText
from oyer.manager.score import Score
from oyer.protocol.content import as_messages
from oyer.server.context import RequestOrigin


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
    response: str | list[dict[str, Any]]
    """The policy's completion: text, or the messages of a rollout with tools. Only messages with the
    role `assistant` are the policy's words."""
    tools: list[dict[str, Any]] | None = None
    """Definitions of the tools, shown to the judge."""
    group_id: str | int | None = None
    """Id of the prompt; rollouts with the same id form a group."""
    base_score: float | None = None
    """The verifier's score."""
    response_tokens: int | None = None
    """Number of tokens that the policy wrote, without those of tools."""
    token_ids: list[int] | None = None
    """The ids of these tokens, for the methods that look at repetition."""
    correct: bool | None = None
    """Whether the verifier found the answer correct."""
    truncated: bool = False
    """Whether generation hit the length limit."""
    finish_reason: str | None = None
    """Another way to say it: `length`."""
    reference: str | None = None
    """The reference answer, shown to the judge."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Stored with the rollout."""

    def rollout(self) -> Rollout:
        """Convert to the manager's type."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        finish_reason = given.pop("finish_reason")
        given["truncated"] = self.truncated or finish_reason == "length"
        given["prompt"], given["response"] = as_messages(self.prompt), as_messages(self.response)
        return Rollout(**given)


class ScoreRequest(_Body):
    """`POST /v1/score`."""

    rollouts: list[RolloutBody] = Field(min_length=1)
    """Whole groups, or with `group_size` any part of them."""
    run: str | None = Field(None, min_length=1, max_length=200)
    """The training run; defaults to the server's."""
    step: int | None = Field(None, ge=0)
    """The training step, stored with the batch."""
    split: str | None = Field(None, min_length=1, max_length=100)
    """Purpose of the rollouts, stored with the batch: `train` (default) or e.g. `eval`, whose rollouts do
    not wait for others."""
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
    components: dict[str, list[float | None]]
    """The score of each judge and the value of each length term, by name."""
    turn_scores: list[list[float | None]]
    """The score after each turn of each rollout; empty lists unless a judge's view is `each_turn`."""
    batch_ids: list[str | None]
    """The batch that each rollout is stored in."""
    errors: dict[str, str]
    """The first error of each failure status."""

    @classmethod
    def of(cls, scores: Sequence[Score]) -> Self:
        """Convert scores to columns."""
        failed = [score for score in scores if score.error is not None]
        return cls(
            rewards=[_number(score.reward) for score in scores],
            unshaped_rewards=[_number(score.unshaped_reward) for score in scores],
            judge_scores=[_number(score.judge_score) for score in scores],
            mask=[score.trainable for score in scores],
            statuses=[score.status for score in scores],
            terms=_columns([score.terms for score in scores]),
            components=_columns([score.components for score in scores]),
            turn_scores=[list(score.turn_scores) for score in scores],
            batch_ids=[score.batch_id for score in scores],
            errors={score.status: str(score.error) for score in reversed(failed)},
        )


class _Place(BaseModel):
    """Where the rollouts of a request are filed; trainers that cannot send it set it in the URL."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    run: str | None = Field(None, min_length=1, max_length=200)
    step: int | None = Field(None, ge=0)
    split: str | None = Field(None, min_length=1, max_length=100)

    def place(self, context: RequestOrigin) -> RequestOrigin:
        """Return the context, updated with what the body says."""
        given = {name: getattr(self, name) for name in ("run", "step", "split")}
        return replace(context, **{name: one for name, one in given.items() if one is not None})


class GetRewardRequest(_Place):
    """`POST /get_reward`, as OpenRLHF sends it: one entry per rollout.

    OpenRLHF sends the first three; other clients may send the others.
    """

    query: list[str]
    """Prompt and response, as the policy's tokenizer decodes them. Empty if OpenRLHF 0.11.0 has several
    servers and sends the rollouts to another one."""
    prompts: list[str] | None = None
    labels: list[Any] | None = None
    truncated: list[bool] | None = None
    """By default, whether a query has no end mark."""
    response_tokens: list[int] | None = None
    base_scores: list[float] | None = None
    metadata: list[dict[str, Any]] | None = None

    @property
    def texts_only(self) -> bool:
        """Whether the request has neither token counts nor metadata."""
        return self.response_tokens is None and self.metadata is None

    def fields(self) -> list[dict[str, Any]]:
        """Return the optional fields of each rollout.

        Raises:
            InvalidInput: a list has another length than `query`.
        """
        names = {"base_scores": "base_score"}
        rows: list[dict[str, Any]] = [{} for _ in self.query]
        for name in ("truncated", "response_tokens", "base_scores", "metadata"):
            values = getattr(self, name)
            if values is None:
                continue
            if len(values) != len(rows):
                raise InvalidInput(
                    f"{name}: has {len(values)} entries for {len(rows)} queries; send one per query"
                )
            for row, value in zip(rows, values, strict=True):
                row[names.get(name, name)] = value
        return rows


class GetRewardAnswer(BaseModel):
    """The answer to OpenRLHF: numbers only; `oyer_missing` marks placeholders for missing rewards."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]


class RemoteRequest(_Place):
    """`POST /rm`, as the `remote_rm` of slime, miles and ROLL sends it.

    They send the first three fields; other clients may send the others.
    """

    prompt: str | list[dict[str, Any]]
    response: str | list[dict[str, Any]]
    label: Any = None
    group_id: str | int | None = None
    """Id of the prompt; by default, equal prompts form a group."""
    tools: list[dict[str, Any]] | None = None
    response_tokens: int | None = None
    token_ids: list[int] | None = None
    base_score: float | None = None
    truncated: bool | None = None
    finish_reason: str | None = None
    """Another way to say it: `length`."""
    metadata: dict[str, Any] | None = None

    @property
    def texts_only(self) -> bool:
        """Whether the request has neither a token count, token ids nor metadata."""
        return all(one is None for one in (self.response_tokens, self.token_ids, self.metadata))

    @property
    def says_truncated(self) -> bool:
        """Whether the request says if generation hit the length limit."""
        return self.truncated is not None or self.finish_reason is not None

    def rollout(self, texts: QueryText) -> Rollout:
        """Convert to the manager's type."""
        response = self.response
        if isinstance(response, str):
            response, _ = texts.response(response, "")
        prompt = self.prompt if isinstance(self.prompt, str) else json.dumps(self.prompt)
        group_id = group_id_of(prompt) if self.group_id is None else self.group_id
        return Rollout(
            prompt=as_messages(self.prompt),
            response=as_messages(response),
            tools=self.tools,
            group_id=group_id,
            reference=reference_of(self.label),
            response_tokens=self.response_tokens,
            token_ids=self.token_ids,
            base_score=self.base_score,
            truncated=bool(self.truncated) or self.finish_reason == "length",
            metadata=self.metadata or {},
        )


class ErrorAnswer(BaseModel):
    """An answer with a status other than 200."""

    error: str


class HealthAnswer(BaseModel):
    """`GET /healthz` and `/readyz`; `error` says why batches cannot be scored."""

    status: str
    error: str | None = None


def _columns(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float | None]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [_number(row.get(name, math.nan)) for row in rows] for name in names}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
