"""The catalogue imports quickly, matches the functions, and gives helpful errors."""

import inspect
import json
import subprocess
import sys

import pytest

from oyer.cli.support.field_docs import field_docs
from oyer.config.length_methods import catalogue
from oyer.config.length_methods.catalogue import METHODS
from oyer.protocol.errors import InvalidConfig
from oyer.tasks import lengths
from tests.support.length_inputs import NEEDED, SHAPING

ISSUED = [
    "median_band",
    "soft_overlong",
    "stop_properly_penalty",
    "linear",
    "target_range",
    "lcpo_exact",
    "lcpo_max",
    "kimi_length_reward",
    "cosine",
    "sigmoid_length",
    "gr3",
    "qglas",
    "grlc",
    "repetition",
    "repetition_dense",
    "shorterbetter",
    "hapo",
    "laser",
    "laser_d",
    "laser_de",
    "brevity_bonus",
    "advantage_reweight",
    "gfpo_mask",
    "o1_pruner",
    "effort_shaping",
    "grpo_lead",
    "length_controlled",
    "aggregate",
]
"""Public names of length methods, which must stay."""


def test_the_catalogue_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from oyer.config.length_methods import catalogue; "
        "catalogue.resolve('gr3', {}); print({'torch', 'numpy'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_exported_names_are_not_modules() -> None:
    for method in METHODS.values():
        method.load()
    exported = [getattr(lengths, name) for name in lengths.__all__]
    assert all(callable(thing) for thing in exported)
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'"):
        _ = lengths.nothing


def test_every_promised_method_can_be_configured() -> None:
    assert set(ISSUED) <= set(SHAPING)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_function_takes_the_declared_inputs_and_parameters(name: str) -> None:
    method = METHODS[name]
    parameters = inspect.signature(method.load()).parameters.values()
    columns = {p.name for p in parameters if p.kind is not p.KEYWORD_ONLY}
    settings = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    required = {p.name for p in parameters if p.name in columns and p.default is p.empty}
    assert columns == method.columns
    assert settings == method.params.model_fields.keys()
    assert required == {need for need in method.needs if "|" not in need and ">=" not in need}


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_parameter_is_documented(name: str) -> None:
    params = METHODS[name].params
    assert field_docs(params).keys() == params.model_fields.keys()


@pytest.mark.parametrize("name", SHAPING)
def test_resolved_parameters_are_json_and_resolve_to_themselves(name: str) -> None:
    resolved = catalogue.resolve(name, NEEDED.get(name, {}))
    assert resolved.keys() == METHODS[name].params.model_fields.keys()
    assert catalogue.resolve(name, json.loads(json.dumps(resolved))) == resolved


def test_a_similar_name_is_suggested_for_an_unknown_method() -> None:
    with pytest.raises(InvalidConfig, match=r"'soft_overlng'.*did you mean `soft_overlong`"):
        catalogue.resolve("soft_overlng", {})


def test_all_names_are_listed_if_none_is_similar() -> None:
    with pytest.raises(InvalidConfig, match=r"known: adaptthink, .*trl_aggregate"):
        catalogue.resolve("xyz", {})


@pytest.mark.parametrize(
    ("method", "params", "message"),
    [
        ("gr3", {"beta": 1}, "gr3: beta: unknown key.*its parameters: alpha"),
        ("gr3", {"alpha": -1}, "alpha: must be greater than or equal to 0"),
        ("gr3", {"alpha": float("nan")}, "alpha: must be a finite number"),
        ("length_controlled", {}, "phi: is missing, and it is required; scale_len: is missing"),
        ("median_band", {"peak_ratio": 0.5, "outer_ratio": 0.5}, "peak_ratio: below"),
        ("linear", {"norm": 0}, "a constant normaliser is above 0"),
        ("linear", {"pass_rate_floor": 2}, "between 0 and 1, or '1/K'"),
        ("target_range", {"low": 5, "high": 4}, "low: at most `high`"),
        ("qglas", {"beta_min": 0.7}, "beta_min: at most `beta_max`"),
        ("min_length_ramp", {"min_len": 400}, "min_len: below `max_len`"),
        ("phi4_length_aware", {"max_len": 100}, "pos_control: below `max_len`"),
    ],
)
def test_a_wrong_parameter_is_named(method: str, params: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        catalogue.resolve(method, params)


def test_a_measure_cannot_be_configured() -> None:
    with pytest.raises(InvalidConfig, match=r"measures and shapes no reward"):
        catalogue.resolve("laser_choose_target", {})


@pytest.mark.parametrize(
    ("method", "params", "needs"),
    [
        ("linear", {"norm": 1000}, {"lengths"}),
        ("linear", {"norm": 1000, "scale_by": "reward"}, {"lengths", "group_ids", "quality"}),
        (
            "linear",
            {"norm": "group_mean", "gate_by_correctness": True},
            {"lengths", "group_ids", "correct"},
        ),
        ("linear", {"norm": 9, "scale_by": "pass_rate"}, {"lengths", "group_ids", "correct"}),
        ("target_range", {"gate_by_correctness": True}, {"lengths", "correct"}),
        ("stop_properly_penalty", {"coef": -1}, {"truncated", "base_reward"}),
        ("laser", {}, {"lengths", "correct", "target_lengths"}),
        ("repetition", {}, {"token_ids|texts"}),
        ("repetition", {"unit": "chars"}, {"texts"}),
        ("repetition", {"unit": "token_ids"}, {"token_ids"}),
        ("cosine", {"repetition_max_penalty": -1}, {"lengths", "correct", "token_ids|texts"}),
        ("gfpo_mask", {"metric": "efficiency"}, {"lengths", "group_ids", "quality"}),
        ("gr3", {}, {"lengths", "group_ids", "quality>=0"}),
        (
            "aggregate",
            {"baseline": "length_weighted"},
            {"components", "group_ids", "lengths"},
        ),
        (
            "length_controlled",
            {"phi": -1, "scale_len": 9},
            {"lengths", "quality", "reference_lengths"},
        ),
    ],
)
def test_needs_follow_the_parameters(
    method: str, params: dict[str, float], needs: set[str]
) -> None:
    assert catalogue.needs(method, params) == needs
