"""Hands to the reward manager what verl knows of a rollout and does not pass on.

verl's agent loop calls the reward manager without the response mask, and without saying how many
rollouts the prompt has, which are copies that only fill up the workers' batches, which are REMAX's
greedy baselines, and which are of validation. `install` adds this to what verl passes: a column of the
batch (`COLUMN`), and the mask in `extra_fields`. It runs when verl loads the reward manager; without it,
as in releases of verl that differ, the manager reads the options and the chat template instead.

Source: verl 0.9.1, `experimental/agent_loop/agent_loop.py` (`_compute_score`, `generate_sequences`),
`trainer/ppo/v1/agent_loop_tq.py` (`_run_prompt`), `trainer/ppo/ray_trainer.py` (`_validate`, `fit`).
"""

import asyncio
import functools
import importlib
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from celery.utils.log import get_logger

log = get_logger(__name__)

COLUMN = "oyer_rollout"
"""Column of the batch with one `Handover` per row."""

MASK = "oyer_response_mask"
"""Key of an agent loop's `extra_fields`: 1 for the policy's tokens, 0 for those of tools and users."""

_REWARD_LOOP = "verl.experimental.reward_loop.reward_loop"
_AGENT_LOOP = "verl.experimental.agent_loop.agent_loop"


class Handover(TypedDict, total=False):
    """What verl knows of one row."""

    group_size: int
    """Rollouts that the row is compared with, itself included: 1 for copies and baselines."""
    sample: str
    """Distinguishes the samples of a prompt; equal in a copy. In V1, `session_id` does."""
    validate: bool | None
    """Whether the rollout is of validation; None if it is not known."""
    step: int | None
    """The training step."""


def install() -> None:
    """Extend the classes of verl that this process has loaded; does nothing a second time."""
    rewards: Any = sys.modules.get(_REWARD_LOOP)
    agents: Any = sys.modules.get(_AGENT_LOOP)
    if hasattr(rewards, "RewardLoopManager"):
        _extend(rewards.RewardLoopManager, "_init_reward_loop_workers", _with_agent_loop)
        _extend(rewards.RewardLoopManager, "compute_rm_score", _with_groups)
    if hasattr(agents, "AgentLoopManager"):
        _extend(agents.AgentLoopWorker, "_compute_score", _with_masks)
        _extend(agents.AgentLoopWorker, "_run_agent_loop", _with_absences)
        _extend(agents.AgentLoopManager, "_init_agent_loop_workers", _with_handover)


def members(
    uids: Sequence[Any],
    expected: int,
    *,
    validate: bool | None,
    step: int | None = None,
    sampled: Sequence[bool] | None = None,
) -> list[Handover]:
    """Say who belongs to a group, in a batch that holds all rollouts of its prompts.

    Args:
        uids: of the rows' prompts.
        expected: samples per prompt. Further rows of a prompt are copies that fill up a batch:
            `pad_dataproto_to_divisor` appends them, so they come last.
        validate: whether the batch is of validation.
        step: the training step.
        sampled: False for REMAX's greedy baselines.
    """
    flags = [True] * len(uids) if sampled is None else sampled
    totals = Counter(uid for uid, flag in zip(uids, flags, strict=True) if flag)
    seen: Counter[Any] = Counter()
    rows: list[Handover] = []
    for uid, flag in zip(uids, flags, strict=True):
        number = seen[uid, flag]
        seen[uid, flag] += 1
        is_member = flag and number < expected
        name = str(number) if is_member else f"copy {number}" if flag else f"baseline {number}"
        size = min(totals[uid], expected) if is_member else 1
        rows.append(Handover(group_size=size, sample=name, validate=validate, step=step))
    return rows


def expected_samples(counts: Iterable[int], sizes: Iterable[int | None]) -> int:
    """Guess the samples per prompt of a batch that does not say what it is of.

    Args:
        counts: rows of each prompt; copies and baselines make them larger.
        sizes: the configured numbers, of training and validation.
    """
    most = max(counts, default=1)
    return max((size for size in sizes if size and size <= most), default=most)


def _extend(owner: Any, name: str, extension: Callable[[Any], Any]) -> None:
    method = getattr(owner, name, None)
    if method is None or getattr(method, "extended_by_oyer", False):
        return
    extended: Any = functools.wraps(method)(extension(method))
    extended.extended_by_oyer = True
    setattr(owner, name, extended)


def _with_agent_loop(init: Any) -> Any:
    def init_reward_loop_workers(self: Any) -> None:
        init(self)
        try:
            # The trainer loads it after the reward manager.
            importlib.import_module(_AGENT_LOOP)
        except ImportError as error:
            log.info("verl's agent loop cannot be loaded: %s", error)
        install()

    return init_reward_loop_workers


def _with_groups(compute: Any) -> Any:
    def compute_rm_score(self: Any, data: Any) -> Any:
        columns = data.non_tensor_batch
        if COLUMN in columns or "uid" not in columns:
            return compute(self, data)
        uids = list(map(str, columns["uid"]))
        rollout = self.config.actor_rollout_ref.rollout
        validate = bool(data.meta_info.get("validate", False))
        sampled, validated = rollout.n, _validation_size(rollout)
        sizes = [validated] if validate else [sampled, validated]
        expected = expected_samples(Counter(uids).values(), sizes)
        guess = validate or expected == validated != sampled
        rows = members(uids, expected, validate=guess or None)
        rows = _same_as_original(rows, uids, data.batch["responses"])
        if not validate and any(row["sample"].startswith("copy") for row in rows) and guess:
            # What is no copy is a sample: an incomplete group of training.
            rows = members(uids, sampled, validate=None)
        columns[COLUMN] = _column(rows)
        try:
            return compute(self, data)
        finally:
            del columns[COLUMN]

    return compute_rm_score


def _same_as_original(
    rows: Sequence[Handover], uids: Sequence[str], responses: Any
) -> list[Handover]:
    """Let a copy with the response of a member be that member: it is judged and compared once."""
    places: dict[str, list[int]] = {}
    for i, uid in enumerate(uids):
        places.setdefault(uid, []).append(i)
    return [
        next(
            (rows[j] for j in places[uids[i]] if bool((responses[i] == responses[j]).all())),
            row,
        )
        if row["sample"].startswith("copy")
        else row
        for i, row in enumerate(rows)
    ]


def _with_handover(init: Any) -> Any:
    async def init_agent_loop_workers(self: Any) -> None:
        await init(self)
        # The workers are other processes, with classes of their own.
        await asyncio.gather(
            *(worker.__ray_call__.remote(_install_in) for worker in self.agent_loop_workers)
        )
        generate = self.generate_sequences
        rollout = self.config.actor_rollout_ref.rollout

        @functools.wraps(generate)
        def generate_sequences(prompts: Any, *args: Any, **kwargs: Any) -> Any:
            add = _add_to_batch if hasattr(prompts, "non_tensor_batch") else _add_to_prompts
            try:
                add(prompts, rollout)
            except Exception:
                log.exception(
                    "verl's batch could not be extended; groups are read from the options"
                )
            return generate(prompts, *args, **kwargs)

        self.generate_sequences = generate_sequences

    return init_agent_loop_workers


def _install_in(worker: Any) -> None:
    install()


def _add_to_batch(batch: Any, rollout: Any) -> None:
    """Add the column to a `DataProto` with one row per rollout (V0)."""
    columns = batch.non_tensor_batch
    if "uid" not in columns:
        return
    validate = bool(batch.meta_info.get("validate", False))
    greedy = columns.get("__do_sample__")
    rows = members(
        list(map(str, columns["uid"])),
        _samples(rollout, validate),
        validate=validate,
        step=batch.meta_info.get("global_steps"),
        sampled=None if greedy is None or validate else [bool(flag) for flag in greedy],
    )
    columns[COLUMN] = _column(rows)


def _add_to_prompts(prompts: Any, rollout: Any) -> None:
    """Add the column to a `TensorDict` with one row per prompt (V1)."""
    validate = bool(prompts["validate"]) if "validate" in prompts else False
    sizes = [_samples(rollout, validate)] * len(prompts)
    if "__rollout_n__" in prompts:
        sizes = [int(one) for one in prompts["__rollout_n__"]]
    rows = [Handover(group_size=one, validate=validate) for one in sizes]
    tensordicts = importlib.import_module("verl.utils.tensordict_utils")
    tensordicts.assign_non_tensor_stack(prompts, COLUMN, rows)


def _with_masks(compute: Any) -> Any:
    async def _compute_score(self: Any, outputs: Any, kwargs: Any) -> Any:
        for output in outputs:
            output.extra_fields[MASK] = list(output.response_mask)
        try:
            return await compute(self, outputs, kwargs=kwargs)
        finally:
            for output in outputs:
                output.extra_fields.pop(MASK, None)

    return _compute_score


def _with_absences(run: Any) -> Any:
    async def _run_agent_loop(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return await run(self, *args, **kwargs)
        except Exception:
            handles = self.reward_loop_worker_handles
            if handles and COLUMN in kwargs:
                names = ("uid", "session_id", "global_steps", COLUMN)
                row = {name: kwargs[name] for name in names if name in kwargs}
                random.choice(handles).__ray_call__.remote(_absent, row)
            raise

    return _run_agent_loop


def _absent(worker: Any, row: Mapping[str, Any]) -> None:
    """Runs in a reward loop worker: the row's rollout failed, so its group must not wait for it."""
    absent = getattr(worker.reward_manager, "absent", None)
    if absent is not None:
        absent(row)


def _samples(rollout: Any, validate: bool) -> int:
    return int((_validation_size(rollout) if validate else None) or rollout.n)


def _validation_size(rollout: Any) -> int | None:
    kwargs = rollout.get("val_kwargs") if hasattr(rollout, "get") else None
    return None if kwargs is None else kwargs.get("n")


def _column(rows: Sequence[Handover]) -> Any:
    column = np.empty(len(rows), dtype=object)
    column[:] = rows
    return column
