"""Plans of the judge server: which request gets which action.

A plan is a callable from a request log entry to an action. A `RulePlan` can be written in JSON:

    {"seed": 7,
     "rules": [{"when": {"sequence": [0, 3]}, "then": "unavailable"},
               {"when": {"between_s": [2, 22]}, "then": "reset"},
               {"when": {"above_in_flight": 128},
                "then": {"name": "rate_limited", "retry_after_s": 1, "retry_after_form": "ms"}},
               {"when": {"matches": "ducks", "fraction": 0.1}, "then": "half_json"}],
     "default": {"latency_s": {"lognormal": [0.5, 0.8]}}}

- The first rule whose conditions all hold gives the action; without one, the default does.
- Conditions are evaluated in the order written. Those that count (`fraction`, `above_rate`,
  `first_of_body`) count only the requests for which they are evaluated.
"""

import random
import re
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from oyer.demo.request_log import RequestEntry
from oyer.demo.responses import Action, action_from_json
from oyer.protocol.errors import InvalidConfig, InvalidInput

Plan = Callable[[RequestEntry], Action]
"""Gives the action of each chat completion request; it is called in the order of arrival."""

Condition = Callable[[RequestEntry], bool]


class RulePlan:
    """Rules with their counters; a new instance starts its counters at 0."""

    def __init__(self, rules: list[tuple[list[Condition], Action]], default: Action) -> None:
        self._rules = rules
        self._default = default

    def __call__(self, arrival: RequestEntry) -> Action:
        """Return the action of the first rule that matches."""
        for conditions, action in self._rules:
            if all(condition(arrival) for condition in conditions):
                return action
        return self._default


def plan_from_json(raw: Any, default: Action | None = None) -> RulePlan:
    """Create a plan from JSON; `default` is used if it has no default.

    Raises:
        InvalidConfig: an unknown key, condition, action or value; the message names the rule.
    """
    _check_keys(raw, {"seed", "rules", "default"}, "plan")
    draw = random.Random(raw.get("seed", 0))
    rules = []
    for i, rule in enumerate(raw.get("rules", [])):
        try:
            _check_keys(rule, {"when", "then"}, "rule")
            conditions = _conditions(rule.get("when", {}), draw)
            rules.append((conditions, action_from_json(rule.get("then"))))
        except (TypeError, ValueError, re.error) as error:
            raise InvalidConfig(f"plan rules[{i}]: {error}") from error
    if "default" in raw:
        default = action_from_json(raw["default"])
    return RulePlan(rules, default or Action())


def _check_keys(raw: Any, known: set[str], what: str) -> None:
    if not isinstance(raw, dict) or not raw.keys() <= known:
        raise InvalidConfig(f"a {what} is an object with {sorted(known)}, not {raw!r}")


def _conditions(when: dict[str, Any], draw: random.Random) -> list[Condition]:
    _check_keys(when, {*_CONDITIONS, "fraction"}, "condition")
    return [
        _fraction(value, draw) if name == "fraction" else _CONDITIONS[name](value)
        for name, value in when.items()
    ]


def _sequence(value: int | list[int]) -> Condition:
    """`3`, or `[0, 3]` for 0, 1 and 2."""
    first, end = (value, value + 1) if isinstance(value, int) else value
    wanted = range(first, end)
    return lambda arrival: arrival.sequence in wanted


def _between_s(value: list[float]) -> Condition:
    """Seconds since the plan was installed, `[from, until)`."""
    start_s, end_s = map(float, value)
    return lambda arrival: start_s <= arrival.since_plan_s < end_s


def _matches(value: str) -> Condition:
    """A regular expression that is searched in the text of the messages."""
    pattern = re.compile(value)
    return _if_readable(lambda arrival: any(pattern.search(text) for _, text in arrival.messages()))


def _has(value: str) -> Condition:
    """A key of the request's body, e.g. `response_format`."""
    return _if_readable(lambda arrival: value in arrival.json())


def _if_readable(condition: Condition) -> Condition:
    """Make a condition false for an invalid body, which the reply reports."""

    def holds(arrival: RequestEntry) -> bool:
        try:
            return condition(arrival)
        except InvalidInput:
            return False

    return holds


def _model(value: str) -> Condition:
    """The requested model."""
    return lambda arrival: arrival.model == value


def _above_in_flight(value: int) -> Condition:
    """True if more requests than this are in flight: a concurrency limit."""
    most = int(value)
    return lambda arrival: arrival.in_flight > most


def _above_rate(value: list[float]) -> Condition:
    """`[n, window_s]`: true if n requests passed within the sliding window: a rate limit."""
    most, window_s = map(float, value)
    passed: deque[float] = deque()

    def above(arrival: RequestEntry) -> bool:
        while passed and passed[0] <= arrival.arrived_at_s - window_s:
            passed.popleft()
        if len(passed) >= most:
            return True
        passed.append(arrival.arrived_at_s)
        return False

    return above


def _first_of_body(value: int) -> Condition:
    """True for the first n requests with each body: a fault that retries overcome."""
    most = int(value)
    seen: Counter[str] = Counter()

    def among_first(arrival: RequestEntry) -> bool:
        seen[arrival.body_sha256] += 1
        return seen[arrival.body_sha256] <= most

    return among_first


def _fraction(value: float, draw: random.Random) -> Condition:
    """True for this fraction of requests, drawn by the plan's seed."""
    fraction = float(value)
    return lambda _: draw.random() < fraction


_CONDITIONS: dict[str, Callable[[Any], Condition]] = {
    "sequence": _sequence,
    "between_s": _between_s,
    "matches": _matches,
    "has": _has,
    "model": _model,
    "above_in_flight": _above_in_flight,
    "above_rate": _above_rate,
    "first_of_body": _first_of_body,
}
