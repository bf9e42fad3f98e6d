"""Reward manager for verl's reward loop (0.7.1 and later): one rollout per call, concurrently.

- No call blocks the event loop, and each ends within its timeout.
- All results have the same `reward_extra_info` keys, because verl reads the first row's keys from all.
"""

import asyncio
import inspect
import math
import uuid
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from celery.utils.log import get_logger
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from oyer.config.explaining import explain
from oyer.config.loading import load_config, validate
from oyer.manager import client
from oyer.manager.adapters import NeededFields, one_by_one
from oyer.manager.requirements import compares
from oyer.manager.score import Score, without_reward
from oyer.manager.stand_ins import with_group_mean
from oyer.manager.streaming.pending import TimeoutPolicy
from oyer.manager.verl.columns import ExtraColumns
from oyer.manager.verl.data import (
    ComputeScore,
    RowReading,
    VerlRow,
    accuracy_of,
    base_score_of,
    default_compute_score,
    end_ids_of,
    place,
    read_row,
)
from oyer.manager.verl.handover import COLUMN, Handover, install
from oyer.protocol.errors import InvalidConfig, InvalidRollout, MissingScores, OyerError
from oyer.protocol.rollout import Rollout

log = get_logger(__name__)

OnMissing = float | Literal["neutral", "base_score", "raise"]


class VerlOptions(BaseModel):
    """`reward.reward_kwargs.oyer` in verl's configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    config: str | dict[str, Any] | None = None
    """Path of an `oyer.yaml`, or its keys inline; by default the path in `OYER_CONFIG`."""
    run: str = "verl"
    """The training run on record."""
    timeout_s: float = Field(300.0, gt=0)
    """Longest wait for one rollout's reward, in seconds."""
    on_missing: OnMissing = "neutral"
    """What replaces a missing reward. `neutral`: the mean judge score of the prompt's other rollouts
    replaces a missing one (`reward.on_missing: group_mean` instead of `skip`), and the base score
    replaces the rewards of a prompt without any. `base_score` or a number; `raise` raises instead."""
    group_size: int | None = Field(None, ge=1)
    """Rollouts per prompt if verl's batches do not say it; by default `actor_rollout_ref.rollout.n`."""
    validation_splits: tuple[str, ...] = ("test", "val", "validation")
    """Values of `extra_info.split` that mark validation rollouts if verl's batches do not say it; their
    groups have `rollout.val_kwargs.n` rollouts."""
    group_timeout_s: float | None = Field(None, gt=0)
    """Longest wait of a group for its last rollout, in seconds; by default it follows from what the
    latest groups needed."""
    on_group_timeout: TimeoutPolicy = "partial"
    """How length terms are computed for a group that is still incomplete then."""


def missing_reward(score: Score, base_score: float, on_missing: OnMissing) -> float:
    """Return the reward or its replacement: verl's advantages accept neither NaN nor None.

    Raises:
        MissingScores: the option is `raise`.
    """
    if score.trainable:
        return score.reward
    if on_missing == "raise":
        raise MissingScores(
            f"a rollout has no reward ({score.status}: {score.error}), and"
            " reward_kwargs.oyer.on_missing is `raise`"
        )
    if on_missing in ("neutral", "base_score"):
        return base_score if math.isfinite(base_score) else 0.0
    return float(on_missing)


class RewardManager:
    """The class that each reward loop worker process of verl instantiates."""

    def __init__(
        self,
        config: Any,
        tokenizer: Any,
        compute_score: ComputeScore | None = None,
        reward_router_address: str | None = None,
        reward_model_tokenizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Read the options and connect to the backend.

        Raises:
            InvalidConfig: an option is wrong, or no broker is named.
        """
        self.options = _options(config, kwargs)
        self.tokenizer = tokenizer
        self.compute_score = compute_score or default_compute_score()
        self._group_size = self.options.group_size or _at(config, "actor_rollout_ref.rollout.n")
        self._validation_size = _at(config, "actor_rollout_ref.rollout.val_kwargs.n") or 1
        self._router = (
            {}
            if reward_router_address is None
            else {
                "reward_router_address": reward_router_address,
                "reward_model_tokenizer": reward_model_tokenizer,
            }
        )
        inline = self.options.config
        loaded = validate(inline) if isinstance(inline, dict) else load_config(inline)
        streamed, self._outages = one_by_one(
            with_group_mean(loaded) if self.options.on_missing == "neutral" else loaded,
            self.options.timeout_s,
        )
        self.manager = client.RewardManager(streamed)
        self._compares = compares(streamed)
        self._columns = ExtraColumns(streamed, _at(config, "algorithm.gdpo_reward_keys") or ())
        self._reading = RowReading(
            tokenizer=tokenizer,
            end_ids=end_ids_of(tokenizer),
            response_length=_at(config, "actor_rollout_ref.rollout.response_length"),
            needed=NeededFields.of(streamed),
        )

    async def run_single(self, data: Any) -> dict[str, Any]:
        """Score the last row of `data`.

        Returns:
            `{"reward_score": float, "reward_extra_info": …}`, always with the same keys.

        Raises:
            MissingScores: there is no reward, and `on_missing` of the options or the rules is `raise`.
            JudgeOutage: more of the latest rollouts failed than `max_failed_fraction` allows.
        """
        last = data[-1:]
        columns = {name: column[0] for name, column in last.non_tensor_batch.items()}
        base, accuracy, result, sent = math.nan, math.nan, None, False
        limit = asyncio.timeout(self.options.timeout_s)
        try:
            async with limit:
                row = await _in_thread(read_row, last, 0, self._reading)
                computed = await self._computed(row)
                base = base_score_of(computed)
                result, accuracy = computed, accuracy_of(computed, base)
                scoring = self.manager.score(self._rollout(row, base), **self._place(columns))
                sent = True
                score = await scoring
        except Exception as error:  # noqa: BLE001 - an exception would end verl's whole step
            if not sent:
                self.absent(columns)
            score = self._failed(error, expired=limit.expired())
        self._outages.count([score])
        return {
            "reward_score": missing_reward(score, base, self.options.on_missing),
            "reward_extra_info": self._columns.row(score, base, accuracy, result),
        }

    @classmethod
    def assemble_rm_scores(cls, data: Any, scores: list[float]) -> Any:
        """Place the rewards of a batch, `float32 [B, R]`; called by verl 0.8 and later."""
        return place(data, scores)

    async def _computed(self, row: VerlRow) -> Any:
        call = partial(
            self.compute_score,
            data_source=row.data_source,
            solution_str=row.text,
            ground_truth=row.ground_truth,
            extra_info=row.extra_info,
            **self._router,
        )
        inner = self.compute_score
        while isinstance(inner, partial):
            inner = inner.func
        try:
            result = await (call() if inspect.iscoroutinefunction(inner) else _in_thread(call))
            return await result if inspect.isawaitable(result) else result
        except Exception as error:
            raise InvalidRollout(f"compute_score raised {error!r}; fix it") from error

    def _rollout(self, row: VerlRow, base: float) -> Rollout:
        return Rollout(
            prompt=row.prompt,
            response=row.response,
            group_id=row.uid if row.uid is not None else uuid.uuid4().hex,
            base_score=base,
            response_tokens=row.response_tokens,
            token_ids=row.token_ids,
            truncated=row.truncated,
            reference=row.reference,
            metadata=row.metadata,
        )

    def absent(self, row: Mapping[str, Any]) -> None:
        """Let no group wait for a rollout that failed; `row` has the columns of its batch."""
        uid = row.get("uid")
        if uid is None or not self._compares:
            return
        place = self._place(row)
        name = place.pop("sample_id")
        if (place["group_size"] or 1) > 1:
            self.manager.close_groups([str(uid)], absent=[name], **place)

    def _place(self, row: Mapping[str, Any]) -> Any:
        """Return run, step, split and group of a row, given by its columns."""
        handed: Handover = row.get(COLUMN) or Handover()
        step = row.get("global_steps") if handed.get("step") is None else handed["step"]
        validate = handed.get("validate")
        if validate is None:
            split = (row.get("extra_info") or {}).get("split")
            validate = split in self.options.validation_splits
        size = self._validation_size if validate else self._group_size
        # The V1 trainer numbers a prompt's samples; otherwise equal texts are different samples.
        sample = handed.get("sample", row.get("session_id"))
        place = {
            # verl's uids are random, so two trainings never share a group.
            "run": self.options.run,
            "step": int(step) if step is not None and step >= 0 else None,
            "split": "eval" if validate else "train",
            "group_size": 1 if row.get("uid") is None else handed.get("group_size", size),
            "sample_id": uuid.uuid4().hex if sample is None else str(sample),
            "on_group_timeout": self.options.on_group_timeout,
        }
        if self.options.group_timeout_s is not None:
            place["group_timeout_s"] = self.options.group_timeout_s
        return place

    def _failed(self, error: Exception, *, expired: bool) -> Score:
        if expired:
            error = TimeoutError(
                f"no reward within {self.options.timeout_s:g} s (reward_kwargs.oyer.timeout_s)"
            )
        elif not isinstance(error, (OyerError, TimeoutError)):
            log.error("a row of verl's data could not be read", exc_info=error)
            error = InvalidRollout(f"reading the row raised {error!r}")
        score = without_reward(error, self.manager.config.reward)
        log.warning("a rollout has no reward (%s): %s", score.status, score.error)
        return score


async def _in_thread(function: Any, *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


def _options(config: Any, kwargs: Mapping[str, Any]) -> VerlOptions:
    raw = kwargs.get("oyer") or _at(config, "reward.reward_kwargs.oyer") or {}
    try:
        return VerlOptions.model_validate(_plain(raw))
    except ValidationError as error:
        raise InvalidConfig(f"reward.reward_kwargs.oyer: {explain(error)}") from error


def _at(config: Any, path: str) -> Any:
    """Return the value at a dotted path of an OmegaConf or plain mapping, or None."""
    for key in path.split("."):
        config = config.get(key) if hasattr(config, "get") else getattr(config, key, None)
    return config


def _plain(raw: Any) -> Any:
    """Convert OmegaConf containers to dicts and lists."""
    if hasattr(raw, "items"):
        return {str(key): _plain(value) for key, value in raw.items()}
    return raw if isinstance(raw, str) or not hasattr(raw, "__iter__") else [*map(_plain, raw)]


# verl loads this module by name, in the process that builds its batches and in those that score them.
install()
