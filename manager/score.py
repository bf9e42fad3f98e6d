"""The score of one rollout, with the same fields whether it has a reward or not."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from oyer.config.reward import RewardRules
from oyer.manager.batch import RewardBatch
from oyer.protocol.errors import BackendUnavailable, BatchFailed, InvalidRollout
from oyer.protocol.status import Status

_STATUS_OF_ERROR = (
    (TimeoutError, Status.EXPIRED),
    (InvalidRollout, Status.REJECTED),
    (BackendUnavailable, Status.UNAVAILABLE),
    (BatchFailed, Status.UNAVAILABLE),
)


@dataclass(frozen=True, kw_only=True)
class Score:
    """The result of one rollout."""

    reward: float = math.nan
    """NaN if it has none."""
    unshaped_reward: float = math.nan
    """Base score and judges, without length terms."""
    judge_score: float = math.nan
    """On the judge's scale; NaN if it has none."""
    status: str
    """`scored`, or why it has no score (`oyer.protocol.status.Status`)."""
    terms: Mapping[str, float] = field(default_factory=dict)
    """What each term adds or multiplies, by name."""
    batch_id: str | None = None
    """Its batch in the record; None if it was in none."""
    error: str | None = None
    """The first error with this status in the batch."""
    advantages: Mapping[str, float] = field(default_factory=dict)
    """From length methods that act on advantages, by name."""
    history: Mapping[str, float] = field(default_factory=dict)
    """From length methods with state, by name: input for the prompt's next rollouts."""
    components: Mapping[str, float] = field(default_factory=dict)
    """Every judge's score and every length term (or advantage), by name; NaN where missing."""
    component_means: Mapping[str, float] = field(default_factory=dict)
    """The mean of each component over the rollout's group in its batch, of those that have it; NaN if
    none has."""
    turn_scores: Sequence[float | None] = ()
    """The score after each turn, None where missing; empty unless a judge's view is `each_turn`."""
    kept: bool = True
    """False if a length method excludes the rollout from training."""

    @property
    def trainable(self) -> bool:
        """Whether it has a reward to train on."""
        return self.kept and math.isfinite(self.reward)

    @property
    def turn_scores_text(self) -> str:
        """`turn_scores` as JSON, for trainers whose columns hold no lists of different lengths."""
        return json.dumps([None if one is None else float(one) for one in self.turn_scores])

    @property
    def judge_term(self) -> float:
        """What the judges add to the reward; NaN without a score."""
        return self.terms.get("judge", math.nan)

    @property
    def length_term(self) -> float:
        """What the length methods change in the reward; NaN without a reward."""
        return self.reward - self.unshaped_reward


def scores_of(batch: RewardBatch, rows: Iterable[int] | None = None) -> list[Score]:
    """Return the scores of a batch's rollouts.

    Args:
        rows: of these rows; of all if None.
    """
    means = batch.component_means
    return [
        Score(
            reward=float(batch.rewards[i]),
            unshaped_reward=float(batch.unshaped_rewards[i]),
            judge_score=float(batch.judge_scores[i]),
            status=(status := batch.statuses[i]),
            terms={name: float(term[i]) for name, term in batch.terms.items()},
            batch_id=batch.id,
            error=batch.first_errors.get(status),
            advantages={name: float(values[i]) for name, values in batch.advantages.items()},
            history={name: float(values[i]) for name, values in batch.history.items()},
            components={name: float(values[i]) for name, values in batch.components.items()},
            component_means={name: float(values[i]) for name, values in means.items()},
            turn_scores=batch.turn_scores[i] if batch.turn_scores else (),
            kept=bool(batch.mask[i]) or not math.isfinite(batch.rewards[i]),
        )
        for i in (range(len(batch.statuses)) if rows is None else rows)
    ]


def without_reward(error: Exception, rules: RewardRules) -> Score:
    """Return a score without a reward for an error of the backend.

    Raises:
        Exception: `error` itself if it is of another kind, or if the rules raise it: under
            `on_missing: raise`, or a `max_failed_fraction` below 1.
    """
    status = next((s for kind, s in _STATUS_OF_ERROR if isinstance(error, kind)), None)
    if status is None or rules.on_missing == "raise" or rules.max_failed_fraction < 1:
        raise error
    return Score(status=status.value, error=str(error))
