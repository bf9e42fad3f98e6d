"""Embedded backends with real workers and a scripted judge."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.manager import RewardManager

PATIENT_S = 60
"""Time limit of calls that are not to be repeated, however busy the machine is."""
IMPATIENT_S = 2
"""Time limit of calls that are not answered."""


@pytest.fixture(scope="session")
def judge() -> Iterator[JudgeServer]:
    """The session's judge endpoint; each test sets its plan."""
    with JudgeServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _fresh_plan(judge: JudgeServer) -> Iterator[None]:
    judge.set_plan({})
    judge.reset()
    yield
    # A call that stayed held would take one of the endpoint's permits from later tests.
    judge.set_plan({})
    judge.release()


@pytest.fixture(scope="session")
def base_config(judge: JudgeServer) -> dict[str, Any]:
    """The configuration that the shared backend runs with."""
    fake = {"base_url": judge.base_url, "max_in_flight": 32, "max_attempts": 2}
    return {
        "endpoints": {
            "fake": {**fake, "timeout_s": PATIENT_S},
            "impatient": {**fake, "timeout_s": IMPATIENT_S},
            "dead": {"base_url": "http://127.0.0.1:9/v1", "max_attempts": 1},
        },
        "judges": [{"name": "q", "endpoint": "fake", "model": "m", "reasks": 0}],
        "length": {"method": "median_band"},
    }


@pytest.fixture(scope="session")
def sqlite_backend(
    base_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RewardManager]:
    """A manager on an embedded backend with a SQLite file."""
    folder = tmp_path_factory.mktemp("sqlite")
    store = {"url": f"sqlite:///{folder / 'oyer.db'}"}
    with RewardManager.local({**base_config, "store": store}, folder=folder) as manager:
        yield manager


@pytest.fixture(scope="session")
def postgres_backend(
    base_config: dict[str, Any], postgres_service: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RewardManager]:
    """A manager on an embedded backend with a PostgreSQL database."""
    folder = tmp_path_factory.mktemp("postgres")
    store = {"url": postgres_service}
    with RewardManager.local({**base_config, "store": store}, folder=folder) as manager:
        yield manager


@pytest.fixture(params=["sqlite", "postgres"])
def backend(request: pytest.FixtureRequest) -> RewardManager:
    """A manager on an embedded backend: the test runs on SQLite and on PostgreSQL.

    Both backends run until the session ends, because one takes seconds to start and to stop.
    """
    manager: RewardManager = request.getfixturevalue(f"{request.param}_backend")
    return manager


@pytest.fixture
def sibling(backend: RewardManager) -> Callable[..., RewardManager]:
    """Make managers with a changed configuration on the same backend."""

    def make(**changes: Any) -> RewardManager:
        config = backend.config.model_dump(mode="json")
        return RewardManager({**config, **changes})

    return make


KEY = "planted-key-J7fQ2xW9"
"""The judges' key, in the workers' environment and nowhere else."""

QUERY_SECRET = "planted-signature-4kP8"
"""Part of an endpoint's URL."""


@pytest.fixture(scope="session")
def judging_backend(
    judge: JudgeServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RewardManager]:
    """A backend with two judge processes and one endpoint per limit of a judge client."""
    common = {
        "base_url": judge.base_url,
        "api_key_env": "PLANTED_JUDGE_KEY",
        "timeout_s": PATIENT_S,
    }
    endpoints: dict[str, Any] = {
        "fake": {**common, "max_in_flight": 32},
        "impatient": {**common, "max_in_flight": 32, "timeout_s": IMPATIENT_S},
        "other": {**common, "max_in_flight": 32},
        "narrow": {**common, "max_in_flight": 5},
        "slow": {**common, "max_in_flight": 32, "requests_per_minute": 30},
        "half_dead": {
            "base_urls": [{"url": judge.base_url}, {"url": "http://127.0.0.1:9/v1"}],
            "max_in_flight": 2,
        },
        "signed": {
            "base_urls": [
                {"url": f"{url}?sig={QUERY_SECRET}"}
                for url in (judge.base_url, "http://127.0.0.1:9/v1")
            ],
            "api_key_env": "PLANTED_JUDGE_KEY",
            "timeout_s": PATIENT_S,
        },
    }
    prices = {"m": {"prompt_usd": 0, "completion_usd": 1000}}
    for endpoint in endpoints.values():
        endpoint["prices"] = prices
    folder = tmp_path_factory.mktemp("judging")
    config = {
        "endpoints": endpoints,
        "judges": [{"name": "q", "endpoint": "fake", "model": "m", "reasks": 0}],
        "store": {"url": f"sqlite:///{folder / 'oyer.db'}"},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANTED_JUDGE_KEY", KEY)
        with RewardManager.local(config, folder=folder, judge_processes=2) as manager:
            yield manager


@pytest.fixture
def manager_with(judging_backend: RewardManager) -> Callable[..., RewardManager]:
    """Make managers on `judging_backend` with changes of its judge or configuration."""

    def make(config: dict[str, Any] | None = None, **judge: Any) -> RewardManager:
        raw = judging_backend.config.model_dump(mode="json")
        judges = [{**raw["judges"][0], **judge}]
        return RewardManager({**raw, "judges": judges, **(config or {})})

    return make
