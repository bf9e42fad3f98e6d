"""A manager refuses invalid configurations and rollouts before it sends anything."""

import fcntl
import json
import pickle
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from oyer.local.state import LOCK_FILE, STATE_FILE
from oyer.manager import (
    BackendUnavailable,
    InvalidConfig,
    InvalidInput,
    InvalidRollout,
    RewardConfig,
    RewardManager,
    Rollout,
)
from oyer.manager.streaming.identity import ScoreOptions, pending_rollouts
from oyer.protocol import names
from oyer.tasks.coordination.admission import flow_of
from tests.manager.conftest import JUDGE, Submit, Workers, rollouts_of
from tests.support import services

pytestmark = pytest.mark.filterwarnings(
    "ignore:Call to deprecated setex:DeprecationWarning"  # Celery 5.7 on redis-py 8
)


@pytest.fixture
def manager(redis_url: str) -> RewardManager:
    return RewardManager({"judges": [JUDGE], "broker": {"url": redis_url}})


def test_a_configuration_is_a_dict_or_the_model(redis_url: str, manager: RewardManager) -> None:
    config = RewardConfig.model_validate({"judges": [JUDGE], "broker": {"url": redis_url}})
    assert RewardManager(config).config is config
    assert manager.config == config


def test_a_configuration_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "oyer.yaml"
    path.write_text("length: {method: median_band}\nbroker: {url: redis://127.0.0.1:1/0}\n")
    assert RewardManager.from_file(path).config.length[0].method == "median_band"
    with pytest.raises(InvalidConfig, match=r"none\.yaml: No such file"):
        RewardManager.from_file(tmp_path / "none.yaml")


@pytest.mark.parametrize("config", ["oyer.yaml", None, 3, []])
def test_another_type_than_a_configuration_is_refused(config: Any) -> None:
    with pytest.raises(InvalidConfig, match=r"configuration: must be a section of keys"):
        RewardManager(config)


def test_nothing_to_compute_is_refused(redis_url: str) -> None:
    with pytest.raises(InvalidConfig, match=r"`judges` and `length` are both empty; configure one"):
        RewardManager({"broker": {"url": redis_url}})


def test_a_wrong_key_is_refused_at_the_start(redis_url: str) -> None:
    with pytest.raises(InvalidConfig, match=r"judges\[0\]\.modle: unknown key"):
        RewardManager({"judges": [{**JUDGE, "modle": "m"}], "broker": {"url": redis_url}})


def test_a_broker_is_named_or_runs_in_this_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidConfig, match=r"broker\.url: is not set, and no `oyer up` runs"):
        RewardManager({"judges": [JUDGE]})
    STATE_FILE.parent.mkdir()
    with LOCK_FILE.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        STATE_FILE.write_text("cut {")
        with pytest.raises(InvalidConfig, match=r"broker\.url: is not set"):
            RewardManager({"judges": [JUDGE]})
        STATE_FILE.write_text(json.dumps({"broker_url": redis_url}))
        future = RewardManager({"judges": [JUDGE]}).submit(rollouts_of())
        assert future.cancel()


def test_the_state_file_of_a_killed_oyer_up_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    STATE_FILE.parent.mkdir()
    STATE_FILE.write_text(json.dumps({"broker_url": redis_url}))
    LOCK_FILE.touch()
    with pytest.raises(InvalidConfig, match=r"broker\.url: is not set, and no `oyer up` runs"):
        RewardManager({"judges": [JUDGE]})


@pytest.mark.parametrize("run", ["", None, 3, "x" * 201])
def test_a_run_is_a_name(manager: RewardManager, workers: Workers, run: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^run: is .*; give a name of 1 to 200 characters"):
        manager.submit(rollouts_of(), run=run)
    assert not workers.keys()


@pytest.mark.parametrize("step", [-1, 1.0, "3", True, 2**31])
def test_a_step_is_a_count(manager: RewardManager, workers: Workers, step: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^step: is .*; give a whole number from 0, or leave"):
        manager.submit(rollouts_of(), step=step)
    assert not workers.keys()


@pytest.mark.parametrize("split", ["", 3, "x" * 101, "\udc00"])
def test_a_split_is_a_name(manager: RewardManager, workers: Workers, split: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^split: is .*; give a name of 1 to 100 characters"):
        manager.submit(rollouts_of(), split=split)
    with pytest.raises(InvalidInput, match=r"^split: is "):
        manager.score(rollouts_of(1)[0], split=split)
    assert not workers.keys()


@pytest.mark.parametrize("images", ["placeholder", "send", "reject"])
def test_images_travel_only_to_a_judge_that_takes_them(
    redis_url: str, workers: Workers, images: str
) -> None:
    content = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 2000}},
    ]
    rollout = Rollout(
        prompt=[{"role": "user", "content": content}],
        response=[{"role": "assistant", "content": "a"}, {"role": "tool", "content": content}],
        base_score=1.0,
    )
    config = {"judges": [{**JUDGE, "images": images}], "broker": {"url": redis_url}}
    future = RewardManager(config).submit([rollout], split="eval")
    assert workers.exchange.manifest(future.batch_id).split == "eval"
    (sent,) = workers.exchange.rollouts(future.batch_id, 0)
    if images != "placeholder":
        assert (sent.prompt, sent.response) == (rollout.prompt, rollout.response)
        return
    assert sent.prompt == [{"role": "user", "content": "look\n[image]"}]
    assert sent.response[1] == {"role": "tool", "content": "look\n[image]"}
    small = RewardManager({**config, "max_rollout_bytes": 1024})
    assert small.submit([rollout]).batch_id


@pytest.mark.parametrize("priority", ["", 3, "high", ["training"]])
def test_a_priority_is_one_of_three(
    manager: RewardManager, workers: Workers, priority: Any
) -> None:
    match = r"^priority: is .*; give interactive, training or background"
    with pytest.raises(InvalidInput, match=match):
        manager.submit(rollouts_of(), priority=priority)
    with pytest.raises(InvalidInput, match=match):
        manager.score(rollouts_of()[0], priority=priority)
    with pytest.raises(InvalidInput, match=match):
        manager.score_many(rollouts_of(), priority=priority)
    assert not workers.keys()


@pytest.mark.parametrize(
    ("options", "priority"),
    [
        ({}, "training"),
        ({"split": "train"}, "training"),
        ({"split": "eval"}, "background"),
        ({"split": "eval", "priority": "training"}, "training"),
        ({"priority": "background"}, "background"),
        ({"priority": None}, "training"),
    ],
)
def test_a_batch_carries_its_priority(
    manager: RewardManager, workers: Workers, options: dict[str, Any], priority: str
) -> None:
    """An evaluation is in the background unless its caller says otherwise."""
    manager.submit(rollouts_of(), run="r", **options)
    [message, *_] = workers.redis.lrange(names.JUDGE_QUEUE, 0, -1)
    flow, calls = flow_of(json.loads(message)["headers"])
    assert json.loads(flow) == ["r", priority, [JUDGE["endpoint"]]]
    assert calls > 0
    given = cast("ScoreOptions", options)
    (one,) = pending_rollouts(rollouts_of(1), given, plan="", training="", now_s=0.0)
    assert one.priority == priority


@pytest.mark.parametrize("step", [None, 0, 2**31 - 1, np.int64(7)])
def test_a_step_travels_as_a_plain_number(
    manager: RewardManager, workers: Workers, step: Any
) -> None:
    future = manager.submit(rollouts_of(), run="x" * 200, step=step)
    manifest = workers.exchange.manifest(future.batch_id)
    assert manifest.step == step
    assert manifest.run == "x" * 200
    future.cancel()


def test_of_a_bad_batch_nothing_is_submitted(manager: RewardManager, workers: Workers) -> None:
    rollouts = [*rollouts_of(3), Rollout(prompt="p", response="r", base_score=float("nan"))]
    with pytest.raises(InvalidRollout, match=r"rollouts\[3\]\.base_score: is nan"):
        manager.submit(rollouts)
    assert not workers.keys()


@pytest.mark.parametrize("batch", [None, "text", 3])
def test_an_invalid_batch_is_refused(manager: RewardManager, batch: Any) -> None:
    with pytest.raises(InvalidRollout, match=r"rollouts: must be a list of Rollout"):
        manager.submit(batch)


def test_a_tuple_is_a_batch(manager: RewardManager, workers: Workers) -> None:
    future = manager.submit(tuple(rollouts_of()))
    assert workers.exchange.manifest(future.batch_id).size == 4
    future.cancel()


@pytest.mark.parametrize("images", ["placeholder", "send"])
def test_the_batch_may_change_after_submit(redis_url: str, workers: Workers, images: str) -> None:
    judges = [{**JUDGE, "images": images}]
    manager = RewardManager({"judges": judges, "broker": {"url": redis_url}})
    rollouts = rollouts_of()
    future = manager.submit(rollouts)
    rollouts.clear()
    assert len(workers.exchange.rollouts(future.batch_id, 0)) == 4
    workers.succeed(future.batch_id)
    assert list(future.result(30).rollouts) == rollouts_of()


def test_an_unreachable_broker_is_an_error_of_submit() -> None:
    url = f"redis://127.0.0.1:{services.free_port()}/0"
    manager = RewardManager({"judges": [JUDGE], "broker": {"url": url}})
    with pytest.raises(BackendUnavailable, match=r"cannot be reached"):
        manager.submit(rollouts_of())


def test_a_manager_travels_to_another_process(manager: RewardManager, workers: Workers) -> None:
    other = pickle.loads(pickle.dumps(manager))
    assert other.config == manager.config
    future = other.submit(rollouts_of())
    assert workers.sent() == 1
    future.cancel()


def test_closing_without_an_embedded_backend_is_no_error(manager: RewardManager) -> None:
    with manager as same:
        assert same is manager
    manager.close()


def test_a_batch_has_its_times_by_the_clock_of_redis(
    workers: Workers, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() - 7200)
    before_s, _ = workers.redis.time()
    manifest = workers.exchange.manifest(submit(deadline_s=90).batch_id)
    after_s, _ = workers.redis.time()
    assert before_s - 1 <= manifest.submitted_at <= after_s + 2
    assert manifest.deadline == manifest.submitted_at + 90
