"""`pip install oyer` is what a trainer needs, and loads no worker's library."""

import json
from pathlib import Path

import pytest

from oyer.local.extras import WORKER_PACKAGES
from tests.packaging.environments import Environment
from tests.support.scripted_backend import scripted_backend

pytestmark = pytest.mark.package

IMPORT_ALL = f"""
import importlib, importlib.util, json, pkgutil
import oyer, oyer.manager
names = [m.name for m in pkgutil.walk_packages(oyer.manager.__path__, "oyer.manager.")]
# It derives from a class of verifiers, and is loaded by verifiers.
names.remove("oyer.manager.verifiers")
for name in names:
    importlib.import_module(name)
import oyer.tasks.app
found = [name for name in {WORKER_PACKAGES} if importlib.util.find_spec(name) is not None]
print(json.dumps({{"imported": names, "installed": found, "from": oyer.manager.__file__}}))
"""

SUBMIT = """
import json, os
from oyer.manager import RewardManager, Rollout
config = {
    "broker": {"url": os.environ["BROKER"]},
    "judges": [{"name": "q", "endpoint": "fake", "model": "m", "reasks": 0, "weight": 0.1}],
}
rollouts = [
    Rollout(prompt="2 + 3?", response=text, group_id="g", base_score=1.0, response_tokens=4)
    for text in ("five", "5", "it is 5")
]
with RewardManager(config) as manager:
    batch = manager.submit(rollouts, run="installed", step=0).result(timeout_s=120)
print(json.dumps({"rewards": batch.rewards.tolist(), "statuses": [str(s) for s in batch.statuses]}))
"""


def test_every_adapter_is_imported_without_a_workers_package(trainer: Environment) -> None:
    done = trainer.python(IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["installed"] == []
    assert {f"oyer.manager.{name}" for name in ("verl", "trl", "slime", "openrlhf")} <= set(
        seen["imported"]
    )
    assert Path(seen["from"]).is_relative_to(trainer.path)


def test_a_batch_is_submitted_to_a_running_backend(trainer: Environment, tmp_path: Path) -> None:
    with scripted_backend(tmp_path) as (manager, judge):
        done = trainer.python(SUBMIT, BROKER=str(manager.config.broker.url))
        assert done.returncode == 0, done.stderr
        asked = len(judge.requests)
    scored = json.loads(done.stdout)
    assert scored["statuses"] == ["scored"] * 3
    assert len(scored["rewards"]) == 3
    assert asked == 3


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["worker", "judge"], "worker"),
        (["db", "upgrade"], "worker"),
        (["batches", "list"], "worker"),
        (["length", "plot", "median_band"], "worker"),
        (["up"], "embedded"),
        (["demo"], "embedded"),
        (["serve"], "server"),
        (["view"], "server"),
        (["metrics"], "server"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_command_without_its_extra_says_what_to_install(
    trainer: Environment, command: list[str], extra: str
) -> None:
    done = trainer.run("oyer", *command, OYER_BROKER__URL="redis://127.0.0.1:1/0")
    assert done.returncode == 2
    assert f"pip install 'oyer[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_commands_of_a_trainers_host_work(trainer: Environment) -> None:
    for arguments in (["--version"], ["config"], ["config", "--schema"], ["length", "list"]):
        done = trainer.run("oyer", *arguments)
        assert (done.returncode, done.stderr) == (0, ""), arguments
        assert done.stdout
