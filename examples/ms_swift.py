"""ms-swift: an asynchronous reward for `--external_plugins examples/ms_swift.py --reward_funcs oyer`.

ms-swift calls `asyncio.run` in every step, so nothing here may be bound to an event loop; a manager
is not. `OYER_CONFIG` names the configuration. ms-swift says which completions hit the length limit.
"""

from itertools import chain
from typing import Any

from swift.rewards import AsyncORM, orms

from oyer.config.loading import load_config
from oyer.manager.trl import RewardFunction


class Oyer(AsyncORM):
    """Judge and length terms as one reward; None for a missing reward."""

    def __init__(self, args: Any = None, **kwargs: Any) -> None:
        super().__init__(args, **kwargs)
        n = getattr(args, "num_generations", None)
        # After several turns the prompts of a group differ, so use ms-swift's `prompt_id`.
        self._function = RewardFunction(load_config(), num_generations=n, group="prompt_id")

    async def __call__(self, completions: list[str], **kwargs: Any) -> list[float | None]:
        """Score the completions of one step."""
        conversations = kwargs.pop("messages", None)
        ids = kwargs.pop("response_token_ids", None)
        # A multi-turn scheduler may omit them, which is not a length of 0.
        if ids and all(ids):
            # For several turns, ms-swift passes a list of lists.
            kwargs["completion_ids"] = [
                list(chain(*row)) if isinstance(row[0], list) else row for row in ids
            ]
        if not conversations:
            return await self._function.score([""] * len(completions), completions, **kwargs)
        starts = [
            response_start(messages, len(row) if row and isinstance(row[0], list) else 1)
            for messages, row in zip(conversations, ids or [None] * len(completions), strict=True)
        ]
        rows = list(zip(conversations, starts, strict=True))
        prompts = [messages[:start] for messages, start in rows]
        return await self._function.score(prompts, [m[start:] for m, start in rows], **kwargs)


def response_start(messages: list[dict[str, Any]], turns: int) -> int:
    """Return where the policy's response starts: at the last `turns` messages of the assistant."""
    said = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    return said[-turns:][0] if said else len(messages)


orms["oyer"] = Oyer
