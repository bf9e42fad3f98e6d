"""A stand-in of slime's rollout: its coroutines' names, locals and calls, with timed generation.

It follows `slime/rollout/sglang_rollout.py` at commit 624b824. slime is not on PyPI; `tests/trainers/test_slime.py` runs slime's own code where `OYER_SLIME` names its folder.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

Generate = Callable[[Any, Any], Awaitable[None]]
"""Generates a sample, given the state."""


@dataclass
class Trainer:
    """A rollout manager with its state."""

    args: SimpleNamespace
    reward: Callable[..., Any]
    generate: Generate
    state: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(aborted=False))

    async def generate_rollout_async(self, rollout_id: int, groups: list[list[Any]]) -> list[Any]:
        """Return the first groups that are whole; abort the others, and wait for them."""
        self.state.aborted = False
        pending = {asyncio.create_task(self.generate_and_rm_group(group)) for group in groups}
        data: list[Any] = []
        while len(data) < self.args.rollout_batch_size:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            data += [task.result() for task in done]
        self.state.aborted = True
        await asyncio.gather(*pending)
        return data

    async def eval_rollout(self, rollout_id: int, samples: list[Any]) -> list[Any]:
        """Evaluate samples one by one."""
        calls = (self.generate_and_rm(sample, evaluation=True) for sample in samples)
        return await asyncio.gather(*calls)

    async def generate_and_rm_group(self, group: list[Any]) -> list[Any]:
        """Generate and score a group."""
        tasks = []
        for sample in group:
            tasks.append(asyncio.create_task(self.generate_and_rm(sample)))
        return await asyncio.gather(*tasks)

    async def generate_and_rm(self, sample: Any, evaluation: bool = False) -> Any:
        """Generate and score a sample."""
        state = self.state
        if sample.reward is not None:
            return sample
        await self.generate(state, sample)
        if sample.status.value != "aborted":
            sample.reward = await self.reward(self.args, sample)
        return sample
