"""What slime's and miles' coroutines know of a sample and do not pass to a reward function.

Both start a task `generate_and_rm(…)` for each sample of a group in `generate_and_rm_group(…)`, while
`generate_rollout_async(…, rollout_id, …)` or `eval_rollout(…, rollout_id)` waits in the same event
loop, and both abort by `state.aborted` (slime 624b824 `slime/rollout/sglang_rollout.py`; miles
31f1ca9 `miles/rollout/inference_rollout/`). Their frames are read and never changed. Where they are
not found, e.g. in a custom rollout function, nothing is known.
"""

import asyncio
import sys
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

_MAX_DEPTH = 32
"""Frames between the reward function and the trainer's task; decorators add some."""

Task = asyncio.Task[Any]


@dataclass(frozen=True)
class Caller:
    """What is known of the call that asks for a sample's reward."""

    siblings: Sequence[Task] = ()
    """The tasks of the group's samples, the calling one among them; empty if unknown."""
    state: Any = None
    """The trainer's generation state, with `aborted` and usually `tokenizer`; None if unknown."""
    evaluation: bool | None = None
    step: int | None = None
    """The trainer's `rollout_id`."""

    @property
    def aborted(self) -> bool:
        """Whether the trainer has stopped the generation of the samples that it does not need."""
        return bool(getattr(self.state, "aborted", False))


def current_caller() -> Caller:
    """Read the frames of the running task and of the tasks that started it."""
    frame = _own_frame("generate_and_rm")
    if frame is None:
        return Caller()
    known = frame.f_locals
    task = asyncio.current_task()
    evaluation = known.get("evaluation")
    return Caller(
        siblings=() if task is None or evaluation else _siblings(task),
        state=known.get("state"),
        evaluation=evaluation if isinstance(evaluation, bool) else None,
        step=_step(evaluation=bool(evaluation)),
    )


def _own_frame(name: str) -> FrameType | None:
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_MAX_DEPTH):
        if frame is None or frame.f_code.co_name == name:
            return frame
        frame = frame.f_back
    return None


_groups: "weakref.WeakKeyDictionary[Task, Sequence[weakref.ref[Task]]]" = (
    weakref.WeakKeyDictionary()
)
"""The tasks of a sample's group, by each of them."""


def _siblings(task: Task) -> Sequence[Task]:
    if task not in _groups:
        for frame in _frames("generate_and_rm_group", "tasks"):
            # Not yet set in a group that still waits to be started.
            started = frame.f_locals.get("tasks") or ()
            tasks = [one for one in started if isinstance(one, asyncio.Task)]
            group = [weakref.ref(one) for one in tasks]
            for one in tasks:
                _groups.setdefault(one, group)
    # The trainer keeps the tasks until all have ended.
    return [found for ref in _groups.get(task, ()) if (found := ref()) is not None]


_steps: dict[bool, tuple["weakref.ref[Task]", int]] = {}
"""The running rollout's task and step, by whether it is an evaluation."""


def _step(*, evaluation: bool) -> int | None:
    found = _steps.get(evaluation)
    if found is not None:
        task = found[0]()
        if task is not None and not task.done() and task.get_loop() is asyncio.get_running_loop():
            return found[1]
    for task, frame in _task_frames():
        code = frame.f_code
        if _has(code, "rollout_id") and ("eval" in code.co_name) == evaluation:
            step = frame.f_locals.get("rollout_id")
            if isinstance(step, int) and not isinstance(step, bool) and step >= 0:
                _steps[evaluation] = weakref.ref(task), step
                return step
    return None


def _frames(name: str, local: str) -> Iterator[FrameType]:
    for _, frame in _task_frames():
        if frame.f_code.co_name == name and _has(frame.f_code, local):
            yield frame


def _task_frames() -> Iterator[tuple[Task, FrameType]]:
    """Return the frames of each task of the loop that awaits something, outermost first."""
    for task in asyncio.all_tasks():
        waits: Any = task.get_coro()
        for _ in range(_MAX_DEPTH):
            frame = getattr(waits, "cr_frame", None)
            if frame is None:
                break
            yield task, frame
            waits = waits.cr_await


def _has(code: CodeType, local: str) -> bool:
    return local in code.co_varnames or local in code.co_cellvars
