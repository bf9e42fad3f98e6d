"""Any configuration is valid, or refused with an `InvalidConfig` that names the key."""

import json
import string
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from hypothesis import event, given
from hypothesis import strategies as st

from oyer.config.loading import load_config, overridden, validate
from oyer.config.reward import RewardConfig, plan_of
from oyer.manager import InvalidConfig
from oyer.protocol.batch import Manifest, encode_manifest
from oyer.tasks.endpoint.client import EndpointClient
from tests.fuzz.conftest import fuzz
from tests.support.fuzz_values import any_text, anything, json_like, mostly, mutated

FULL: dict[str, Any] = {
    "endpoints": {
        "deepseek": {
            "base_url": "https://api.deepseek.com/v1",
            "api_key_env": "DEEPSEEK_API_KEY",
            "max_in_flight": 128,
            "timeout_s": 60,
            "requests_per_minute": 600,
            "headers": {"X-Org": "lab"},
            "prices": {"m": {"prompt_usd": 0.1, "completion_usd": 0.2}},
        },
        "pool": {"base_urls": [{"url": "http://a/v1", "weight": 2}, {"url": "http://b/v1"}]},
    },
    "judges": [
        {
            "name": "q",
            "endpoint": "deepseek",
            "model": "m",
            "rubric": "reasoning_en",
            "scale": [1, 10],
            "weight": 0.1,
            "samples": 3,
            "min_valid": 2,
            "expected_score": True,
            "fallback": {"endpoint": "pool", "model": "n"},
            "extra_body": {"top_p": 0.9},
        },
        {"name": "r", "endpoint": "pool", "model": "m", "rubric": "Rate: {response}"},
    ],
    "length": [
        {"method": "median_band", "peak_ratio": 0.3, "weight": 0.5},
        {"method": "cosine", "quality": "base_score", "think": {"close": "</t>"}},
    ],
    "reward": {
        "gate": "base_score",
        "on_missing": "value",
        "value": 5,
        "zero_unless": "judge:q >= 6",
    },
    "broker": {"url": "redis://localhost:6379/0", "result_expires_s": 86400},
    "store": {"url": "sqlite:///oyer.db"},
    "reuse": "run",
    "deadline_s": 600,
    "stall_timeout_s": 60,
    "grace_s": 5,
    "max_rollout_bytes": 65536,
}
validate(FULL)

_PATHS: list[tuple[Any, ...]] = []


def _walk(value: Any, place: tuple[Any, ...]) -> None:
    if place:
        _PATHS.append(place)
    for key, inner in value.items() if isinstance(value, dict) else ():
        _walk(inner, (*place, key))
    for i, inner in enumerate(value if isinstance(value, list) else ()):
        _walk(inner, (*place, i))


_walk(FULL, ())
urls = st.builds(
    str.__add__,
    st.sampled_from(["http://", "https://", "redis://", "rediss://", "sqlite:", "postgresql://"]),
    st.one_of(
        any_text,
        st.sampled_from(
            ["h:port", "h:99999", "[::1", "[::1]:80/v1", "u:p@h/v1?k=v#f", "ä/ö", "h h", ""]
        ),
    ),
)
_SHOWN = 20_000
"""An error message of at most so many characters can be printed."""

SECTIONS = (*RewardConfig.model_fields, "configuration", "OYER_")


def check(make: Any) -> None:
    """Make a configuration: refused by name, or good enough for trainer and workers."""
    try:
        config = make()
        refused = ""
    except InvalidConfig as error:
        refused = str(error)
    if refused:
        event("refused")
        assert any(section in refused for section in SECTIONS), refused[:300]
        assert len(refused) < _SHOWN
        return
    event("accepted")
    plain = config.model_dump(mode="json")
    assert validate(json.loads(json.dumps(plain, allow_nan=False))) == config
    encode_manifest(
        Manifest(
            batch_id="b",
            run="r",
            step=None,
            submitted_at=0.0,
            deadline=1.0,
            plan=plan_of(config),
            chunks=[],
        )
    )
    assert config.stall_s > 0
    if config.broker.url:
        redis.Redis.from_url(config.broker.url).close()
    for name, endpoint in config.endpoints.items():
        problem = f"endpoints.{name}"
        try:
            EndpointClient(name, endpoint, {str(endpoint.api_key_env): "k"}).close()
        except InvalidConfig as error:
            problem = str(error)
        assert f"endpoints.{name}" in problem


@fuzz
@given(mostly(mutated(FULL)))
def test_a_dict_is_refused_by_key_or_can_be_used(raw: Any) -> None:
    check(lambda: validate(raw))


@fuzz
@given(st.sampled_from(_PATHS), anything | urls)
def test_one_key_holds_anything(place: tuple[Any, ...], value: Any) -> None:
    raw = json.loads(json.dumps(FULL))
    inner = raw
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    check(lambda: validate(raw))


_YAML_BITS = st.lists(
    st.sampled_from(
        [
            "judges:",
            "length:",
            "endpoints:",
            "broker:",
            "- ",
            "  ",
            "\n",
            ": ",
            "{",
            "}",
            "[",
            "]",
            "&a ",
            "*a",
            "<<: *a",
            "!!int x",
            "!!bool maybe",
            "!!timestamp no",
            "!!float .",
            "!!binary =",
            "!!int ''",
            "!!set {a}",
            "!!omap [a]",
            "!!python/object:os.system x",
            "2020-13-45",
            "0x",
            "1_0:99",
            "~",
            "|",
            ">",
            "'",
            '"',
            "#",
            "---",
            "...",
            "%YAML 9",
            "\t",
            "= ",
            "? ",
            ", ",
            "name",
            "q",
            "\ufeff",
            "\x85",
            "\x00",
            "method: median_band",
            "1e999",
            ".nan",
            "=",
            "!",
            "@",
            "`",
            "[" * 3000,
            "[{" * 900,
        ]
    )
    | any_text,
    max_size=12,
).map("".join)
yaml_texts = st.one_of(
    mutated(FULL).map(lambda raw: yaml.safe_dump(raw, allow_unicode=True)),
    _YAML_BITS,
    st.builds(lambda a, b: f"{a}\n{b}", st.just(yaml.safe_dump(FULL)), _YAML_BITS),
)
toml_texts = st.one_of(
    st.text(string.printable, max_size=40),
    st.lists(
        st.sampled_from(
            [
                "[broker]\n",
                "[[judges]]\n",
                "url = ",
                "'redis://h'",
                "\n",
                "a.b.c = 1",
                "1979-05-27",
                "nan",
                "inf",
                "[" * 3000,
                "{ x = 1 }",
                '"\\ud800"',
                "deadline_s = 1e999\n",
                "= 0x",
                "99" * 3000,
            ]
        ),
        max_size=10,
    ).map("".join),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("configs")


@fuzz
@given(
    st.one_of(
        st.tuples(st.just("c.yaml"), yaml_texts.map(lambda t: t.encode("utf-8", "replace"))),
        st.tuples(st.just("c.toml"), toml_texts.map(str.encode)),
        st.tuples(st.sampled_from(["c.yaml", "c.toml"]), st.binary(max_size=60)),
    )
)
def test_a_file_is_refused_by_name_or_can_be_used(folder: Path, written: tuple[str, bytes]) -> None:
    name, content = written
    (folder / name).write_bytes(content)
    check(lambda: load_config(folder / name, {}))


_NAMES = st.one_of(
    st.sampled_from(_PATHS).map(lambda place: "__".join(map(str, place)).upper()),
    st.lists(
        st.sampled_from(["BROKER", "URL", "", "0", "ENDPOINTS", "JUDGES", "é"]), max_size=4
    ).map("__".join),
)


@fuzz
@given(
    st.dictionaries(_NAMES.map("OYER_".__add__), yaml_texts | any_text, min_size=1, max_size=3),
    st.sampled_from([FULL, {}, {"judges": None, "broker": 3, 4: 5}]),
)
def test_variables_are_refused_by_name_or_can_be_used(
    environ: dict[str, str], raw: dict[str, Any]
) -> None:
    check(lambda: validate(overridden(raw, environ)))


@fuzz
@given(json_like | any_text)
def test_a_path_that_is_none_is_refused(path: Any) -> None:
    if isinstance(path, str) and path:
        with pytest.raises(InvalidConfig, match="configuration file"):
            load_config(f"/nowhere/{path}", {})
