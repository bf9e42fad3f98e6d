"""`oyer config --schema`: a JSON schema that accepts what the configuration accepts."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic_core import to_jsonable_python

from oyer.cli.support.config_schema import config_schema
from oyer.cli.support.example_config import MINIMAL
from oyer.config.length_methods import catalogue
from oyer.config.loading import validate
from oyer.config.reward import RewardConfig
from oyer.protocol.errors import InvalidConfig
from tests.support.cli_process import oyer
from tests.support.paths import ROOT

SCHEMA = config_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
JUDGE = {"name": "q", "endpoint": "e", "model": "m"}
ENDPOINTS = {"e": {"base_url": "http://h:8000/v1"}}


def refused(config: Any) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(config)]


def test_the_schema_is_printed_and_valid(tmp_path: Path) -> None:
    printed = oyer("config", "--schema", cwd=tmp_path)
    assert (printed.returncode, printed.stderr) == (0, "")
    assert json.loads(printed.stdout) == SCHEMA
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_every_key_is_described() -> None:
    bare = [
        f"{where}.{key}"
        for where, kind in {"": SCHEMA, **SCHEMA["$defs"]}.items()
        for key, found in kind.get("properties", {}).items()
        if not found.get("description")
    ]
    assert bare == []
    assert SCHEMA["properties"].keys() == RewardConfig.model_fields.keys()


ACCEPTED: dict[str, Any] = {
    "the example": yaml.safe_load((ROOT / "oyer.example.yaml").read_text()),
    "the minimal example": yaml.safe_load(MINIMAL),
    "one length method": {"length": {"method": "median_band"}},
    "no length method": {"length": None},
    "a bare off": {"reuse": False},
    "a value for missing scores": {"reward": {"on_missing": {"value": 0}}},
    "a judge": {"endpoints": ENDPOINTS, "judges": [JUDGE]},
    "parameters beside a method": {"length": [{"method": "soft_overlong", "max_len": 900}]},
    **{
        f"a judge of {path.name}": yaml.safe_load(path.read_text())
        for path in sorted((ROOT / "examples").rglob("oyer*.yaml"))
    },
}


@pytest.mark.parametrize("config", ACCEPTED.values(), ids=list(ACCEPTED))
def test_what_the_configuration_accepts_the_schema_accepts(config: Any) -> None:
    validate(config)
    assert refused(config) == []


@pytest.mark.parametrize("method", catalogue.METHODS)
def test_the_default_parameters_of_each_method_are_accepted(method: str) -> None:
    defaults = catalogue.METHODS[method].params.model_fields
    given = {
        name: field.get_default(call_default_factory=True)
        for name, field in defaults.items()
        if not field.is_required()
    }
    given = to_jsonable_python(given)
    assert refused({"length": [{"method": method, **given}]}) == []


REFUSED: dict[str, Any] = {
    "an unknown key": {"judegs": []},
    "an unknown key of a judge": {"endpoints": ENDPOINTS, "judges": [{**JUDGE, "wieght": 1}]},
    "an unknown method": {"length": [{"method": "median_bond"}]},
    "a key that no method has": {"length": [{"method": "median_band", "maximum": 3}]},
    "a number that is too small": {"broker": {"result_expires_s": 1}},
    "another policy": {"reward": {"on_missing": "zero"}},
}


@pytest.mark.parametrize("config", REFUSED.values(), ids=list(REFUSED))
def test_what_the_schema_refuses_the_configuration_refuses(config: Any) -> None:
    assert refused(config)
    with pytest.raises(InvalidConfig):
        validate(config)
