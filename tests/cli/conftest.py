"""One `oyer up` for the whole session, with a scripted judge behind it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from oyer import migrations
from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action
from oyer.manager import RewardManager
from tests.support.cli_process import Running, running


@dataclass(frozen=True)
class Backend:
    """An `oyer up` and the folder that it runs in."""

    command: Running
    folder: Path
    judge: JudgeServer

    def write_rollouts(self, name: str, rows: list[Any]) -> Path:
        """Write a file of JSON lines into the folder."""
        return write_lines(self.folder / name, rows)


def broker_of(backend: Backend) -> str:
    """Return the URL of the broker of an `oyer up`."""
    state = json.loads((backend.folder / ".oyer" / "backend.json").read_text())
    return str(state["broker_url"])


@pytest.fixture(scope="session")
def session_backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """Run `oyer up --json` until the session ends."""
    folder = tmp_path_factory.mktemp("up")
    with JudgeServer(Action(text="Final score: 8")) as judge:
        write_config(folder, judge.base_url)
        arguments = ["--json", "--config", "oyer.yaml", "--judge-processes", "1"]
        with running("up", *arguments, cwd=folder) as command:
            command.read_until('"ready"')
            yield Backend(command, folder, judge)


@pytest.fixture
def backend(session_backend: Backend) -> Backend:
    """Share the session's `oyer up`; the judge answers with 8 and has an empty log."""
    session_backend.judge.set_plan(Action(text="Final score: 8"))
    session_backend.judge.reset()
    return session_backend


@pytest.fixture
def idle(tmp_path: Path, redis_url: str, sqlite_url: str) -> RewardManager:
    """A trainer on a broker without workers; the folder holds the configuration."""
    migrations.upgrade(sqlite_url)
    config: dict[str, Any] = {
        "endpoints": {"fake": {"base_url": "http://127.0.0.1:9/v1"}},
        "judges": [{"name": "quality", "endpoint": "fake", "model": "m"}],
        "broker": {"url": redis_url},
        "store": {"url": sqlite_url},
    }
    (tmp_path / "oyer.yaml").write_text(yaml.safe_dump(config))
    return RewardManager(config)


def write_config(folder: Path, base_url: str, **changes: Any) -> Path:
    """Write an `oyer.yaml` with one judge and the default length method."""
    config = {
        "endpoints": {"fake": {"base_url": base_url, "max_attempts": 1}},
        "judges": [{"name": "quality", "endpoint": "fake", "model": "m"}],
        "length": {"method": "median_band"},
        **changes,
    }
    path = folder / "oyer.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def write_lines(path: Path, rows: list[Any]) -> Path:
    """Write JSON lines; a text is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def rollout_rows(tag: str, n: int) -> list[dict[str, Any]]:
    """Make distinct rollouts, two per group, with the groups interleaved."""
    return [
        {
            "prompt": f"{tag} question {i % (n // 2)}",
            "response": f"{tag} answer {i}",
            "group_id": f"{tag}-{i % (n // 2)}",
            "base_score": 1.0,
            "response_tokens": 100,
        }
        for i in range(n)
    ]
