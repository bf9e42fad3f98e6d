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
def exchange(client: redis.Redis) -> BatchStore:
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


def post(exchange: BatchStore, batch_id: str = "b", **fields: Any) -> None:
    blobs = [encode_rollouts(chunk) for chunk in CHUNKS]
    exchange.post(manifest_of(batch_id, **fields), COLUMNS, blobs)


def test_what_was_posted_is_read(exchange: BatchStore) -> None:
    post(exchange)
    assert exchange.manifest("b") == manifest_of()
    assert exchange.columns("b") == COLUMNS
    assert [exchange.rollouts("b", chunk) for chunk in (0, 1)] == CHUNKS


def test_batches_do_not_touch_each_other(exchange: BatchStore) -> None:
    post(exchange, "b")
    post(exchange, "c")
    exchange.report("b", 0, 2)
    exchange.end("b", "cancelled", "by the trainer")
    exchange.discard(manifest_of("b"))
    assert exchange.manifest("c").batch_id == "c"
    assert exchange.judged("c") == 0
    assert exchange.ending("c") is None


def test_posting_again_replaces(exchange: BatchStore) -> None:
    post(exchange)
    post(exchange, submission=2)
    assert exchange.manifest("b").submission == 2


def test_everything_expires(exchange: BatchStore, client: redis.Redis) -> None:
    post(exchange)
    exchange.report("b", 0, 1)
    exchange.end("b", "cancelled", "by the trainer")
    keys = client.keys("*")
    assert isinstance(keys, list)
    assert len(keys) == 8
    for key in keys:
        left_s = client.ttl(key)
        assert isinstance(left_s, int)
        assert 0 < left_s <= EXPIRES_S


def test_what_is_gone_says_which_part_and_what_to_do(exchange: BatchStore) -> None:
    with pytest.raises(BatchFailed, match=r"batch b: its manifest is no longer in Redis; submit"):
        exchange.manifest("b")
    with pytest.raises(BatchFailed, match=r"its columns is"):
        exchange.columns("b")
    post(exchange)
    with pytest.raises(BatchFailed, match=r"its chunk:2 is"):
        exchange.rollouts("b", 2)


def test_what_is_not_ours_is_refused(exchange: BatchStore, client: redis.Redis) -> None:
    client.set(batch_key("b", "manifest"), b"pickle")
    with pytest.raises(MessageRefused):
        exchange.manifest("b")


def test_a_chunk_that_reports_twice_counts_once(exchange: BatchStore) -> None:
    assert exchange.judged("b") == 0
    exchange.report("b", 0, 1)
    exchange.report("b", 1, 1)
    exchange.report("b", 0, 2)
    exchange.report("b", 0, 2)
    assert exchange.judged("b") == 3


def test_a_batch_is_ended_until_it_is_reopened(exchange: BatchStore) -> None:
    assert exchange.ending("b") is None
    exchange.end("b", "cancelled", "by the trainer")
    exchange.end("b", "failed", "stood still")
    assert exchange.ending("b") == ("failed", "stood still")
    exchange.reopen("b")
    assert exchange.ending("b") is None


def test_what_is_under_way_is_listed_newest_first(exchange: BatchStore) -> None:
    assert exchange.under_way(5) == []
    for number in range(3):
        post(exchange, f"b{number}", submitted_at=float(number))
    exchange.discard(manifest_of("b1"))
    assert [manifest.batch_id for manifest in exchange.under_way(5)] == ["b2", "b0"]
    assert [manifest.batch_id for manifest in exchange.under_way(1)] == ["b2"]


def test_a_manifest_is_replaced_only_where_its_batch_still_is(
    exchange: BatchStore, client: redis.Redis
) -> None:
    exchange.replace_manifest(manifest_of("b", submission=2))
    assert not exchange.holds("b")
    post(exchange)
    client.expire(batch_key("b", "manifest"), 100)
    exchange.replace_manifest(manifest_of("b", submission=2))
    assert exchange.manifest("b").submission == 2
    assert client.ttl(batch_key("b", "manifest")) in range(1, 101)


def test_an_ended_batch_leaves_its_progress_only(exchange: BatchStore, client: redis.Redis) -> None:
    post(exchange)
    exchange.report("b", 0, 2)
    exchange.discard(manifest_of())
    assert client.keys("*") == [batch_key("b", "progress").encode()]
    assert exchange.judged("b") == 2
    exchange.discard(manifest_of())
