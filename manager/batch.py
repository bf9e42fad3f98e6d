"""The result of a batch: rewards, their terms, statuses and cost."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oyer.config.reward import RewardRules
from oyer.manager.credit import gdpo_advantages, own_groups
from oyer.manager.tracking.metrics import PREFIX, batch_metrics
from oyer.protocol.batch_result import (
    BatchResult,
    CriteriaOfRow,
    components_of,
    criterion_columns,
    split_recorded,
)
from oyer.protocol.errors import BatchCancelled, InvalidInput, JudgeOutage, MissingScores
from oyer.protocol.rollout import Rollout
from oyer.protocol.status import NOT_CALLED, SETTLED

Float32s = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class BatchUsage:
    """Calls, tokens and cost of a batch; replies reused from the record or the cache count 0."""

    calls: int
    """HTTP requests, including failed ones."""
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    """0 for models without a configured price."""

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    def __getitem__(self, name: str) -> Any:
        """Read a field by name, e.g. `usage["calls"]`."""
        return getattr(self, name)


@dataclass(frozen=True, kw_only=True)
class RewardBatch:
    """The rewards of one batch, `[N]` each, in the order submitted."""

    id: str
    """The batch's uuid, also in the record."""
    rewards: Float32s
    """NaN where missing."""
    unshaped_rewards: Float32s
    """Base score and judges only, without length terms."""
    judge_scores: Float32s
    """On the judge's scale; NaN where missing."""
    mask: NDArray[np.bool_]
    """True where the reward may be used for training."""
    statuses: list[str]
    """`scored`, or why there is no score (`oyer.protocol.status.Status`)."""
    terms: dict[str, Float32s]
    """The value that each term adds or multiplies: `base_score`, `judge`, `length_penalty`, …"""
    usage: BatchUsage
    """Calls, tokens and cost."""
    first_errors: dict[str, str]
    """The first error of each failure status."""
    advantages: dict[str, Float32s] = field(default_factory=dict)
    """From length methods that act on advantages, by name; NaN where missing."""
    history: dict[str, Float32s] = field(default_factory=dict)
    """From length methods with state, by name: pass it with the prompt's next rollouts."""
    components: dict[str, Float32s] = field(default_factory=dict)
    """Every judge's score, every named criterion (`judge/criterion`) and every length term (or advantage),
    by name; NaN where missing."""
    groups: list[int] = field(default_factory=list)
    """Number of each rollout's group, -1 without one; empty if unknown."""
    criteria: list[CriteriaOfRow] = field(default_factory=list)
    """For each rollout, by judge that gives verdicts on criteria: `name`, `value` (0 to 1; None if
    missing), `verdict`, `reason` and `weight` of each; empty without such judges."""
    turn_scores: list[list[float | None]] = field(default_factory=list)
    """For each rollout, the score after each of its turns by the judge with `view: each_turn`; None where
    missing, and empty without such a judge. `oyer.manager.credit` spreads them to tokens."""
    judge_latency_ms: dict[str, float] = field(default_factory=dict)
    """`p50` and `p95` of the judgements that were called for, in ms. Empty if there was no call, or if
    the rewards were read from the record (`RewardFuture` of a batch that is no longer in Redis)."""
    reasons: dict[int, str] = field(default_factory=dict)
    """By row, what the judges replied, for a random sample of at most 64 rollouts; empty if the rewards were
    read from the record."""
    rollouts: Sequence[Rollout] = field(default=(), repr=False)
    """As submitted, `[N]`; empty if another process submitted them."""
    trainer_wait_s: float | None = None
    """How long `RewardFuture.result` or `await` waited in this process, in seconds; None if neither did."""

    def __len__(self) -> int:
        return len(self.rewards)

    @classmethod
    def from_celery(cls, result: Mapping[str, Any]) -> "RewardBatch":
        """Read the result of `celery.result.AsyncResult(future.batch_id, app=app).get()`.

        For a trainer that polls Celery itself. It must then also apply the failure policy
        (`reward.on_missing: raise`, `max_failed_fraction`) and resubmit a stalled batch, which a
        `RewardFuture` does otherwise.

        Args:
            result: the task's result, a dict.

        Raises:
            MessageRefused: it is not the result of a batch, or is from an incompatible release.
            BatchCancelled: the batch was cancelled.
        """
        return cls.of(_checked(BatchResult.from_wire(result)))

    @classmethod
    def of(cls, outcome: BatchResult) -> "RewardBatch":
        """Convert the result of `combine`."""
        usage = outcome.usage
        return cls(
            id=outcome.batch_id,
            rewards=outcome.rewards,
            unshaped_rewards=outcome.unshaped_rewards,
            judge_scores=outcome.judge_scores,
            mask=outcome.mask,
            statuses=outcome.statuses,
            terms=outcome.terms,
            usage=BatchUsage(
                calls=int(usage["calls"]),
                prompt_tokens=int(usage["prompt_tokens"]),
                completion_tokens=int(usage["completion_tokens"]),
                cost_usd=float(usage["cost_usd"]),
            ),
            first_errors=outcome.first_errors,
            advantages=outcome.advantages,
            history=outcome.history,
            components={
                **components_of(split_recorded(outcome.recorded)),
                **criterion_columns(outcome.criteria),
            },
            groups=outcome.groups,
            criteria=outcome.criteria,
            turn_scores=outcome.turn_scores,
            judge_latency_ms=outcome.judge_latency_ms,
            reasons=outcome.reasons,
        )

    def metrics(self, prefix: str = PREFIX) -> dict[str, float]:
        """Return the batch's metrics by name, all finite; what is unknown is left out.

        `reward_mean` and `reward_std` of trainable rollouts; `judge_score`; `missing`, the share of
        rollouts without a reward to train on, and `missing/<status>` of each failure; each component's
        mean and the share `<component>_present`; `zero_spread_groups`, the share of groups with equal
        rewards; `rollouts`, `calls`, `prompt_tokens`, `completion_tokens`, `cost_usd`;
        `judge_latency_p50_s` and `…_p95_s`; `trainer_wait_s`. All of them in docs/tracking.md.

        Args:
            prefix: of all names.
        """
        return batch_metrics(self, prefix)

    def advantages_gdpo(self, weights: Mapping[str, float]) -> Float32s:
        """Return the GDPO advantage of each rollout, float32 `[N]`: 0 for one without any component.

        Each component is normalised within its group, then the weighted sum over the components is
        normalised over the batch (GDPO, arXiv:2601.05242; verl's `algorithm.adv_estimator: gdpo` with
        `gdpo_reward_keys` and `gdpo_reward_weights`). Missing components are left out.
        `oyer.manager.credit.gdpo_advantages` has the formula and the edge cases.

        Args:
            weights: weight of each component, by names of `components`.

        Raises:
            InvalidInput: a name is not a component's, a weight is no finite number or all are 0, or no
                rollout of the batch has a group.
        """
        checked = _checked_weights(weights, self.components)
        if len(self) and max(self.groups, default=-1) < 0:
            raise InvalidInput(
                f"batch {self.id}: no rollout has a group, so there is nothing to normalise by;"
                " give each rollout the `group_id` of its prompt"
            )
        advantages = gdpo_advantages(self.components, self.groups, checked)
        return advantages.astype(np.float32)

    @property
    def component_means(self) -> dict[str, Float32s]:
        """The mean of each component over a rollout's group, of those that have it, `[N]` each."""
        return {name: _group_means(values, self.groups) for name, values in self.components.items()}


def _checked_weights(weights: Mapping[str, float], known: Iterable[str]) -> Mapping[str, float]:
    """Return the weights of components.

    Raises:
        InvalidInput: a name is not a component's, a weight is no finite number, or all are 0.
    """
    names = sorted(known)
    for name, weight in weights.items():
        if name not in names:
            raise InvalidInput(
                f"weights: there is no component {name!r}; this batch has"
                f" {', '.join(names) or 'none'}"
            )
        number = isinstance(weight, Real) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight):
            raise InvalidInput(f"weights[{name!r}]: is {weight!r}; give a finite number")
    if not any(weights.values()):
        raise InvalidInput(
            "weights: no component has a weight other than 0; this batch has"
            f" {', '.join(names) or 'none'}"
        )
    return weights


def _group_means(values: Float32s, groups: Sequence[int]) -> Float32s:
    """Return each row's mean of its group's finite values; NaN without one."""
    numbers = own_groups(np.array(groups or [-1] * len(values), dtype=np.int64))
    known = np.isfinite(values)
    size = int(numbers.max(initial=-1)) + 1
    sums = np.bincount(numbers[known], weights=values[known].astype(float), minlength=size)
    counts = np.bincount(numbers[known], minlength=size)
    means = np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0)
    return np.asarray(means[numbers], dtype=np.float32)


def _checked(outcome: BatchResult) -> BatchResult:
    if outcome.cancelled is not None:
        raise BatchCancelled(f"batch {outcome.batch_id} was cancelled: {outcome.cancelled}")
    return outcome


OTHER_REWARDS = ": the error's `batch` has the other rewards"
"""End of the message of `MissingScores`; callers without access to the attribute remove it."""


def failure_of(batch: RewardBatch, rules: RewardRules) -> MissingScores | None:
    """Return the error that the failure policy demands for a batch's missing scores, or None."""
    counts = {s: batch.statuses.count(s) for s in sorted(set(batch.statuses) - SETTLED)}
    failed = sum(counts.values())
    if not failed:
        return None
    judged = sum(status not in NOT_CALLED for status in batch.statuses)
    by_status = ", ".join(f"{n} {status}" for status, n in counts.items())
    causes = "; ".join(batch.first_errors[s] for s in counts if s in batch.first_errors)
    what = f"batch {batch.id}: {failed} of {judged} rollouts to be judged have no score"
    what += f" ({by_status})"
    what += f"; first errors: {causes}" if causes else ""
    if failed / judged > rules.max_failed_fraction:
        limit = rules.max_failed_fraction
        return JudgeOutage(
            f"{what}; more than reward.max_failed_fraction = {limit}: run `oyer check` to test each judge",
            batch,
        )
    if rules.on_missing == "raise":
        return MissingScores(f"{what}; reward.on_missing is `raise`{OTHER_REWARDS}", batch)
    return None
