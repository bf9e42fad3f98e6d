"""Names of variables are accepted, pasted keys are refused, and no message shows a possible key."""

import pytest

from oyer.config.loading import load_config, validate
from oyer.config.variables import is_name, secret_of, shown
from oyer.protocol.errors import InvalidConfig

KEYS = [
    "gsk_q7Zk2mVx9Rt4Lp8Wn3Yb6Hc1Jd5Fs0Ga",
    "hf_AbCdEfGhIjKlMnOpQrStUvWxYz",
    "fw_3ZaBcDeFgH1234567890",
    "sk-proj-abc123",
    "AIzaSyA1b2C3d4E5f6G7h8I9j0KlMnOpQrStUvW",
    "0f" * 32,
    "AKIAIOSFODNN7EXAMPLE",
    "ABCD1234EFGH5678",
    "abcdefghijklmnopqrstuvwxyzabcdef",
    "pass word",
    "",
]
NAMES = ["DEEPSEEK_API_KEY", "KEY", "_TOKEN", "K8S_TOKEN", "OPENAI_KEY_2", "GPT4O_MINI_KEY"]


@pytest.mark.parametrize("name", [*NAMES, "deepseek_api_key"])
def test_names_are_accepted(name: str) -> None:
    assert is_name(name)
    config = validate({"endpoints": {"e": {"base_url": "http://h/v1", "api_key_env": name}}})
    assert config.endpoints["e"].api_key_env == name


@pytest.mark.parametrize("key", KEYS)
def test_keys_are_refused_and_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidConfig, match="api_key_env: must be the \\*name\\*") as raised:
        validate({"endpoints": {"e": {"base_url": "http://h/v1", "api_key_env": key}}})
    assert not key or key not in str(raised.value)
    monkeypatch.setenv(
        "OYER_ENDPOINTS", f"{{e: {{base_url: 'http://h/v1', api_key_env: '{key}'}}}}"
    )
    with pytest.raises(InvalidConfig, match="api_key_env: must be the \\*name\\*") as raised:
        load_config()
    assert not key or key not in str(raised.value)


def test_a_missing_variable_is_named_unless_it_may_be_a_key() -> None:
    with pytest.raises(InvalidConfig, match="place: JUDGE_KEY is not set; export it"):
        secret_of("JUDGE_KEY", {}, where="place", fix="export it")
    with pytest.raises(InvalidConfig) as raised:
        secret_of("hunter2", {}, where="place", fix="export it")
    assert "hunter2" not in str(raised.value)
    assert "hunter2" not in shown("hunter2")
    assert secret_of("judge_key", {"judge_key": "k"}, where="place", fix="export it") == "k"
