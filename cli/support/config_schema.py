"""The JSON schema of the configuration file, for completion and checks in editors.

It is pydantic's schema of `RewardConfig`, with the documentation of each key and the short forms
that the configuration also accepts. The rules between keys are checked by `oyer check` only.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from oyer.cli.support.field_docs import field_docs
from oyer.config.length_methods import catalogue
from oyer.config.reward import RewardConfig
from oyer.config.section import Section

Schema = dict[str, Any]


def config_schema() -> Schema:
    """Return the schema (JSON Schema 2020-12) as a JSON object."""
    schema = RewardConfig.model_json_schema()
    definitions: dict[str, Schema] = schema["$defs"]
    for kind in _sections(Section):
        found = schema if kind is RewardConfig else definitions.get(kind.__name__)
        if found is not None:
            _document(found, kind)
    _accept_parameters(definitions["LengthConfig"])
    _accept_short_forms(schema, definitions["RewardRules"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _sections(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for child in kind.__subclasses__():
        yield child
        yield from _sections(child)


def _document(schema: Schema, kind: type[BaseModel]) -> None:
    """Add the docstrings of the fields, and remove titles, which only repeat the keys."""
    schema.pop("title", None)
    docs = field_docs(kind)
    for name, found in schema["properties"].items():
        found.pop("title", None)
        if name in docs:
            found["description"] = docs[name].replace("\n", " ")


def _accept_parameters(length: Schema) -> None:
    """Accept the parameters of every length method beside the common keys."""
    length["properties"]["method"]["enum"] = list(catalogue.METHODS)
    for method in catalogue.METHODS.values():
        parameters = method.params.model_json_schema()
        _document(parameters, method.params)
        for name, found in parameters.get("properties", {}).items():
            found.setdefault("description", f"A parameter of `{method.name}`.")
            known = length["properties"].setdefault(name, found)
            if known != found or "$ref" in str(found):
                # Methods use some names for different values: the type is left open.
                length["properties"][name] = {"description": known["description"]}


def _accept_short_forms(schema: Schema, rules: Schema) -> None:
    """Accept what validators rewrite before they check types."""
    keys = schema["properties"]
    keys["length"] = {
        "description": keys["length"]["description"],
        "anyOf": [
            {"$ref": "#/$defs/LengthConfig"},
            {"type": "array", "items": {"$ref": "#/$defs/LengthConfig"}},
            {"type": "null"},
        ],
    }
    # YAML reads a bare `off` as false.
    keys["reuse"]["enum"].append(False)
    keys["reuse"].pop("type", None)
    on_missing = rules["properties"]["on_missing"]
    names = {"enum": on_missing.pop("enum")}
    on_missing.pop("type", None)
    value = {
        "type": "object",
        "properties": {"value": {"type": "number"}},
        "required": ["value"],
        "additionalProperties": False,
    }
    on_missing["anyOf"] = [names, value]
