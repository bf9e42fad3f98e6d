"""Refuses rollouts that cannot be scored, with the row, the field and the fix; pure."""

import contextlib
from collections.abc import Mapping, Sequence, Sized
from collections.abc import Set as AbstractSet
from numbers import Integral, Real
from typing import Any

import numpy as np

from oyer.config.reward import RewardConfig
from oyer.manager.backend.chunks import bytes_of, json_bytes
from oyer.manager.messages import messages_problem, tools_problem
from oyer.manager.requirements import Need, needs_of, shown
from oyer.protocol.errors import InvalidRollout
from oyer.protocol.rollout import Rollout

_MAX_DEPTH = 64
"""Levels of nested lists and mappings in metadata and messages; the JSON encoder fails at about 250."""

_MAX_GROUP_ID = 500
"""Longest group id, in characters; it is stored in every row of the record."""

_ID_BYTES = 4
"""Size of one token id in a message."""

_LARGEST_SCORE = float(np.finfo(np.float32).max)
"""Rewards are float32."""


def check(
    rollouts: Sequence[Rollout], config: RewardConfig, needs: Sequence[Need] | None = None
) -> list[int]:
    """Check a batch before any of it is sent.

    Args:
        needs: the result of `needs_of(config)`, to avoid computing it once per rollout.

    Returns:
        `[N]` UTF-8 bytes of text and metadata of each rollout.

    Raises:
        InvalidRollout: names the first row and field that is wrong, and the fix.
    """
    if not isinstance(rollouts, Sequence) or isinstance(rollouts, (str, bytes)):
        raise InvalidRollout("rollouts: must be a list of Rollout")
    if not rollouts:
        raise InvalidRollout("rollouts: the batch is empty; submit at least one rollout")
    needs = needs_of(config) if needs is None else needs
    sizes_bytes = []
    for row, rollout in enumerate(rollouts):
        if not isinstance(rollout, Rollout):
            raise InvalidRollout(
                f"rollouts[{row}]: is of type {type(rollout).__name__}; pass an oyer.manager.Rollout"
            )
        try:
            sizes_bytes.append(_checked(rollout, config, needs))
        except _Problem as problem:
            raise InvalidRollout(f"rollouts[{row}].{problem}") from None
    return sizes_bytes


def check_groups(rollouts: Sequence[Rollout], config: RewardConfig) -> None:
    """Check that a group judge has something to compare.

    Args:
        rollouts: a checked batch.

    Raises:
        InvalidRollout: every group has one rollout.
    """
    judge = next((judge.name for judge in config.judges if judge.kind == "group"), None)
    if judge is not None and len({str(one.group_id) for one in rollouts}) == len(rollouts):
        raise InvalidRollout(
            f"rollouts[0].group_id: no two rollouts have the same, and the group judge {judge!r}"
            " compares the rollouts of a group; submit several rollouts of each prompt with one"
            " group_id"
        )


def has_broken_text(rollout: Rollout) -> bool:
    """Whether any text of a rollout, its group id or its metadata contains a lone surrogate."""
    if isinstance(rollout.group_id, str) and not is_text(rollout.group_id):
        return True
    try:
        bytes_of(rollout)
    except UnicodeEncodeError:
        return True
    except (TypeError, ValueError, RecursionError):
        pass  # `check` reports these
    return False


def is_text(value: object) -> bool:
    """Whether a value is a string that UTF-8 can encode, i.e. without lone surrogates."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def refused_rows(rollouts: Sequence[Rollout], config: RewardConfig) -> dict[int, InvalidRollout]:
    """Check rollouts one by one; returns the error of each that cannot be scored, by its row."""
    needs = needs_of(config)
    refused = {}
    for row, rollout in enumerate(rollouts):
        try:
            check([rollout], config, needs)
        except InvalidRollout as error:
            refused[row] = error
    return refused


class _Problem(Exception):
    """The first wrong field of a rollout, with the fix."""


def _checked(rollout: Rollout, config: RewardConfig, needs: Sequence[Need]) -> int:
    """Return a rollout's size in bytes, or raise its first problem."""
    max_bytes = config.max_rollout_bytes
    problem = _text_problem(rollout)
    if problem is None:
        size_bytes = _json_bytes(rollout)
        problem = (
            _size_problem(size_bytes, max_bytes)
            or _number_problem(rollout, max_bytes)
            or _flag_problem(rollout)
            or _need_problem(rollout, config, needs)
        )
    if problem is not None:
        raise _Problem(problem)
    return size_bytes


def _text_problem(rollout: Rollout) -> str | None:
    if rollout.response is None:
        return "response: is missing; give the completion as text or messages"
    if rollout.reference is not None and not isinstance(rollout.reference, str):
        return "reference: must be text or None"
    if not isinstance(rollout.metadata, dict) or not _text_keys(rollout.metadata):
        return "metadata: must be a dict of JSON values with text as keys"
    return (
        messages_problem("prompt", rollout.prompt)
        or messages_problem("response", rollout.response)
        or tools_problem(rollout.tools)
    )


def _json_bytes(rollout: Rollout) -> int:
    size_bytes = 0
    for name in ("prompt", "response", "reference", "metadata", "tools"):
        value = getattr(rollout, name)
        try:
            size_bytes += json_bytes(value)
        except UnicodeEncodeError:
            raise _Problem(f"{name}: contains a lone surrogate, which is not valid text") from None
        except (TypeError, ValueError, RecursionError):
            fix = (
                "" if name == "metadata" else ", or convert with oyer.protocol.content.as_messages"
            )
            raise _Problem(
                f"{name}: has a value that is not JSON; use strings and finite numbers{fix}"
            ) from None
        if _nests_deeper(value, _MAX_DEPTH):
            raise _Problem(f"{name}: is nested deeper than {_MAX_DEPTH} levels; flatten it")
    return size_bytes


def _size_problem(size: int, max_bytes: int) -> str | None:
    if size > max_bytes:
        return (
            f"response: prompt, response, reference, metadata and tools have {size} bytes in total,"
            f" more than max_rollout_bytes = {max_bytes}; shorten them or raise the limit"
        )
    return None


def _text_keys(value: dict[Any, Any]) -> bool:
    return all(isinstance(key, str) for key in value)


def _nests_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, (dict, list, tuple)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_nests_deeper(item, levels - 1) for item in inner)


def _number_problem(rollout: Rollout, max_bytes: int) -> str | None:
    score, tokens, ids = rollout.base_score, rollout.response_tokens, rollout.token_ids
    if score is not None and not _is_score(score):
        return f"base_score: is {shown(score)}; give a finite number, or leave it out"
    if tokens is not None and (
        not isinstance(tokens, Integral) or isinstance(tokens, bool) or not 0 <= tokens < 2**31
    ):
        return f"response_tokens: is {shown(tokens)}; give a count, or leave it out"
    return None if ids is None else _ids_problem(ids, max_bytes)


def _ids_problem(ids: Any, max_bytes: int) -> str | None:
    count = None
    if isinstance(ids, Sized) and not isinstance(ids, (str, bytes, AbstractSet, Mapping)):
        # `len` of a zero-dimensional array raises.
        with contextlib.suppress(TypeError):
            count = len(ids)
    if count is None:
        return "token_ids: must be a sequence of the response's token ids, or None"
    if _ID_BYTES * count > max_bytes:
        return (
            f"token_ids: has {count} ids of {_ID_BYTES} bytes, more than max_rollout_bytes ="
            f" {max_bytes} allows; shorten the response or raise the limit"
        )
    return None


def _is_score(value: Any) -> bool:
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        # Convert to float64 first: comparing in a narrower NumPy type would overflow.
        number = float(value)
    except OverflowError:
        return False
    # False for NaN.
    return abs(number) <= _LARGEST_SCORE


def _flag_problem(rollout: Rollout) -> str | None:
    if rollout.correct is not None and not isinstance(rollout.correct, (bool, np.bool_)):
        return f"correct: is {shown(rollout.correct)}; give True, False or None"
    if not isinstance(rollout.truncated, (bool, np.bool_)):
        return f"truncated: is {shown(rollout.truncated)}; give True or False"
    return _group_problem(rollout.group_id)


def _group_problem(group_id: Any) -> str | None:
    if group_id is None:
        return None
    if isinstance(group_id, str):
        if not is_text(group_id):
            return "group_id: contains a lone surrogate, which is not valid text"
        fits = 0 < len(group_id) <= _MAX_GROUP_ID
    else:
        fits = isinstance(group_id, Integral) and abs(int(group_id)) < 2**63
    if not fits:
        return (
            f"group_id: is {shown(group_id)}; give the prompt's uid as text of 1 to"
            f" {_MAX_GROUP_ID} characters, or a whole number below 2^63"
        )
    return None


def _need_problem(rollout: Rollout, config: RewardConfig, needs: Sequence[Need]) -> str | None:
    if rollout.group_id is None and config.reward.on_missing == "group_mean":
        return "group_id: is missing; `on_missing: group_mean` averages over the group"
    return next(filter(None, (need(rollout) for need in needs)), None)
