"""Refuses rollouts that cannot be scored, naming the row and the field; pure."""

import json
import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from oyer.tasks.config import RewardConfig
from oyer.tasks.errors import InvalidRollout
from oyer.tasks.lengths import catalogue
from oyer.tasks.payloads import Rollout


def check(rollouts: Sequence[Rollout], config: RewardConfig) -> None:
    """Check a batch before anything of it is sent.

    Raises:
        InvalidRollout: names the first row and field that is wrong, and the fix.
    """
    if not isinstance(rollouts, Sequence) or isinstance(rollouts, (str, bytes)):
        raise InvalidRollout("rollouts: is a list of Rollout")
    if not rollouts:
        raise InvalidRollout("rollouts: the batch is empty; hand over at least one rollout")
    needs = {need for item in config.length for need in catalogue.METHODS[item.method].needs}
    for row, rollout in enumerate(rollouts):
        problem = _problem(rollout, config, needs)
        if problem:
            raise InvalidRollout(f"rollouts[{row}].{problem}")


def _problem(rollout: Any, config: RewardConfig, needs: set[str]) -> str | None:
    """Name the first field that is wrong, or return None."""
    if not isinstance(rollout, Rollout):
        return f"__class__: is {type(rollout).__name__}; hand over oyer.manager.Rollout"
    return (
        _text_problem(rollout, config.max_rollout_bytes)
        or _number_problem(rollout)
        or _flag_problem(rollout)
        or _need_problem(rollout, config, needs)
    )


def _text_problem(rollout: Rollout, max_bytes: int) -> str | None:
    if not isinstance(rollout.response, str):
        return "response: is missing; give the completion as text"
    if isinstance(rollout.prompt, list):
        for i, message in enumerate(rollout.prompt):
            if not isinstance(message, dict) or not isinstance(message.get("role"), str):
                return f'prompt[{i}]: is no chat message; give {{"role": …, "content": …}}'
    elif not isinstance(rollout.prompt, str):
        return "prompt: is text or a list of chat messages"
    if rollout.reference is not None and not isinstance(rollout.reference, str):
        return "reference: is text, or None"
    if not isinstance(rollout.metadata, dict):
        return "metadata: is a dict of JSON values"
    try:
        prompt = _text(rollout.prompt)
        json.dumps(rollout.metadata, allow_nan=False)
        size = sum(len(t.encode()) for t in (prompt, rollout.response, rollout.reference or ""))
    except UnicodeEncodeError:
        return "response: or prompt or reference holds a lone surrogate; it is no valid text"
    except (TypeError, ValueError, RecursionError):
        return "metadata: or prompt holds a value that JSON cannot; use strings and finite numbers"
    if size > max_bytes:
        return (
            f"response: prompt, response and reference are {size} bytes together,"
            f" more than max_rollout_bytes = {max_bytes}; shorten them or raise the limit"
        )
    return None


def _text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else json.dumps(prompt, allow_nan=False)


def _number_problem(rollout: Rollout) -> str | None:
    score, tokens = rollout.base_score, rollout.response_tokens
    if score is not None and (
        not isinstance(score, Real) or isinstance(score, bool) or not math.isfinite(float(score))
    ):
        return f"base_score: is {score!r}; give a finite number, or leave it out"
    if tokens is not None and (
        not isinstance(tokens, Integral) or isinstance(tokens, bool) or not 0 <= tokens < 2**31
    ):
        return f"response_tokens: is {tokens!r}; give a count, or leave it out"
    return None


def _flag_problem(rollout: Rollout) -> str | None:
    if rollout.correct is not None and not isinstance(rollout.correct, bool):
        return f"correct: is {rollout.correct!r}; give True, False or None"
    if not isinstance(rollout.truncated, bool):
        return f"truncated: is {rollout.truncated!r}; give True or False"
    group_id = rollout.group_id
    if group_id is not None and (not isinstance(group_id, (str, int)) or group_id == ""):
        return f"group_id: is {group_id!r}; give the prompt's uid as text or a whole number"
    return None


def _need_problem(rollout: Rollout, config: RewardConfig, needs: set[str]) -> str | None:
    if not config.length:
        return None
    if "group_ids" in needs and rollout.group_id is None:
        return "group_id: is missing; the length method compares the rollouts of one prompt"
    if "correct" in needs and rollout.correct is None and rollout.base_score is None:
        return "correct: is missing; the length method needs it"
    if (
        "lengths" in needs
        and rollout.response_tokens is None
        and rollout.token_ids is None
        and config.tokenizer is None
    ):
        return "response_tokens: is missing; give the count, or set `tokenizer` in the config"
    return None
