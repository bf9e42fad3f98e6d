"""A judge's key is in its workers' environment and in its requests, and nowhere else."""

import logging
import traceback
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import redis

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import ACTIONS, Action, named
from oyer.manager import MissingScores, RewardManager
from oyer.models import Base
from oyer.protocol.packing import unpack
from tests.integration.conftest import KEY, QUERY_SECRET
from tests.integration.test_main_job import read
from tests.support.rollouts import rollouts_of

ECHO = f"You sent Authorization: Bearer {KEY} with ?sig={QUERY_SECRET}"

ECHOES = [
    *(
        named(
            name, body=action.body and action.body.replace('"message": "', f'"message": "{ECHO} ')
        )
        for name, action in ACTIONS.items()
        if name != "black_hole"
    ),
    Action(status=400, body=ECHO, content_type="text/plain"),
    Action(status=500, body=f'{{"detail": "{KEY}"}}', headers={"X-Echo": KEY}),
    Action(status=302, body="", headers={"Location": f"/elsewhere?sig={QUERY_SECRET}&key={KEY}"}),
    Action(body=f"<html>{ECHO}</html>", content_type="text/html"),
    Action(body=f'{{"error": {{"message": "{ECHO}", "code": "{KEY}"}}}}'),
    Action(text=ECHO),
    Action(text=f"{ECHO}\nFinal score: 7"),
    Action(message={"content": None, "refusal": ECHO}),
]
"""Every kind of failure, with the secrets echoed in the response where it has one."""


def test_the_key_reaches_the_endpoint_and_nothing_that_is_kept(
    judging_backend: RewardManager,
    manager_with: Callable[..., RewardManager],
    judge: JudgeServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    manager = manager_with({"reward": {"on_missing": "raise"}}, endpoint="signed", reasks=1)
    judge.set_plan(Action(text=ECHO, hold=True))
    future = manager.submit(rollouts_of("secret", 160), run="secret")
    judge.wait_until(lambda log: len(log) >= 32)
    in_flight = list(in_redis(str(judging_backend.config.broker.url)))
    judge.set_plan(lambda arrival: ECHOES[arrival.sequence % len(ECHOES)])
    judge.release()
    with pytest.raises(MissingScores) as raised:
        future.result(timeout_s=90)
    sent = sha256(f"Bearer {KEY}".encode()).hexdigest()
    assert sent in {arrival.authorization_sha256 for arrival in judge.requests}
    assert {arrival.path for arrival in judge.requests} >= {
        f"/v1/chat/completions?sig={QUERY_SECRET}"
    }
    places = {
        "exception": ["".join(traceback.format_exception(raised.value)), raised.value.batch],
        "redis, with calls in flight": in_flight,
        "redis": in_redis(str(judging_backend.config.broker.url)),
        "record": in_record(judging_backend),
        "worker logs": in_logs(judging_backend),
        "trainer's log": [caplog.text],
        "ticket": [future.ticket],
    }
    for place, texts in places.items():
        found = [text for text in map(str, texts) if KEY in text or QUERY_SECRET in text]
        assert not found, f"{place}: {found[0][:400]}"
    # The search works: the endpoints' texts are on record, without the secrets.
    assert any("You sent" in str(value) for value in in_record(judging_backend))
    assert any("[redacted]" in str(value) for value in in_record(judging_backend))


def in_redis(url: str) -> Iterator[str]:
    """Yield every key and value of any type; payloads are unpacked."""
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter(count=1000):
            yield repr(key)
            readers: dict[bytes, Callable[[bytes], Any]] = {
                b"string": lambda key: [client.get(key)],
                b"hash": lambda key: [x for pair in client.hgetall(key).items() for x in pair],
                b"list": lambda key: client.lrange(key, 0, -1),
                b"set": client.smembers,
                b"zset": lambda key: client.zrange(key, 0, -1),
                b"none": lambda key: [],  # it has expired meanwhile
            }
            values = readers[client.type(key)](key)
            for value in values:
                body = unpack(value) if value and value.startswith(b"oyer1\n") else value
                yield (body or b"").decode("utf-8", "replace")


def in_record(manager: RewardManager) -> Iterator[Any]:
    """Yield every value of every table."""
    for table in Base.metadata.tables:
        for row in read(manager, f"SELECT * FROM {table}"):
            yield from row.values()


def in_logs(manager: RewardManager) -> Iterator[str]:
    """Return the logs of the backend's processes."""
    folder = Path(manager.config.store.url.removeprefix("sqlite:///")).parent
    logs = list(folder.glob("*.log"))
    assert logs
    return (log.read_text(errors="replace") for log in logs)
