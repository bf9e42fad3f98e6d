"""Foreign messages are dropped, each logged once; the workers keep running."""

import base64
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from oyer.manager import RewardManager
from oyer.protocol import names
from oyer.protocol.measuring import live_workers
from oyer.protocol.names import batch_key
from oyer.protocol.packing import WIRE_VERSION, pack
from tests.fuzz.conftest import fuzz
from tests.support.fuzz_values import any_text, bomb, damaged, json_like, mutated
from tests.support.rollouts import rollout
from tests.support.scripted_backend import scripted_backend
from tests.support.waiting import wait_until

_AT_ONCE = 50
"""Messages that are pushed before the workers' logs are looked at."""

_LOGGED = re.compile(r"^\S+ \S+ (ERROR|CRITICAL) ", re.MULTILINE)


def message(task: Any, kwargs: Any, **changed: Any) -> dict[str, Any]:
    """Write a message as Celery's protocol 2 on Redis has it."""
    tag = str(uuid.uuid4())
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    content = json.dumps([[], kwargs, embed])
    queue = names.QUEUE_OF_TASK.get(task, "judge") if isinstance(task, str) else "judge"
    whole = {
        "body": base64.b64encode(content.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": task,
            "id": tag,
            "root_id": tag,
            "parent_id": None,
            "group": None,
            "retries": 0,
            "timelimit": [None, None],
            "argsrepr": "",
            "kwargsrepr": "",
            "origin": "gen1@elsewhere",
            "ignore_result": True,
        },
        "properties": {
            "correlation_id": tag,
            "reply_to": tag,
            "delivery_mode": 2,
            "delivery_info": {"exchange": queue, "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": tag,
        },
    }
    return {**whole, **changed}


OURS = [
    message(task, {"v": WIRE_VERSION, "batch_id": "none", **chunk})
    for task, chunk in [
        (names.JUDGE_TASK, {"chunk": 0}),
        (names.LENGTH_TASK, {}),
        (names.COMBINE_TASK, {}),
        (names.RECALL_TASK, {}),
    ]
]
"""Messages of batches that do not exist."""


def _body(content: Any) -> dict[str, Any]:
    return {"body": base64.b64encode(json.dumps(content).encode()).decode()}


contents = st.one_of(
    json_like,
    mutated([[], {"v": 1, "batch_id": "none", "chunk": 0}, {"chord": None, "callbacks": None}]),
    st.tuples(st.lists(json_like, max_size=2), st.dictionaries(any_text, json_like), json_like),
).map(_body)
foreign_messages = st.one_of(
    st.binary(min_size=1, max_size=60),
    json_like.map(lambda value: json.dumps(value).encode()),
    st.just(b"[" * 5000),
    damaged(st.sampled_from(OURS).map(lambda ours: json.dumps(ours).encode())),
    mutated(OURS[0]).map(lambda other: json.dumps(other).encode()),
    st.builds(
        lambda task, kwargs: json.dumps(message(task, kwargs)).encode(),
        st.sampled_from(["theirs.add", "celery.backend_cleanup", "celery.chord", "", 5, None, [1]]),
        json_like,
    ),
    st.builds(
        lambda ours, content: json.dumps({**ours, **content}).encode(),
        st.sampled_from(OURS),
        contents,
    ),
    st.builds(
        lambda ours, headers: json.dumps({**ours, "headers": headers}).encode(),
        st.sampled_from(OURS),
        mutated(OURS[0]["headers"]),
    ),
    st.builds(
        lambda ours, kind, encoding: json.dumps(
            {**ours, "content-type": kind, "content-encoding": encoding}
        ).encode(),
        st.sampled_from(OURS),
        st.sampled_from(
            ["application/x-python-serialize", "application/x-yaml", "text/plain", 3, ""]
        ),
        st.sampled_from(["utf-8", "binary", "rot13", None]),
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz-messages")


@pytest.fixture(scope="module")
def manager(folder: Path) -> Iterator[RewardManager]:
    with scripted_backend(folder, length={"method": "median_band"}) as (manager, _):
        yield manager


@pytest.fixture
def client(manager: RewardManager) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(str(manager.config.broker.url)) as client:
        yield client


def processes(client: redis.Redis) -> set[int]:
    """Return the process ids of the live workers."""
    return {entry["pid"] for found in live_workers.workers(client).values() for entry in found}


def logged(folder: Path) -> int:
    """Count what the workers have logged as errors."""
    return sum(
        len(_LOGGED.findall((folder / f"{queue}-1.log").read_text(errors="replace")))
        for queue in names.QUEUES
    )


def wait_logged(folder: Path, lines: int) -> None:
    """Wait until so many errors are logged: a message may be gone just before its line is there."""
    wait_until(lambda: logged(folder) >= lines, f"{lines} errors logged")


def idle(client: redis.Redis) -> bool:
    """Whether no message is queued or unacknowledged."""
    return not any(client.llen(queue) for queue in names.QUEUES) and not client.hlen("unacked")


def test_a_foreign_message_is_logged_once(
    manager: RewardManager, client: redis.Redis, folder: Path
) -> None:
    before = processes(client)
    raw: list[bytes] = []

    @fuzz
    @given(foreign_messages)
    def collect(one: bytes) -> None:
        raw.append(one)

    collect()
    for at in range(0, len(raw), _AT_ONCE):
        some = raw[at : at + _AT_ONCE]
        expected = logged(folder) + len(some)
        for i, one in enumerate(some):
            client.lpush(names.QUEUES[i % len(names.QUEUES)], one)
        wait_until(lambda: idle(client), "all messages taken", 120)
        wait_logged(folder, expected)
        assert processes(client) == before
        assert logged(folder) == expected, some
    batch = manager.submit([rollout("after", i) for i in range(8)]).result(timeout_s=60)
    assert batch.statuses == ["scored"] * 8
    for pid in before:
        os.kill(pid, 0)


@pytest.mark.parametrize("part", ["manifest", "columns", "chunk:0"])
@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"oyer1\n",
        b"oyer9\nx",
        pack(b"[]"),
        pack(b"{" * 3000),
        bomb(2**28 + 1),
    ],
    ids=["empty", "stamp", "newer", "other", "deep", "bomb"],
)
def test_a_payload_that_cannot_be_read_fails_its_batch_and_no_worker(
    manager: RewardManager, client: redis.Redis, part: str, blob: bytes
) -> None:
    before = processes(client)
    batch_id = str(uuid.uuid4())
    future = manager.submit([rollout(f"{part}-{len(blob)}")])
    good = future.result(timeout_s=60)
    assert good.statuses == ["scored"]
    client.set(batch_key(batch_id, part), blob, ex=600)
    client.lpush(
        "judge", json.dumps(message(names.JUDGE_TASK, {"v": 1, "batch_id": batch_id, "chunk": 0}))
    )
    wait_until(lambda: idle(client), "all messages taken", 120)
    assert processes(client) == before
