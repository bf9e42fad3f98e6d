"""Neither a message nor a reply makes a worker send its key to another host."""

import pickle
import uuid
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import redis

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action
from oyer.manager import BatchFailed, RewardFuture, RewardManager
from oyer.manager.backend.connection import backend
from oyer.manager.backend.prepare import PreparedBatch, prepare
from oyer.protocol import names
from tests.security.conftest import Marker, logs_in, raw_message
from tests.support.rollouts import rollouts_of
from tests.support.waiting import wait_until

KEY = "planted-key-of-the-workers-5Wd"
SENT = sha256(f"Bearer {KEY}".encode()).hexdigest()


@pytest.fixture(scope="session")
def stranger() -> Iterator[JudgeServer]:
    """A host that a forged message or a redirect names."""
    with JudgeServer(Action(text="Final score: 10")) as server:
        yield server


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("endpoints")


@pytest.fixture(scope="session")
def manager(folder: Path, session_judge: JudgeServer) -> Iterator[RewardManager]:
    config = {
        "endpoints": {
            "fake": {
                "base_url": session_judge.base_url,
                "api_key_env": "OYER_TEST_KEY",
                "max_attempts": 1,
            }
        },
        "judges": [{"name": "q", "endpoint": "fake", "model": "m"}],
        "store": {"url": f"sqlite:///{folder / 'oyer.db'}"},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OYER_TEST_KEY", KEY)
        with RewardManager.local(config, folder=folder, judge_processes=1) as manager:
            yield manager


def forged(manager: RewardManager, judge: dict[str, Any], **plan: Any) -> RewardFuture:
    """Submit a batch with a forged plan."""
    honest = prepare(rollouts_of(f"forged {uuid.uuid4()}", 4), manager.config, run="r", step=None)
    changed = {**honest.manifest.plan, **plan}
    changed["judges"] = [{**changed["judges"][0], **judge}]
    batch = PreparedBatch(replace(honest.manifest, plan=changed), *list(_parts(honest)))
    backend(*manager._broker).submit(batch)
    return RewardFuture(
        batch_id=honest.manifest.batch_id,
        verdicts=4,
        rules=manager.config.reward,
        broker=manager._broker,
        stall_timeout_s=60,
    )


def _parts(submission: PreparedBatch) -> tuple[Any, Any, Any]:
    return submission.columns, submission.chunks, submission.token_ids


@pytest.mark.parametrize(
    "field", ["base_url", "base_urls", "headers", "api_key_env", "api_key", "url", "path"]
)
def test_a_judge_of_a_message_cannot_say_where_it_is(
    manager: RewardManager, judge: JudgeServer, stranger: JudgeServer, field: str
) -> None:
    with pytest.raises(BatchFailed, match=rf"judges\[0\]\.{field}: unknown key"):
        forged(manager, {field: stranger.base_url}).result(timeout_s=60)
    assert judge.requests == stranger.requests == []


def test_endpoints_in_a_message_are_not_used(
    manager: RewardManager, judge: JudgeServer, stranger: JudgeServer
) -> None:
    theirs = {"fake": {"base_url": stranger.base_url, "api_key_env": "OYER_TEST_KEY"}}
    batch = forged(manager, {}, endpoints=theirs).result(timeout_s=60)
    assert batch.judge_scores.tolist() == [8.0] * 4
    assert {arrival.authorization_sha256 for arrival in judge.requests} == {SENT}
    assert stranger.requests == []


@pytest.mark.parametrize("name", ["../x", "http://127.0.0.1/", "fake/../x", "FAKE", "fake "])
def test_an_endpoint_that_the_workers_do_not_have_is_called_nowhere(
    manager: RewardManager, judge: JudgeServer, name: str
) -> None:
    batch = forged(manager, {"endpoint": name}).result(timeout_s=60)
    assert batch.statuses == ["rejected"] * 4
    assert "is not in the configuration of this worker" in batch.first_errors["rejected"]
    assert judge.requests == []


def test_a_body_cannot_change_host_path_or_headers(
    manager: RewardManager, judge: JudgeServer, stranger: JudgeServer
) -> None:
    crafted: dict[str, Any] = dict.fromkeys(
        ("base_url", "url", "path", "extra_query", "extra_body", "api_key", "api_base"),
        stranger.base_url,
    )
    crafted |= {"extra_headers": {"Host": "x", "Authorization": "Bearer y"}, "headers": {"a": "b"}}
    batch = forged(manager, {"extra_body": crafted}).result(timeout_s=60)
    assert batch.statuses == ["scored"] * 4
    assert {arrival.path for arrival in judge.requests} == {"/v1/chat/completions"}
    assert {arrival.authorization_sha256 for arrival in judge.requests} == {SENT}
    assert stranger.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_to_another_host(
    manager: RewardManager, judge: JudgeServer, stranger: JudgeServer, status: int
) -> None:
    there = {"Location": f"{stranger.base_url}/chat/completions"}
    judge.set_plan(Action(status=status, body="", headers=there))
    batch = manager.submit(rollouts_of(f"redirect {status}", 4)).result(timeout_s=60)
    assert "scored" not in batch.statuses
    assert len(judge.requests) == 4
    assert stranger.requests == []


@pytest.mark.parametrize("task", [names.JUDGE_TASK, names.COMBINE_TASK])
def test_a_message_that_is_not_json_is_refused_and_the_worker_lives(
    manager: RewardManager, judge: JudgeServer, folder: Path, task: str
) -> None:
    manager.submit(rollouts_of(f"before {task}", 4)).result(timeout_s=60)
    queue, before = names.QUEUE_OF_TASK[task], logs_in(folder).count("was thrown away")
    marker = folder / f"run-by-{queue}"
    yaml = f"!!python/object/apply:os.mkdir ['{marker}']".encode()
    with redis.Redis.from_url(str(manager.config.broker.url)) as client:
        for content_type, body in (
            ("application/x-python-serialize", pickle.dumps([[Marker(marker)], {}, {}])),
            ("application/x-yaml", yaml),
        ):
            client.lpush(queue, raw_message(queue, task, body, content_type))
        wait_until(
            lambda: not any(client.exists(key) for key in (queue, "unacked")), "none is left"
        )
    batch = manager.submit(rollouts_of(f"after {task}", 4)).result(timeout_s=60)
    assert batch.statuses == ["scored"] * 4
    assert not marker.exists()
    assert logs_in(folder).count("was thrown away") == before + 2
