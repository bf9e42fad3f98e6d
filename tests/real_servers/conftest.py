"""A `litellm` proxy and a `transformers serve`, in an environment of theirs, behind one backend.

Both are on free ports of the loopback and offline; `make test-real-servers` installs them.
"""

import contextlib
import json
import os
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oyer.manager import RewardManager
from tests.support import services

BIN = Path(os.environ.get("OYER_SERVERS_BIN", Path(__file__).parents[2] / ".venv-servers" / "bin"))
"""Where the servers' environment has its commands."""

ENVIRON = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "NO_PROXY": "*",
    # Threads only wait for each other over matrices of this size.
    "OMP_NUM_THREADS": "1",
}

MASTER_KEY = "sk-planted-master-key-Qm3z"
"""What the proxy asks of its clients."""

COOL_DOWN_S = 3
"""How long the proxy leaves a model alone that was rate-limited."""

START_TIMEOUT_S = 180.0
"""Longest wait for one of the servers, which load hundreds of modules, in seconds."""

MOCKED: dict[str, dict[str, Any]] = {
    "good": {"mock_response": "The last step is right.\n\nFinal score: 7"},
    "chatty": {"mock_response": "I rather like it."},
    "limited": {"mock_response": "litellm.RateLimitError"},
    "resting": {"mock_response": "litellm.RateLimitError", "cooldown_time": 600},
    "overflow": {"mock_response": "litellm.ContextWindowExceededError"},
    "broken": {"mock_response": "litellm.InternalServerError"},
    "filtered": {"mock_response": "Exception: content_filter_policy: this was filtered"},
    "slow": {"mock_timeout": True, "timeout": 0.1},
    "unreachable": {"api_base": "http://127.0.0.1:9/v1"},
}
"""The proxy's models, by the reply that litellm simulates for each."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("real_servers")


@pytest.fixture(scope="session")
def litellm_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of the proxy."""
    # After one 429 the proxy stops calling the model, and sends a Retry-After of its own.
    seldom = dict.fromkeys(
        (
            "InternalServerErrorAllowedFails",
            "TimeoutErrorAllowedFails",
            "BadRequestErrorAllowedFails",
        ),
        10_000,
    )
    config: dict[str, Any] = {
        "model_list": [
            {
                "model_name": name,
                "litellm_params": {"model": f"openai/{name}", "api_key": "none", **params},
            }
            for name, params in MOCKED.items()
        ],
        "router_settings": {
            "num_retries": 0,
            "cooldown_time": COOL_DOWN_S,
            "allowed_fails": 0,
            "allowed_fails_policy": {"RateLimitErrorAllowedFails": 0, **seldom},
        },
        "litellm_settings": {"telemetry": False},
        "general_settings": {"master_key": MASTER_KEY},
    }
    file = tmp_path_factory.mktemp("litellm") / "config.yaml"
    file.write_text(json.dumps(config))
    argv = [_command("litellm"), "--config", str(file), "--host", "127.0.0.1"]
    with _served(argv, "/health/liveliness") as base_url:
        yield base_url


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random model, made now."""
    folder = tmp_path_factory.mktemp("model")
    script = Path(__file__).with_name("tiny_model.py")
    subprocess.run(
        [_command("python"), str(script), str(folder)],
        env={**os.environ, **ENVIRON},
        check=True,
        timeout=300,
    )
    return folder


@pytest.fixture(scope="session")
def transformers_url(tiny_model: Path) -> Iterator[str]:
    """Base URL of a server of the random model."""
    argv = [_command("transformers"), "serve", str(tiny_model), "--host", "127.0.0.1"]
    with _served([*argv, "--device", "cpu"], "/health") as base_url:
        yield base_url


@pytest.fixture(scope="session")
def manager(
    litellm_url: str, transformers_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RewardManager]:
    """A backend whose endpoints are the two servers, and the proxy again with a wrong key."""
    proxy = {"base_url": litellm_url, "timeout_s": 60, "max_attempts": 4}
    folder = tmp_path_factory.mktemp("backend")
    config = {
        "endpoints": {
            "proxy": {
                **proxy,
                "api_key_env": "PROXY_KEY",
                "prices": {"good": {"prompt_usd": 1000, "completion_usd": 2000}},
            },
            "locked": {**proxy, "api_key_env": "WRONG_KEY"},
            "tiny": {"base_url": transformers_url, "timeout_s": 120, "max_in_flight": 2},
        },
        "judges": [{"name": "q", "endpoint": "proxy", "model": "good", "reasks": 0}],
        "store": {"url": f"sqlite:///{folder / 'oyer.db'}"},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROXY_KEY", MASTER_KEY)
        patch.setenv("WRONG_KEY", MASTER_KEY[::-1])
        with RewardManager.local(config, folder=folder, judge_processes=1) as opened:
            yield opened


@pytest.fixture
def judged_by(manager: RewardManager) -> Callable[..., RewardManager]:
    """Make managers on the backend, with changes of its judge."""

    def make(**judge: Any) -> RewardManager:
        raw = manager.config.model_dump(mode="json")
        deadline_s = judge.pop("deadline_s", raw["deadline_s"])
        return RewardManager(
            {**raw, "deadline_s": deadline_s, "judges": [{**raw["judges"][0], **judge}]}
        )

    return make


@contextlib.contextmanager
def _served(argv: list[str], health: str) -> Iterator[str]:
    """Run a server on a free port until the block ends; yields its base URL."""
    port = services.free_port()

    def ping() -> None:
        urllib.request.urlopen(f"http://127.0.0.1:{port}{health}", timeout=5).close()

    argv = [*argv, "--port", str(port)]
    with services.running(
        argv, ping, OSError, environ={**os.environ, **ENVIRON}, start_timeout_s=START_TIMEOUT_S
    ):
        yield f"http://127.0.0.1:{port}/v1"


def _command(name: str) -> str:
    path = BIN / name
    if not path.exists():
        pytest.fail(f"there is no {path}: run these tests by `make test-real-servers`", False)
    return str(path)
