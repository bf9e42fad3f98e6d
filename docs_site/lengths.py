"""The page of the length methods, with their sources, parameters and plots."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from oyer.cli.support.field_docs import field_docs
from oyer.cli.views.curves import curves
from oyer.cli.views.plots import as_picture
from oyer.config.length_methods.catalogue import METHODS
from oyer.config.length_methods.method import Method

NOT_PLOTTED = frozenset({"measure", "per_token"})
"""Kinds without one value per row."""

PLOTTED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"length_controlled": {"phi": 1.0, "scale_len": 2000}}
)
"""Parameters of the plots of methods that have required ones."""

KINDS = MappingProxyType(
    {
        "add": ("Added to the reward", "a signed term, times its `weight`"),
        "multiply": ("Factors of the reward", "multiplied with base score and judge scores"),
        "total": (
            "The whole reward",
            "the value replaces the base score; with `quality: unshaped_reward`, also the judge scores",
        ),
        "advantage": ("Advantages", "one advantage per rollout, for a loss of your own"),
        "mask": ("Masks", "1 keeps the rollout in the loss, 0 drops it"),
        "per_token": ("Terms per token", "one term per token, for a loss of your own"),
        "measure": ("Measures", "a quantity that changes no reward by itself"),
    }
)

INTRODUCTION = """\
# Length methods

A length method turns the lengths of responses into a term of the reward. The worker `length` computes it, on a GPU with `oyer[gpu]`, else with NumPy.

```yaml
length:
  - {method: median_band, weight: 1.0}
  - {method: soft_overlong, weight: 0.5, max_len: 8192, cache_len: 2048}
```

`median_band` is the default. Several methods are added with their weights; parameters stand beside `method`. A method that needs the judge's score (`quality: judge`, `correct: "judge >= 6"`) runs after the judges, the others in parallel with them. Lengths count the tokens that the policy wrote (`response_tokens`), whatever the judge is shown. Keys that all methods have: [Configuration keys](reference/configuration.md).

```sh
oyer length list                 # the methods, and the fields that they need
oyer length list soft_overlong   # one method with its parameters
oyer length plot soft_overlong --param max_len=4096 --param cache_len=1024
```

The plots below have one group with a right and a wrong rollout of each length, and default parameters; targets, histories and references are half the largest length. `oyer.tasks.lengths.evaluate` computes a method in any program.

"""


def page() -> str:
    """Return the page."""
    parts = []
    for kind, (title, about) in KINDS.items():
        methods = [method for method in METHODS.values() if method.kind == kind]
        if methods:
            parts.append(f"## {title}\n\nKind `{kind}`: {about}.")
            parts += [_section(method) for method in methods]
    return INTRODUCTION + "\n\n".join(parts) + "\n"


def _section(method: Method) -> str:
    needs = ", ".join(f"`{need}`" for need in sorted(method.needs)) or "depends on its parameters"
    uses = ", ".join(f"`{name}`" for name in sorted(method.uses))
    facts = {
        "formula": method.paper,
        "needs": needs,
        "uses if given": uses,
        "range": f"`{method.range}`",
        "gate": "" if method.gate == "none" else method.gate,
        "equal to": "" if method.parity == "none" else method.parity,
    }
    lines = [f"- {name}: {fact}" for name, fact in facts.items() if fact]
    parts = [f"### {method.name}", method.summary, "\n".join(lines)]
    if method.params.model_fields:
        parts.append(_parameters(method))
    if method.kind not in NOT_PLOTTED:
        parts.append(f"![{method.name} over length](images/lengths/{method.name}.png)")
    return "\n\n".join(parts)


def _parameters(method: Method) -> str:
    docs = field_docs(method.params)
    rows = ["| parameter | default | |", "|---|---|---|"]
    for name, field in method.params.model_fields.items():
        default = "required" if field.is_required() else f"`{_default(field)}`"
        about = " ".join(docs.get(name, "").split()).replace("|", "\\|")
        rows.append(f"| `{name}` | {default} | {about} |")
    return "\n".join(rows)


def _default(field: FieldInfo) -> str:
    value = to_jsonable_python(field.get_default(call_default_factory=True))
    return json.dumps(value, ensure_ascii=False)


def draw(folder: Path) -> None:
    """Write the plots as PNG files of few colours, which are a third of the size."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for method in METHODS.values():
        if method.kind not in NOT_PLOTTED:
            file = folder / f"{method.name}.png"
            as_picture(curves(method.name, PLOTTED.get(method.name, {})), file)
            with Image.open(file) as image:
                few = image.convert("RGB").quantize(32)
            few.save(file, optimize=True)
