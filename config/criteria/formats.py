"""Reads a rollout's own criteria in the formats of public data sets; pure.

- HealthBench (arXiv:2505.08775): `{criterion, points, tags}`.
- Rubrics as Rewards (arXiv:2507.17746): `{title, description, weight}`, with numbers or named weights.
- open-instruct: `{query, rubrics: [{description | rubric_item | Ingredient, weight}]}`, as read by
  `RubricVerifier` in `open_instruct/ground_truth_utils.py`.
- verifiers: `{name, text, weight, choices}`.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from oyer.config.criteria.criterion import Combine, Criterion, problem_of
from oyer.config.explaining import explain

NAMED_WEIGHTS = {"essential": 1.0, "important": 0.7, "optional": 0.3, "pitfall": 0.9}
"""Weights of RaR-Explicit, section 4.4 of Rubrics as Rewards (arXiv:2507.17746; its first version has 0.8
for `pitfall`). A pitfall with a named weight is worded so that meeting it is good, as the paper's footnote
there says ("The response avoids …"); one with a negative number is a fault."""

_TEXT_KEYS = ("criterion", "description", "rubric_item", "Ingredient", "text")
_NAME_KEYS = ("name", "title", "Handle")
_LIST_KEYS = ("rubrics", "criteria")


class InvalidCriteria(ValueError):
    """A rollout's criteria cannot be used; the message starts with the place, e.g. `[2].weight: `."""


def read_criteria(raw: Any, combine: Combine = "weighted") -> tuple[Criterion, ...]:
    """Read a list of criteria, a mapping that holds one, or JSON text of either.

    Raises:
        InvalidCriteria: names the criterion, the field and the fix.
    """
    if isinstance(raw, str):
        try:
            raw = json.loads(raw)
        except ValueError as error:
            raise InvalidCriteria(f": is text, but not JSON ({error}); give a list") from error
    if isinstance(raw, Mapping):
        key = next((key for key in _LIST_KEYS if key in raw), None)
        if key is None:
            raise InvalidCriteria(": is a mapping without `rubrics`; give a list of criteria")
        try:
            return read_criteria(raw[key], combine)
        except InvalidCriteria as error:
            raise InvalidCriteria(f".{key}{error}") from error
    if not isinstance(raw, (list, tuple)) or not raw:
        raise InvalidCriteria(": must be a list of one criterion or more")
    criteria = tuple(_criterion(i, item) for i, item in enumerate(raw))
    problem = problem_of(criteria, combine)
    if problem is not None:
        raise InvalidCriteria(problem)
    return criteria


def _criterion(i: int, item: Any) -> Criterion:
    if not isinstance(item, Mapping):
        raise InvalidCriteria(f"[{i}]: must be a mapping, e.g. {{name: …, text: …, weight: 1}}")
    text_keys = [key for key in _TEXT_KEYS if item.get(key) is not None]
    if len(text_keys) != 1:
        found = f"has {' and '.join(text_keys)}" if text_keys else "has no text"
        raise InvalidCriteria(f"[{i}]: {found}; give one of {', '.join(_TEXT_KEYS)}")
    name = next((item[key] for key in _NAME_KEYS if item.get(key) is not None), None)
    fields: dict[str, Any] = {
        "name": f"criterion_{i + 1}" if name is None else name,
        "text": item[text_keys[0]],
    }
    weight = _weight(i, item)
    if weight is not None:
        fields["points" if weight < 0 else "weight"] = weight
    fields |= {key: item[key] for key in ("choices", "required") if item.get(key) is not None}
    try:
        return Criterion.model_validate(fields)
    except ValidationError as error:
        known = text_keys[0] if text_keys[0] != "text" else "text"
        raise InvalidCriteria(f"[{i}]: ({known}) {explain(error, Criterion)}") from error


def _weight(i: int, item: Mapping[str, Any]) -> float | None:
    keys = [key for key in ("points", "weight") if item.get(key) is not None]
    if len(keys) > 1:
        raise InvalidCriteria(f"[{i}]: has points and weight; give one of them")
    if not keys:
        return None
    key, value = keys[0], item[keys[0]]
    if isinstance(value, str):
        named = NAMED_WEIGHTS.get(value.strip().lower().removesuffix(" criteria"))
        if named is None:
            names = ", ".join(name.capitalize() for name in NAMED_WEIGHTS)
            raise InvalidCriteria(f"[{i}].{key}: {value[:80]!r} is none of {names}")
        return named
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidCriteria(f"[{i}].{key}: must be a finite number")
    if value == 0:
        raise InvalidCriteria(f"[{i}].{key}: 0 counts nothing; leave the criterion out")
    return float(value)
