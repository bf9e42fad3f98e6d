"""Writes the example configuration from the documentation of the keys."""

import textwrap
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from oyer.cli.support.field_docs import field_docs
from oyer.config.length_methods import catalogue
from oyer.config.reward import RewardConfig

GIVEN: Mapping[str, Any] = {
    "endpoints": {
        "deepseek": {
            "base_url": "https://api.deepseek.com/v1",
            "api_key_env": "DEEPSEEK_API_KEY",
            "max_in_flight": 128,
            "prices": {"deepseek-chat": {"prompt_usd": 0.28, "completion_usd": 0.42}},
        },
        "own": {
            "base_urls": [
                {"url": "http://10.0.0.7:8000/v1", "weight": 2},
                {"url": "http://10.0.0.8:8000/v1"},
            ],
            "prices": {"qwen3-32b": {"prompt_usd": 0, "completion_usd": 0}},
        },
    },
    "judges": [
        {
            "name": "tool_quality",
            "endpoint": "deepseek",
            "model": "deepseek-chat",
            "rubric": "tool_call_zh",
            "fallback": {"endpoint": "own", "model": "qwen3-32b"},
        }
    ],
    "length": [{"method": "median_band", "think": {}}],
    "reward": {},
    "budget": {"usd": 50},
    "broker": {},
    "store": {},
}
"""Values of the example; it has every section, so that each is documented."""

_HEAD = """\
# A configuration of Oyer: one file, for trainers and workers. `oyer config` prints it.
# A key behind # has its default value. OYER_<SECTION>__<KEY> in the environment overrides
# a key, e.g. OYER_BROKER__URL or OYER_ENDPOINTS__DEEPSEEK__TIMEOUT_S.
"""

_WIDTH = 98


def example() -> str:
    """Return the example as YAML, with the documentation of each key above it."""
    return _HEAD + "\n".join(_Writer().section(RewardConfig, GIVEN)) + "\n"


class _Writer:
    """Writes sections; the keys of a model are documented at its first occurrence."""

    def __init__(self) -> None:
        self._explained: set[type[BaseModel]] = set()

    def section(
        self, model: type[BaseModel], given: Mapping[str, Any], pad: str = ""
    ) -> Iterator[str]:
        """Write the keys of a model: the given ones, and the defaults behind #."""
        first = model not in self._explained
        self._explained.add(model)
        docs = field_docs(model)
        for name, field in model.model_fields.items():
            if name == "params":
                # The parameters of a length method are keys beside `method`, as users write them.
                yield from self.section(catalogue.find(given["method"]).params, {}, pad)
                continue
            if first:
                yield from _comment(_with_choices(docs.get(name, ""), field), pad)
            if name in given:
                yield from self._key(name, field, given[name], pad)
            elif first:
                yield f"{pad}#{name}: {_flow(field.get_default(call_default_factory=True))}"

    def _key(self, name: str, field: FieldInfo, value: Any, pad: str) -> Iterator[str]:
        model = _model_in(field.annotation)
        if model is None:
            yield f"{pad}{name}: {_flow(value)}"
            return
        # YAML reads a section without keys as null, so its heading is commented out too.
        yield f"{pad}{name}:" if value else f"{pad}#{name}:"
        if isinstance(value, list):
            for item in value:
                head, *rest = self.section(model, item, f"{pad}    ")
                yield f"{pad}  - {head.lstrip()}"
                yield from rest
        elif get_origin(field.annotation) is dict:
            for key, item in value.items():
                yield f"{pad}  {key}:"
                yield from self.section(model, item, f"{pad}    ")
        else:
            yield from self.section(model, value, f"{pad}  ")


MINIMAL = """\
# The keys that one judge needs. `oyer config` prints every key with its documentation.
endpoints:
  deepseek:
    base_url: https://api.deepseek.com/v1   # up to and without /chat/completions
    api_key_env: DEEPSEEK_API_KEY           # the name of the variable that holds the key
judges:
  - {name: quality, endpoint: deepseek, model: deepseek-chat, rubric: reasoning_en, weight: 0.1}
# Length methods, e.g. [{method: median_band}], which needs group_id and response_tokens.
length: []
"""
"""A short example configuration."""


def _with_choices(doc: str, field: FieldInfo) -> str:
    """Add the values of an enumeration if the documentation does not list them."""
    choices = [str(value) for value in _literals(field.annotation)]
    if all(f"`{choice}`" in doc for choice in choices):
        return doc
    return f"{doc} One of {', '.join(f'`{choice}`' for choice in choices)}.".lstrip()


def _literals(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) in (Union, UnionType):
        for inner in get_args(annotation):
            yield from _literals(inner)


def _comment(doc: str, pad: str) -> Iterator[str]:
    for line in textwrap.wrap(" ".join(doc.split()), _WIDTH - len(pad) - 2):
        yield f"{pad}# {line}"


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model in an annotation, e.g. `Price` in `dict[str, Price]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(inner) for inner in get_args(annotation))
    return next((model for model in found if model), None)


def _flow(value: Any) -> str:
    """Return a value as one line of YAML."""
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=10_000)
    return str(text).removesuffix("\n").removesuffix("\n...")
