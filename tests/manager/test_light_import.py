"""Importing the trainer's side is light: it is paid for by every process of a trainer."""

import json
import subprocess
import sys

import pytest

HEAVY = (
    "alembic",
    "asyncio",
    "celery",
    "difflib",
    "gevent",
    "httpx",
    "openai",
    "psycopg",
    "redis",
    "sqlalchemy",
    "tomllib",
    "torch",
    "transformers",
    "yaml",
)


def loaded(code: str) -> set[str]:
    """Run code in a new process; returns the top-level modules that are loaded then."""
    report = "\nimport json, sys; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", code + report], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout))


@pytest.fixture(scope="module")
def modules() -> set[str]:
    return loaded("from oyer.manager import RewardConfig, RewardManager, Rollout")


@pytest.mark.parametrize("name", HEAVY)
def test_the_trainers_side_does_not_load(modules: set[str], name: str) -> None:
    assert name not in modules


def test_the_import_builds_no_schema() -> None:
    """Building one costs more than its class: each is built at its first use (`defer_build`)."""
    code = """
import json
import oyer.manager
from pydantic import BaseModel
def below(model):
    return [x for one in model.__subclasses__() for x in (one, *below(one))]
ours = [one for one in below(BaseModel) if one.__module__.startswith("oyer.")]
print(json.dumps([len(ours), [one.__name__ for one in ours if one.__pydantic_complete__]]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, built = json.loads(done.stdout)
    assert count > 40
    assert built == []


def test_no_table_and_no_worker_is_loaded_by_a_configured_manager() -> None:
    config = {
        "judges": [{"name": "q", "endpoint": "e", "model": "m", "rubric": "tool_call_zh"}],
        "length": [{"method": "median_band"}],
        "broker": {"url": "redis://127.0.0.1:1/0"},
    }
    modules = loaded(f"from oyer.manager import RewardManager; RewardManager({config!r})")
    heavy = {"alembic", "gevent", "openai", "psycopg", "sqlalchemy", "torch", "transformers"}
    assert modules & heavy == set()
    assert "celery" in modules
