"""With `broker.signing`, workers and trainers accept only what a trusted key has signed."""

import base64
import json
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from celery.security.certificate import Certificate, FSCertStore
from celery.security.key import PrivateKey
from celery.security.serialization import SecureSerializer

from oyer.config.reward import SigningConfig
from oyer.demo.judge_server import JudgeServer
from oyer.manager import BatchFailed, InvalidConfig, RewardFuture, RewardManager
from oyer.protocol import names
from oyer.protocol.packing import WIRE_VERSION
from oyer.tasks.app import make_app
from oyer.tasks.worker.signing import CONTENT_TYPE
from tests.security.conftest import Marker, logs_in, raw_message
from tests.support.certificates import Identity, signer
from tests.support.rollouts import rollouts_of
from tests.support.waiting import wait_until

PASSPHRASE = "planted-passphrase-9Zt"


@dataclass(frozen=True)
class Signed:
    """A backend that signs."""

    manager: RewardManager
    redis: redis.Redis
    folder: Path
    foreign: Identity

    def push(self, queue: str, task: str, body: bytes, content_type: str) -> None:
        """Send a message with any body as Celery does."""
        self.redis.lpush(queue, raw_message(queue, task, body, content_type))

    def wait_taken(self) -> None:
        """Wait until no message is queued or unacknowledged."""
        wait_until(
            lambda: not any(self.redis.exists(key) for key in (*names.QUEUES, "unacked")),
            "no message is left",
        )


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("signed")


@pytest.fixture(scope="session")
def signing(folder: Path) -> dict[str, Any]:
    """A key with a passphrase, whose certificate is trusted."""
    mine = signer(folder, "cluster", PASSPHRASE)
    store = folder / "trusted"
    store.mkdir()
    shutil.copy(mine.cert, store)
    return {
        "key": str(mine.key),
        "cert": str(mine.cert),
        "cert_store": str(store),
        "key_password_env": "OYER_TEST_PASSPHRASE",
    }


@pytest.fixture(scope="session")
def signed(folder: Path, signing: dict[str, Any], session_judge: JudgeServer) -> Iterator[Signed]:
    config = {
        "endpoints": {"fake": {"base_url": session_judge.base_url}},
        "judges": [{"name": "q", "endpoint": "fake", "model": "m"}],
        "length": {"method": "median_band"},
        "broker": {"signing": signing},
        "store": {"url": f"sqlite:///{folder / 'oyer.db'}"},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OYER_TEST_PASSPHRASE", PASSPHRASE)
        with RewardManager.local(config, folder=folder, judge_processes=2) as manager:
            url = str(manager.config.broker.url)
            with redis.Redis.from_url(url) as client:
                yield Signed(manager, client, folder, signer(folder, "foreign"))


def test_a_batch_of_many_chunks_is_scored_through_a_signed_chord(
    signed: Signed, judge: JudgeServer
) -> None:
    batch = signed.manager.submit(rollouts_of("signed", 256)).result(timeout_s=60)
    assert batch.statuses == ["scored"] * 256
    assert len(judge.requests) == 256


def test_length_terms_that_follow_the_judges_are_signed_by_the_workers(signed: Signed) -> None:
    config = signed.manager.config.model_dump(mode="json")
    config["length"] = [{"method": "kimi_length_reward", "correct": "judge >= 6"}]
    batch = RewardManager(config).submit(rollouts_of("follows", 32)).result(timeout_s=60)
    assert batch.statuses == ["scored"] * 32


def test_what_is_sent_and_what_comes_back_is_signed(signed: Signed) -> None:
    future = signed.manager.submit(rollouts_of("result", 4))
    future.result(timeout_s=60)
    stored = signed.redis.get(f"celery-task-meta-{future.batch_id}")
    assert isinstance(stored, bytes)
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(stored)
    assert b"cluster" in base64.b64decode(base64.b64decode(stored).split(b"\0\1")[0])


def test_a_ticket_reopens_a_signed_batch(signed: Signed) -> None:
    future = signed.manager.submit(rollouts_of("ticket", 4))
    again = RewardFuture.from_ticket(future.ticket)
    assert again.result(timeout_s=60).statuses == ["scored"] * 4
    assert PASSPHRASE not in str(base64.urlsafe_b64decode(future.ticket.partition(".")[2]))


def _arguments(batch_id: str) -> bytes:
    return json.dumps([[], {"v": WIRE_VERSION, "batch_id": batch_id, "chunk": 0}, {}]).encode()


def _sealed(identity: Identity, body: object, serializer: str = "json") -> bytes:
    sealed: Any = SecureSerializer(
        PrivateKey(identity.key.read_text()),
        Certificate(identity.cert.read_text()),
        FSCertStore(str(identity.cert)),
        "sha256",
        serializer,
    ).serialize(body)
    return str(sealed).encode()


@pytest.mark.parametrize("queue", ["judge", "combine"])
def test_unsigned_messages_and_foreign_signatures_are_refused_and_the_worker_lives(
    signed: Signed, judge: JudgeServer, queue: str
) -> None:
    task = {"judge": names.JUDGE_TASK, "combine": names.COMBINE_TASK}[queue]
    before = signed.manager.submit(rollouts_of(f"before {queue}", 4))
    before.result(timeout_s=60)
    thrown_away = logs_in(signed.folder).count("was thrown away")
    judge.reset()
    marker = signed.folder / f"unpickled-{queue}"
    arguments = json.loads(_arguments(before.batch_id))
    strangers = {
        "application/json": _arguments(before.batch_id),
        "application/x-python-serialize": pickle.dumps([[Marker(marker)], {}, {}]),
        "application/x-yaml": b"!!python/object/apply:os.mkdir [" + str(marker).encode() + b"]",
        CONTENT_TYPE: _sealed(signed.foreign, arguments),
    }
    for content_type, body in strangers.items():
        signed.push(queue, task, body, content_type)
    signed.wait_taken()
    after = signed.manager.submit(rollouts_of(f"after {queue}", 8)).result(timeout_s=60)
    assert after.statuses == ["scored"] * 8
    assert len(judge.requests) == 8
    assert not marker.exists()
    logged = logs_in(signed.folder)
    assert logged.count("was thrown away") == thrown_away + len(strangers)
    assert "Warm shutdown" not in logged


def test_a_result_without_a_trusted_signature_is_not_a_reward(
    signed: Signed, judge: JudgeServer
) -> None:
    judge.set_plan({"default": {"text": "Final score: 8", "hold": True}})
    future = signed.manager.submit(rollouts_of("forged", 4))
    judge.wait_until(lambda log: len(log) == 4)
    forged = {"status": "SUCCESS", "result": {"rewards": [99.0] * 4}, "task_id": future.batch_id}
    signed.redis.set(f"celery-task-meta-{future.batch_id}", json.dumps(forged))
    with pytest.raises(BatchFailed, match=r"is not signed by a key of broker\.signing"):
        future.result(timeout_s=60)
    judge.release()


def test_the_passphrase_is_in_no_log_and_in_no_key(signed: Signed) -> None:
    assert PASSPHRASE not in logs_in(signed.folder)
    assert PASSPHRASE not in (signed.folder / "oyer.json").read_text()
    for key in signed.redis.scan_iter():
        assert PASSPHRASE.encode() not in key


def test_a_manager_without_the_key_cannot_have_anything_run(
    signed: Signed, judge: JudgeServer
) -> None:
    config = signed.manager.config.model_dump(mode="json")
    config["broker"]["signing"] = None
    future = RewardManager(config).submit(rollouts_of("unsigned", 4))
    signed.wait_taken()
    assert not future.done()
    assert judge.requests == []
    future.cancel()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"key": "/nowhere/a.key"}, r"broker\.signing: cannot be used: .*a\.key"),
        ({"key_password_env": "OYER_NOT_SET"}, "OYER_NOT_SET is not set; export"),
        ({"key_password_env": None}, r"broker\.signing: cannot be used"),
        ({"cert_store": "/nowhere"}, "does not hold the certificate of `key`"),
        ({"digest": "sha512"}, "signs with another key already"),
    ],
)
def test_a_signing_that_cannot_work_is_refused_at_the_start_with_the_fix(
    signing: dict[str, Any],
    changed: dict[str, Any],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OYER_TEST_PASSPHRASE", PASSPHRASE)
    monkeypatch.setattr("oyer.tasks.worker.signing._registered", [])
    url = "redis://127.0.0.1:9/0"
    make_app(url, signing=SigningConfig.model_validate(signing))
    if "digest" not in changed:
        monkeypatch.setattr("oyer.tasks.worker.signing._registered", [])
    with pytest.raises(InvalidConfig, match=reason) as raised:
        make_app(url, signing=SigningConfig.model_validate({**signing, **changed}))
    assert PASSPHRASE not in str(raised.value)
    monkeypatch.undo()
