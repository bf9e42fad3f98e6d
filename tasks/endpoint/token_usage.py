"""Reads the billed tokens of a response, in the forms in which endpoints report them; pure."""

from collections.abc import Mapping
from typing import Any

MAX_COUNT = 10**8
"""Largest token count that is accepted: above any model's context, and small enough that sums of
attempts fit the database columns."""

# Names without case and underscores: of OpenAI, Anthropic, Bedrock, Gemini, watsonx, Cohere, xAI.
_USAGE = frozenset({"usage", "usagemetadata"})
_PARTS = frozenset({"tokens", "billedunits"})
_DETAILS = frozenset({"completiontokensdetails", "outputtokensdetails", "outputtokendetails"})
_PROMPT = frozenset({"prompttokens", "inputtokens", "prompttokencount", "inputtokencount"})
_CANDIDATES = frozenset({"candidatestokencount"})
_COMPLETION = _CANDIDATES | {"completiontokens", "outputtokens", "generatedtokencount"}
_TOTAL = frozenset({"totaltokens", "totaltokencount"})
_THINKING = frozenset({"reasoningtokens", "thinkingtokens", "thoughtstokens", "thoughtstokencount"})
_CACHED = frozenset(
    {"cachedtokens", "promptcachehittokens", "cachereadinputtokens", "cachedcontenttokencount"}
)
_PROMPT_DETAILS = frozenset({"prompttokensdetails", "inputtokensdetails", "inputtokendetails"})
_CACHE = frozenset({"cachecreationinputtokens", "cachewriteinputtokens", "cachereadinputtokens"})


def token_usage(data: Any) -> dict[str, Any]:
    """Read the token counts and `usage_reported` from a response body.

    `cached_tokens` are a part of `prompt_tokens`, `reasoning_tokens` of `completion_tokens`.

    If fields disagree, the larger value counts, so that a budget is not exceeded. The rest of
    `total_tokens` counts as completion. Thinking is added to a completion that is too small to
    include it, or that never includes it (Gemini's candidates).
    """
    usage = _usage_in(data)
    prompt, completion = _largest(usage, _PROMPT), _largest(usage, _COMPLETION)
    total, thinking = _largest(usage, _TOTAL), _thinking(usage)
    if prompt is not None and "prompttokens" not in usage:
        # The `input_tokens` of Anthropic and Bedrock exclude these; `prompt_tokens` includes them.
        prompt += sum(count(usage.get(name)) or 0 for name in _CACHE)
    if thinking > (completion or 0) or (thinking and _CANDIDATES & usage.keys()):
        completion = (completion or 0) + thinking
    reported = total is not None or (prompt is not None and completion is not None)
    if total is not None and prompt is None and completion is not None:
        prompt = max(0, total - completion)
    prompt = prompt or 0
    completion = max(completion or 0, (total or 0) - prompt)
    return {
        "prompt_tokens": min(prompt, MAX_COUNT),
        "completion_tokens": min(completion, MAX_COUNT),
        "cached_tokens": min(_cached(usage), prompt, MAX_COUNT),
        "reasoning_tokens": min(thinking, completion, MAX_COUNT),
        # Some gateways send zeros if they do not know; every call takes tokens.
        "usage_reported": reported and prompt + completion > 0,
    }


def count(value: Any) -> int | None:
    """Read a whole number from 0 to `MAX_COUNT`, also from a string; None if it is not one."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if 0 <= number <= MAX_COUNT else None


def _usage_in(data: Any) -> dict[str, Any]:
    """Return the counts of a response by normalized name; empty if there are none."""
    if not isinstance(data, Mapping):
        return {}
    choices = data.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    # Groq and Moonshot have used these places.
    for holder in (data, data.get("x_groq"), first):
        if found := _inner(_plain(holder), _USAGE):
            return {**_inner(found, _PARTS), **found}
    return {}


def _inner(holder: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """Return the first non-empty object under one of `names`, with normalized names."""
    return next((_plain(holder[name]) for name in holder if name in names and holder[name]), {})


def _plain(found: Any) -> dict[str, Any]:
    if not isinstance(found, Mapping):
        return {}
    return {name.replace("_", "").lower(): value for name, value in found.items()}


def _largest(usage: Mapping[str, Any], names: frozenset[str]) -> int | None:
    counts = (count(usage.get(name)) for name in names)
    return max((found for found in counts if found is not None), default=None)


def _thinking(usage: Mapping[str, Any]) -> int:
    """Return the tokens of thinking; 0 if not reported."""
    inner = _largest(_inner(usage, _DETAILS), _THINKING)
    return max(inner or 0, _largest(usage, _THINKING) or 0)


def _cached(usage: Mapping[str, Any]) -> int:
    """Return the prompt tokens read from the provider's cache; 0 if not reported."""
    inner = _largest(_inner(usage, _PROMPT_DETAILS), _CACHED)
    return max(inner or 0, _largest(usage, _CACHED) or 0)
