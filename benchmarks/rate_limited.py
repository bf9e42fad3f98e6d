"""verl's `rate_limited` reward manager: the real class where verl is installed, else its algorithm.

Source: verl 0.9.1, `verl/experimental/reward_loop/reward_manager/limited.py`. Each rollout takes
from a bucket of requests and one of tokens, then holds a semaphore while its one call is awaited;
on a timeout or an error, which it logs, the reward is 0. State belongs to the process.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

logger = logging.getLogger(__name__)

ComputeScore = Callable[..., Awaitable[float]]
Score = Callable[[int], Awaitable[float]]


class TokenBucket:
    """verl's `AsyncTokenBucket` for requests up to its size: starts full, refills steadily."""

    def __init__(self, rate_per_s: float) -> None:
        self._rate_per_s = self._size = self._tokens = rate_per_s
        self._at: float | None = None
        self._lock = asyncio.Lock()

    async def acquire(self, tokens: float) -> None:
        """Take tokens, waiting until there are enough; larger requests go into debt."""
        while True:
            async with self._lock:
                now = asyncio.get_running_loop().time()
                since_s = now - (now if self._at is None else self._at)
                self._at = now
                self._tokens = min(self._size, self._tokens + since_s * self._rate_per_s)
                missing = tokens - self._tokens
                if missing <= 0 or tokens > self._size:
                    self._tokens -= tokens
            if missing > 0:
                await asyncio.sleep(missing / self._rate_per_s)
            if missing <= 0 or tokens > self._size:
                return


class StandIn:
    """What `RateLimitedRewardManager.run_single` does once a response is decoded."""

    def __init__(
        self,
        compute_score: ComputeScore,
        *,
        max_concurrent: int,
        max_rpm: float | None,
        max_tpm: float | None,
        estimated_tokens: float = 2000,
        timeout_s: float = 300,
    ) -> None:
        self._compute_score = compute_score
        self._semaphore = asyncio.Semaphore(max_concurrent)
        self._requests = TokenBucket(max_rpm / 60) if max_rpm else None
        self._tokens = TokenBucket(max_tpm / 60) if max_tpm else None
        self._estimated_tokens = estimated_tokens
        self._timeout_s = timeout_s

    async def run_single(self, **row: Any) -> float:
        """Score one rollout."""
        if self._requests is not None:
            await self._requests.acquire(1.0)
        if self._tokens is not None:
            await self._tokens.acquire(self._estimated_tokens)
        async with self._semaphore:
            try:
                return await asyncio.wait_for(self._compute_score(**row), self._timeout_s)
            except Exception as error:  # noqa: BLE001 - as verl does, which is what is measured
                logger.error("reward 0, because the call failed: %r", error)
                return 0.0


def rate_limited(
    compute_score: ComputeScore,
    responses: Sequence[str],
    *,
    max_concurrent: int,
    max_rpm: float | None = None,
    max_tpm: float | None = None,
) -> tuple[str, Score]:
    """Return who it is, and what scores the rollout of a number; call it inside of the event loop."""
    try:
        return _real(compute_score, responses, max_concurrent, max_rpm, max_tpm)
    except ImportError:
        manager = StandIn(
            compute_score, max_concurrent=max_concurrent, max_rpm=max_rpm, max_tpm=max_tpm
        )

        async def score(i: int) -> float:
            return await manager.run_single(
                data_source="bench", solution_str=responses[i], ground_truth="", extra_info={"i": i}
            )

        return "rate_limited, its algorithm", score


def _real(
    compute_score: ComputeScore,
    responses: Sequence[str],
    max_concurrent: int,
    max_rpm: float | None,
    max_tpm: float | None,
) -> tuple[str, Score]:
    import torch
    import verl
    from omegaconf import DictConfig
    from verl.experimental.reward_loop.reward_manager.limited import RateLimitedRewardManager

    class Tokenizer:
        """Decodes the only token of a response, which is its number."""

        def decode(self, ids: Any, skip_special_tokens: bool = True) -> str:
            return responses[int(ids[0])]

    limits = {"max_concurrent": max_concurrent, "max_rpm": max_rpm, "max_tpm": max_tpm}
    # Its limits are the class's own and taken from the first instance; each round begins anew.
    RateLimitedRewardManager._class_initialized = False
    manager = RateLimitedRewardManager(DictConfig({"reward": limits}), Tokenizer(), compute_score)

    async def score(i: int) -> float:
        row = verl.DataProto.from_dict(
            tensors={
                "responses": torch.tensor([[i]]),
                "attention_mask": torch.ones(1, 1, dtype=torch.long),
            },
            non_tensors={
                "data_source": ["bench"],
                "reward_model": [{"ground_truth": ""}],
                "extra_info": [{"i": i}],
            },
        )
        result = await manager.run_single(row)
        return float(result["reward_score"])

    return f"rate_limited of verl {verl.__version__}", score
