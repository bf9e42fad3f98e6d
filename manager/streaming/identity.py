"""Gives rollouts and groups their names, the same in every process; packs rollouts for Redis; pure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, TypedDict

from oyer.config.explaining import suggestion_or_known
from oyer.config.reward import RewardConfig, plan_of
from oyer.manager.backend.prepare import plain
from oyer.manager.streaming.pending import GroupClosing, PendingRollout, TimeoutPolicy
from oyer.protocol import token_ids
from oyer.protocol.batch import TRAINING_SPLITS, Priority, default_priority
from oyer.protocol.errors import BatchFailed, InvalidInput
from oyer.protocol.packing import WIRE_VERSION
from oyer.protocol.rollout import Message, Rollout, decode_rollouts, encode_rollouts

GROUP_TIMEOUT_S = 60.0
"""The longest time that a group waits for its last rollout by default, in seconds; also in `group.lua`."""

PackedRollouts = tuple[bytes, bytes, bytes]
"""Rollouts as one process stores them for others: ids, rollouts, and token ids or nothing."""


class RunOptions(TypedDict, total=False):
    """The run and training of rollouts."""

    run: str
    """The training run, `default` if left out; processes with the same run share its groups."""
    training: str | None
    """The training whose processes share the groups, if `run` does not name one training alone. With
    neither, it is `RewardManager.training`."""


class ScoreOptions(RunOptions, total=False):
    """The run, step and group of rollouts that are submitted one by one."""

    one_prompt: bool
    """Whether all rollouts of a group have one prompt: rollouts of another prompt form another group."""
    step: int | None
    """The training step, for the record."""
    split: str | None
    """Purpose of the rollouts in the record, e.g. `eval`; None is training. Rollouts of two splits never
    share a group."""
    priority: Priority | None
    """`background` does not delay training; `interactive` goes first. None (default): `training` if
    `split` is None or `train`, else `background`."""
    group_size: int | None
    """Rollouts of the group, over all processes; without it, a group is submitted in one call."""
    sample_id: str | None
    """Distinguishes samples with the same text in one group; the same text again is a retry else."""
    group_timeout_s: float | None
    """How long the group waits for its last rollout, in seconds; its first rollout decides. None
    (default): 4 times what the slowest group of the run's latest two steps needed, 2 to 60 seconds."""
    on_group_timeout: TimeoutPolicy
    """`partial` (default), `neutral` or `error`; the group's first rollout decides."""


def check_options(options: ScoreOptions, max_timeout_s: float) -> None:
    """Check the group options.

    Raises:
        InvalidInput: names the option and the fix.
    """
    unknown = sorted(options.keys() - ScoreOptions.__optional_keys__)
    if unknown:
        hint = suggestion_or_known(unknown[0], ScoreOptions.__optional_keys__)
        raise InvalidInput(f"{unknown[0]}: is not an option; {hint}")
    size = options.get("group_size")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise InvalidInput(f"group_size: is {size!r}; give the number of rollouts of one prompt")
    policy = options.get("on_group_timeout", "partial")
    if policy not in ("partial", "neutral", "error"):
        raise InvalidInput(f"on_group_timeout: is {policy!r}; give partial, neutral or error")
    timeout_s = options.get("group_timeout_s")
    if timeout_s is None:
        return
    if not isinstance(timeout_s, (int, float)) or not 0 <= timeout_s <= max_timeout_s:
        raise InvalidInput(
            f"group_timeout_s: is {timeout_s!r}; give seconds, `broker.result_expires_s` at most, or"
            " leave it out"
        )


def check_group_size(options: ScoreOptions, config: RewardConfig) -> None:
    """Refuse training groups of one rollout if a judge compares the rollouts of a group.

    Raises:
        InvalidInput: names the option and the fix.
    """
    if options.get("group_size") != 1 or options.get("split") not in TRAINING_SPLITS:
        return
    judge = next((judge.name for judge in config.judges if judge.kind == "group"), None)
    if judge is not None:
        raise InvalidInput(
            f"group_size: is 1, and the group judge {judge!r} compares the rollouts of a group; sample"
            " several rollouts of each prompt, or use a pointwise judge"
        )


def pending_rollouts(
    rollouts: Sequence[Rollout],
    options: ScoreOptions,
    *,
    plan: str,
    training: str,
    now_s: float,
    metadata_keys: Sequence[str] = (),
) -> list[PendingRollout]:
    """Name rollouts and their groups; the same rollout twice in one call is two samples.

    Args:
        options: checked by `check_options`.
        plan: what `plan_name` gives.
        training: the manager's, for rollouts with neither `run` nor `training`.
        now_s: of `time.monotonic`.
        metadata_keys: those that affect the score (`requirements.scored_metadata`).
    """
    run, step, size = options.get("run", "default"), options.get("step"), options.get("group_size")
    split = options.get("split")
    timeout_s = options.get("group_timeout_s")
    due_s = None if timeout_s is None else now_s + timeout_s
    scope = _training_of(options, training)
    spread = _digest([plan, run, scope, split])
    count: dict[str, int] = {}
    pending = []
    for rollout in rollouts:
        row = plain(rollout, rollout.token_ids)
        metadata = [[key, row.metadata.get(key)] for key in metadata_keys]
        sample = options.get("sample_id")
        name = rollout_name(row, run, step, size, sample, split, scope, metadata)
        count[name] = count.get(name, 0) + 1
        one = PendingRollout(rollout=row, id=f"{name}-{count[name]}", run=run, step=step)
        one.split = split
        one.priority = options.get("priority") or default_priority(split)
        if size is not None and row.group_id is not None:
            one.group = _group_of(str(row.group_id), row.prompt, options, plan, training)
            one.group_size, one.group_due_s, one.spread = size, due_s, spread
            one.on_group_timeout = options.get("on_group_timeout", "partial")
        pending.append(one)
    return pending


def closing_of(
    group_ids: Iterable[str | int],
    absent: int | Iterable[str] | None,
    prompts: Iterable[str | list[Message]] | None,
    options: ScoreOptions,
    *,
    plan: str,
    training: str,
    now_s: float,
) -> GroupClosing:
    """Name groups as `pending_rollouts` does for their rollouts; see `RewardManager.close_groups`.

    Raises:
        InvalidInput: names the argument and the fix.
    """
    size = options.get("group_size")
    ids = [str(group_id) for group_id in group_ids]
    of_prompts: list[Any] = [None] * len(ids) if prompts is None else list(prompts)
    if size is None:
        raise InvalidInput(
            "group_size: is missing; give the one that the rollouts were submitted with"
        )
    if len(of_prompts) != len(ids) or (prompts is None and options.get("one_prompt", False)):
        raise InvalidInput(
            "prompts: give one per group, since groups with `one_prompt` have it in their name"
        )
    return GroupClosing(
        groups=[
            _group_of(group_id, prompt, options, plan, training)
            for group_id, prompt in zip(ids, of_prompts, strict=True)
        ],
        group_size=size,
        step=options.get("step"),
        absent=_absent(absent, size),
        expires_s=now_s + GROUP_TIMEOUT_S,
    )


def _group_of(group_id: str, prompt: Any, options: ScoreOptions, plan: str, training: str) -> str:
    """Name a group, for its rollouts and for those that say that some of them will not come."""
    one_prompt = prompt if options.get("one_prompt", False) else None
    scope = scope_of(_training_of(options, training), one_prompt, options.get("split"))
    return group_name(
        plan, options.get("run", "default"), scope, group_id, options["group_size"] or 0
    )


def _training_of(options: ScoreOptions, training: str) -> str:
    """Return the training that scopes the groups; empty if the run does."""
    return options.get("training") or ("" if "run" in options else training)


def _absent(absent: int | Iterable[str] | None, size: int) -> list[str] | None:
    """Return names of rollouts that will not come; a number's names are the same each time."""
    if absent is None:
        return None
    if isinstance(absent, int) and not isinstance(absent, bool) and 0 <= absent <= size:
        return [f"#{i}" for i in range(absent)]
    if isinstance(absent, Iterable) and not isinstance(absent, (str, bytes)):
        return [str(name) for name in absent]
    raise InvalidInput(
        f"absent: is {absent!r}; give how many of the group's rollouts will not come, or their names"
    )


def plan_name(config: RewardConfig) -> str:
    """Name the judges, length methods and rules: groups hold rollouts of one plan only."""
    return _digest([WIRE_VERSION, plan_of(config)])


def group_name(plan: str, run: str, scope: str, group_id: str, size: int) -> str:
    """Name a group; `scope` is what `scope_of` returns for its rollouts."""
    return _digest([plan, run, scope, group_id, size])


def scope_of(training: str, prompt: Any = None, split: str | None = None) -> str:
    """Name what may share a group: the rollouts of a training's split and, if given, of a prompt."""
    return _digest([training, prompt, split])


def rollout_name(rollout: Rollout, run: str, step: int | None, *distinguished_by: Any) -> str:
    """Name a rollout by its run, step and group and by every field that affects its score.

    Args:
        rollout: as `prepare.plain` returns it.
        run: the training run.
        step: the training step.
        distinguished_by: further values that make two rollouts different.
    """
    place = [run, None if step is None else int(step), rollout.group_id, *distinguished_by]
    numbers = [rollout.base_score, rollout.correct, rollout.truncated, rollout.response_tokens]
    texts = (rollout.prompt, rollout.response, rollout.reference)
    # JSON of a long text would cost more than its hash; with their lengths, texts can follow as is.
    shape = [len(one) if isinstance(one, str) else one for one in (*texts, rollout.tools)]
    return _digest([place, numbers, shape], *(one for one in texts if isinstance(one, str)))


def pack(rollouts: Mapping[str, Rollout], *, with_token_ids: bool) -> PackedRollouts:
    """Pack rollouts, by id, for the process that will submit their group."""
    rows = [r if r.token_ids is None else replace(r, token_ids=None) for r in rollouts.values()]
    packed_ids = b""
    if with_token_ids and all(rollout.token_ids is not None for rollout in rollouts.values()):
        packed_ids = token_ids.encode([token_ids.checked(r.token_ids) for r in rollouts.values()])
    return ",".join(rollouts).encode(), encode_rollouts(rows), packed_ids


def unpack(
    ids: Sequence[str], packed: Iterable[PackedRollouts], known: Mapping[str, Rollout]
) -> list[Rollout]:
    """Return a group's rollouts, in the order of `ids`.

    Args:
        ids: of the group's rollouts.
        packed: what the processes stored, in any order; a rollout stored twice counts once.
        known: rollouts of this process, by id.

    Raises:
        BatchFailed: a rollout is missing.
        MessageRefused: the bytes are of another version.
    """
    found = dict(known)
    for names, rollouts, packed_ids in packed:
        part_ids = names.decode().split(",")
        if all(name in found for name in part_ids):
            continue
        rows = decode_rollouts(rollouts)
        if packed_ids:
            tokens = token_ids.decode([packed_ids])
            rows = [
                replace(
                    row, token_ids=tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]].tolist()
                )
                for i, row in enumerate(rows)
            ]
        for name, row in zip(part_ids, rows, strict=True):
            found.setdefault(name, row)
    missing = [name for name in ids if name not in found]
    if missing:
        raise BatchFailed(
            f"{len(missing)} of a group's {len(ids)} rollouts are no longer in Redis;"
            " submit the group again"
        )
    return [found[name] for name in ids]


_JSON = json.JSONEncoder(default=float)


def _digest(value: Any, *texts: str) -> str:
    digest = sha256(_JSON.encode(value).encode())
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]
