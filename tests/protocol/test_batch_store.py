"""A batch's payloads in a real Redis."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from oyer.protocol.batch import Columns, Manifest, Submission
from oyer.protocol.batch_store import BatchStore
from oyer.protocol.errors import BatchFailed, MessageRefused
from oyer.protocol.names import batch_key
from oyer.protocol.rollout import Rollout, encode_rollouts

EXPIRES_S = 900


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def batches(client: redis.Redis) -> BatchStore:
    return BatchStore(client, expires_s=EXPIRES_S)


def manifest_of(batch_id: str = "b", submission: int = 1, submitted_at: float = 1.0) -> Manifest:
    return Manifest(
        batch_id=batch_id,
        run="r",
        step=None,
        submitted_at=submitted_at,
        deadline=2.0,
        sendings=[Submission(at=float(n), host="h:1", why="submit") for n in range(submission)],
        plan={},
        chunks=[(0, 2), (2, 1)],
    )


COLUMNS = Columns(
    group_ids=["g"] * 3,
    base_score=[1.0, 0.5, None],
    correct=[None] * 3,
    truncated=[False] * 3,
    response_tokens=[1, 2, 3],
)
CHUNKS = [[Rollout(prompt="p", response=f"r{i}") for i in rows] for rows in ((0, 1), (2,))]


def post(batches: BatchStore, batch_id: str = "b", **fields: Any) -> None:
    blobs = [encode_rollouts(chunk) for chunk in CHUNKS]
    batches.post(manifest_of(batch_id, **fields), COLUMNS, blobs)


def test_a_posted_batch_is_read_back(batches: BatchStore) -> None:
    post(batches)
    assert batches.manifest("b") == manifest_of()
    assert batches.columns("b") == COLUMNS
    assert [batches.rollouts("b", chunk) for chunk in (0, 1)] == CHUNKS


def test_batches_are_independent(batches: BatchStore) -> None:
    post(batches, "b")
    post(batches, "c")
    batches.report("b", 0, 2)
    batches.end("b", "cancelled", "by the trainer")
    batches.discard(manifest_of("b"))
    assert batches.manifest("c").batch_id == "c"
    assert batches.judged("c") == 0
    assert batches.ending("c") is None


def test_a_second_post_replaces_the_first(batches: BatchStore) -> None:
    post(batches)
    post(batches, submission=2)
    assert batches.manifest("b").submission == 2


def test_everything_expires(batches: BatchStore, client: redis.Redis) -> None:
    post(batches)
    batches.report("b", 0, 1)
    batches.end("b", "cancelled", "by the trainer")
    keys = client.keys("*")
    assert isinstance(keys, list)
    assert len(keys) == 8
    for key in keys:
        left_s = client.ttl(key)
        assert isinstance(left_s, int)
        assert 0 < left_s <= EXPIRES_S


def test_a_missing_payload_error_names_the_payload_and_the_fix(batches: BatchStore) -> None:
    with pytest.raises(BatchFailed, match=r"batch b: its manifest is no longer in Redis; submit"):
        batches.manifest("b")
    with pytest.raises(BatchFailed, match=r"its columns is"):
        batches.columns("b")
    post(batches)
    with pytest.raises(BatchFailed, match=r"its chunk:2 is"):
        batches.rollouts("b", 2)


def test_foreign_payloads_are_refused(batches: BatchStore, client: redis.Redis) -> None:
    client.set(batch_key("b", "manifest"), b"pickle")
    with pytest.raises(MessageRefused):
        batches.manifest("b")


def test_progress_reports_are_idempotent(batches: BatchStore) -> None:
    assert batches.judged("b") == 0
    batches.report("b", 0, 1)
    batches.report("b", 1, 1)
    batches.report("b", 0, 2)
    batches.report("b", 0, 2)
    assert batches.judged("b") == 3


def test_an_ending_lasts_until_the_batch_is_reopened(batches: BatchStore) -> None:
    assert batches.ending("b") is None
    batches.end("b", "cancelled", "by the trainer")
    batches.end("b", "failed", "stood still")
    assert batches.ending("b") == ("failed", "stood still")
    batches.reopen("b")
    assert batches.ending("b") is None


def test_batches_in_flight_are_listed_newest_first(batches: BatchStore) -> None:
    assert batches.under_way(5) == []
    for number in range(3):
        post(batches, f"b{number}", submitted_at=float(number))
    batches.discard(manifest_of("b1"))
    assert [manifest.batch_id for manifest in batches.under_way(5)] == ["b2", "b0"]
    assert [manifest.batch_id for manifest in batches.under_way(1)] == ["b2"]


def test_a_manifest_is_replaced_only_if_its_batch_exists(
    batches: BatchStore, client: redis.Redis
) -> None:
    batches.replace_manifest(manifest_of("b", submission=2))
    assert not batches.holds("b")
    post(batches)
    client.expire(batch_key("b", "manifest"), 100)
    batches.replace_manifest(manifest_of("b", submission=2))
    assert batches.manifest("b").submission == 2
    assert client.ttl(batch_key("b", "manifest")) in range(1, 101)


def test_a_discarded_batch_keeps_only_its_progress(
    batches: BatchStore, client: redis.Redis
) -> None:
    post(batches)
    batches.report("b", 0, 2)
    batches.discard(manifest_of())
    assert client.keys("*") == [batch_key("b", "progress").encode()]
    assert batches.judged("b") == 2
    batches.discard(manifest_of())
