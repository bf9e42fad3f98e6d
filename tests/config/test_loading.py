"""One file, then the environment over it; every error names the file, the key and the fix."""

import itertools
import textwrap
from pathlib import Path
from typing import Any

import pytest

from oyer.config.loading import CONFIG_VARIABLE, load_config, overridden, validate
from oyer.config.reward import RewardConfig
from oyer.protocol.errors import InvalidConfig

YAML = """
endpoints:
  DeepSeek: {base_url: https://api.deepseek.com/v1, api_key_env: KEY, max_in_flight: 128}
judges:
  - {name: quality, endpoint: DeepSeek, model: v3, rubric: tool_call_zh, scale: [1, 10]}
length: {method: median_band, peak_ratio: 0.2}
reward: {gate: none, on_missing: {value: 5}}
broker: {url: redis://localhost:6379/0}
reuse: off
"""

TOML = """
reuse = "off"
[endpoints.DeepSeek]
base_url = "https://api.deepseek.com/v1"
api_key_env = "KEY"
max_in_flight = 128
[[judges]]
name = "quality"
endpoint = "DeepSeek"
model = "v3"
rubric = "tool_call_zh"
scale = [1, 10]
[length]
method = "median_band"
peak_ratio = 0.2
[reward]
gate = "none"
on_missing = {value = 5}
[broker]
url = "redis://localhost:6379/0"
"""


def written(folder: Path, text: str | bytes, name: str = "oyer.yaml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())
    return path


def loaded(folder: Path, text: str | bytes = YAML, **environ: str) -> RewardConfig:
    return load_config(written(folder, text), environ)


def refusal(folder: Path, text: str | bytes, **environ: str) -> str:
    with pytest.raises(InvalidConfig) as caught:
        loaded(folder, text, **environ)
    return str(caught.value)


def test_yaml_and_toml_give_the_same_configuration(tmp_path: Path) -> None:
    config = loaded(tmp_path)
    assert config == load_config(written(tmp_path, TOML, "oyer.toml"), {})
    assert config.endpoints["DeepSeek"].max_in_flight == 128
    assert config.judges[0].name == "quality"
    assert config.length[0].params["peak_ratio"] == 0.2
    assert config.reward.value == 5
    assert config.reuse == "off"


def test_the_environment_names_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, YAML)
    assert load_config(None, {CONFIG_VARIABLE: str(path)}) == load_config(path, {})


def test_a_path_has_precedence_over_the_environment(tmp_path: Path) -> None:
    other = written(tmp_path, "reuse: run", "other.yaml")
    assert load_config(written(tmp_path, YAML), {CONFIG_VARIABLE: str(other)}).reuse == "off"


def test_without_a_file_there_are_the_defaults_and_the_environment() -> None:
    assert load_config(None, {}) == RewardConfig()
    config = load_config(None, {"OYER_BROKER__URL": "redis://h/1", CONFIG_VARIABLE: ""})
    assert config.broker.url == "redis://h/1"


def test_a_relative_rubric_path_starts_from_the_files_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.md").write_text("Rate {response} from 1 to 10.")
    path = written(tmp_path, "judges: [{name: q, endpoint: e, model: m, rubric: mine.md}]")
    monkeypatch.chdir(path.parent.parent)
    assert load_config(path, {}).judges[0].rubric == "Rate {response} from 1 to 10."


def test_files_are_found_from_a_dict_as_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.md").write_text("Rate {response} from 1 to 10.")
    signing = {"key": "key.pem", "cert": str(tmp_path / "cert.pem"), "cert_store": "~/trusted"}
    raw: dict[str, Any] = {
        "judges": [{"name": "q", "endpoint": "e", "model": "m", "rubric": "mine.md"}],
        "broker": {"signing": signing},
    }
    config = validate(raw, folder=tmp_path)
    assert config.judges[0].rubric == "Rate {response} from 1 to 10."
    assert raw["judges"][0]["rubric"] == "mine.md"
    assert config.broker.signing is not None
    assert config.broker.signing.key == str(tmp_path / "key.pem")
    assert config.broker.signing.cert == signing["cert"]
    assert config.broker.signing.cert_store == str(Path.home() / "trusted")


def test_a_missing_rubric_file_is_refused_by_key(tmp_path: Path) -> None:
    path = written(tmp_path, "judges: [{name: q, endpoint: e, model: m, rubric: none.md}]")
    with pytest.raises(InvalidConfig, match=r"oyer\.yaml: judges\[0\]\.rubric: there is no file"):
        load_config(path, {})


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_an_empty_file_is_the_defaults(tmp_path: Path, text: str) -> None:
    assert loaded(tmp_path, text) == RewardConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jugdes: []", "jugdes: unknown key; did you mean `judges`?"),
        ("broker: {url: 3}", "broker.url: must be text; put quotes"),
        ("deadline_s: soon", "deadline_s: must be a number"),
        ("judges: {name: q}", "judges: "),
        ("judges: [{name: q}]", "judges[0].endpoint: is missing"),
        ("- a\n- b", "holds no keys; it starts with e.g. `judges:`"),
        ("judges", "holds no keys"),
        ("a: [1", "is not readable"),
        ("a: \t b: c", "is not readable"),
        (b"\xff\xfe\x00", "is not readable"),
        ("a: &a [*a]", "is not readable: line 1, column 8: aliases (`*a`) are not"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, text: str | bytes, message: str) -> None:
    refused = refusal(tmp_path, text)
    assert refused.startswith(f"configuration file {tmp_path / 'oyer.yaml'}: ")
    assert message in refused


def test_wrong_toml_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"oyer\.toml: is not readable: "):
        load_config(written(tmp_path, "a = ", "oyer.toml"), {})


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"none\.yaml: No such file .*give a file that exists"):
        load_config(tmp_path / "none.yaml", {})
    with pytest.raises(InvalidConfig, match=r"Is a directory; give a file that exists"):
        load_config(tmp_path, {})


@pytest.mark.parametrize(
    ("variable", "value", "read"),
    [
        ("OYER_BROKER__URL", "redis://other:1/2", lambda c: c.broker.url),
        ("OYER_BROKER__URL", "", lambda c: c.broker.url),
        ("OYER_DEADLINE_S", "90", lambda c: c.deadline_s),
        ("OYER_DEADLINE_S", "9e1", lambda c: c.deadline_s),
        ("OYER_REUSE", "off", lambda c: c.reuse),
        ("OYER_REWARD__MAX_FAILED_FRACTION", "0.5", lambda c: c.reward.max_failed_fraction),
        ("OYER_LENGTH__PEAK_RATIO", "0.1", lambda c: c.length[0].params["peak_ratio"]),
        ("OYER_ENDPOINTS__DEEPSEEK__TIMEOUT_S", "7", lambda c: c.endpoints["DeepSeek"].timeout_s),
        ("OYER_STORE__URL", "postgresql://u:p@h/d", lambda c: c.store.url),
        ("OYER_TOKENIZER", "gpt2", lambda c: c.tokenizer),
    ],
)
def test_a_variable_overrides_a_key(tmp_path: Path, variable: str, value: str, read: Any) -> None:
    expected: Any = {"": None, "90": 90.0, "9e1": 90.0, "0.5": 0.5, "0.1": 0.1, "7": 7.0}
    assert read(loaded(tmp_path, YAML, **{variable: value})) == expected.get(value, value)


def test_a_variable_may_hold_a_whole_section(tmp_path: Path) -> None:
    config = loaded(tmp_path, YAML, OYER_LENGTH="{method: median_band, peak_ratio: 0.1}")
    assert config.length[0].params["peak_ratio"] == 0.1


def test_an_override_leaves_the_other_keys(tmp_path: Path) -> None:
    config = loaded(tmp_path, YAML, OYER_ENDPOINTS__DEEPSEEK__TIMEOUT_S="7")
    assert config.endpoints["DeepSeek"].max_in_flight == 128
    assert list(config.endpoints) == ["DeepSeek"]


def test_an_override_does_not_change_its_argument() -> None:
    raw = {"broker": {"url": "redis://h/0"}}
    assert overridden(raw, {"OYER_BROKER__URL": "x"}) == {"broker": {"url": "x"}}
    assert raw == {"broker": {"url": "redis://h/0"}}


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("OYER_BROKER__ULR", "redis://h", "broker.ulr: unknown key"),
        ("OYER_DEADLINE_S", "soon", "deadline_s: must be a number"),
        ("OYER_JUDGES__0__MODEL", "m", "OYER_JUDGES__0__MODEL: 'judges' holds no keys"),
        ("OYER_BROKER__URL__HOST", "h", "OYER_BROKER__URL__HOST: 'url' holds no keys"),
        ("OYER_TOKENIZER", "@me", "OYER_TOKENIZER: its value is not YAML (line 1, column 1: found"),
        ("OYER_LENGTH", "[1", "OYER_LENGTH: its value is not YAML"),
    ],
)
def test_a_wrong_variable_is_refused_by_name(
    tmp_path: Path, variable: str, value: str, message: str
) -> None:
    assert message in refusal(tmp_path, YAML, **{variable: value})


@pytest.mark.parametrize("variable", ["OYER_HOME", "OYER_CONFIGURATION__X", "BROKER__URL"])
def test_other_variables_are_ignored(tmp_path: Path, variable: str) -> None:
    assert loaded(tmp_path, YAML, **{variable: "[1"}) == loaded(tmp_path)


@pytest.mark.parametrize("endless", [range(2**40), itertools.count()], ids=["range", "count"])
def test_an_endless_iterable_is_refused_by_key(endless: Any) -> None:
    with pytest.raises(InvalidConfig, match=r"judges\[0\]\.scale: is a (range|count); give a list"):
        validate({"judges": [{"name": "q", "scale": endless}]})


def test_a_duplicate_key_is_refused_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "oyer.yaml"
    path.write_text("deadline_s: 10\nreuse: run\ndeadline_s: 20\n")
    with pytest.raises(
        InvalidConfig,
        match=r"oyer\.yaml: .*line 3, column 1: the key 'deadline_s' is already in line 1",
    ):
        load_config(path, {})


def test_variables_may_not_set_a_key_twice() -> None:
    with pytest.raises(InvalidConfig, match="the key 'a' is already in line 1") as caught:
        load_config(None, {"OYER_REUSE": "{a: secret-1, a: secret-2}"})
    assert str(caught.value).startswith("OYER_REUSE: ")
    assert "secret" not in str(caught.value)
    both = {"OYER_REUSE": "run", "OYER_Reuse": "off"}
    with pytest.raises(InvalidConfig, match="OYER_Reuse: sets the same key as OYER_REUSE"):
        load_config(None, both)


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("reuse: run\n")
    assert load_config("~/mine.yaml", {}).reuse == "run"
    assert load_config(None, {CONFIG_VARIABLE: "~/mine.yaml"}).reuse == "run"


@pytest.mark.parametrize(
    "text",
    [
        "e:\n  api_key_env: 'hunter2\n",
        "e: {api_key_env: hunter2, : }}\n",
        "e:\n  api_key_env: !!int hunter2\n",
        "e:\n  api_key_env: !!bool hunter2\n",
        "e:\n  url: redis://:hunter2@h/0\n bad: 1\n",
    ],
)
def test_an_invalid_yaml_file_is_refused_by_line_without_its_text(
    text: str, tmp_path: Path
) -> None:
    path = tmp_path / "oyer.yaml"
    path.write_text(text)
    with pytest.raises(InvalidConfig, match=r"is not readable: (line|a value)") as raised:
        load_config(path, {})
    assert "hunter2" not in str(raised.value)


HEDGED = """
endpoints:
  e: {{base_url: http://h/v1, {}}}
judges: [{{name: q, endpoint: e, model: m}}]
"""


@pytest.mark.parametrize(
    ("keys", "after", "at_most"),
    [
        ("hedge: {after: p95, at_most: 5%}", "p95", 0.05),
        ("hedge: {}", "p95", 0.05),
        ("hedge: {after: 2, at_most: 0.1}", 2.0, 0.1),
        ("hedge: {after: p99, at_most: 2.5 %}", "p99", 0.025),
    ],
)
def test_slow_calls_are_hedged_by_quantile_or_time(
    tmp_path: Path, keys: str, after: str | float, at_most: float
) -> None:
    hedge = loaded(tmp_path, HEDGED.format(keys)).endpoints["e"].hedge
    assert hedge is not None
    assert (hedge.after, hedge.at_most) == (after, at_most)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("hedge: {after: p40}", "endpoints.e.hedge.after: must be a quantile from p50 to p99"),
        ("hedge: {after: 95%}", "endpoints.e.hedge.after: must be a quantile from p50 to p99"),
        ("hedge: {after: 0}", "endpoints.e.hedge.after: must be a quantile from p50 to p99"),
        ("hedge: {after: 60}", "endpoints.e.hedge.after: no call is in flight for 60 s"),
        ("hedge: {at_most: 5}", "endpoints.e.hedge.at_most: must be a part of the calls"),
        ("hedge: {at_most: 0%}", "endpoints.e.hedge.at_most: must be a part of the calls"),
        ("hedge: {at_most: yes}", "endpoints.e.hedge.at_most: must be a part of the calls"),
        ("hedge: {afer: p95}", "endpoints.e.hedge.afer: unknown key; did you mean `after`?"),
        ("hedge: {}, max_in_flight: 1", "endpoints.e.hedge: needs a `max_in_flight` of at least 2"),
    ],
)
def test_a_hedge_that_makes_no_sense_is_refused(tmp_path: Path, keys: str, said: str) -> None:
    assert said in refusal(tmp_path, HEDGED.format(keys))
