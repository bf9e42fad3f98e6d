"""The reply cache: what it accepts, and replies that cannot be read."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError
from redis import Redis

from oyer.protocol.packing import pack
from oyer.protocol.redis_client import connect
from oyer.tasks.coordination.reply_cache import CachedReply, ReplyCache, reply_key
from tests.support import services

REPLY: dict[str, Any] = {
    "text": "理由 🙂\n最终评分：8",
    "finish_reason": "stop",
    "model": "deepseek-v3-0324",
    "usage": {"prompt_tokens": 812, "completion_tokens": 64},
    "at_s": 1.75e9,
}


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url) as opened:
        yield opened


def test_a_cached_reply_is_returned_unchanged(client: Redis) -> None:
    cache, reply = ReplyCache(client, ttl_s=60), CachedReply(**REPLY)
    cache.keep("k", reply)
    assert cache.get_many(["none", "k"]) == {"k": reply}
    assert 0 < client.pttl(reply_key("k")) <= 60_000
    assert cache.get_many([]) == {}


def test_a_dropped_reply_is_a_miss(client: Redis) -> None:
    cache = ReplyCache(client, ttl_s=60)
    for key in ("a", "b", "c"):
        cache.keep(key, CachedReply(**REPLY))
    cache.drop(["a", "c"])
    assert cache.get_many(["a", "b", "c"]).keys() == {"b"}


@pytest.mark.parametrize(
    "changed", [{"finish_reason": "length"}, {"finish_reason": "content_filter"}, {"text": ""}]
)
def test_an_incomplete_reply_does_not_validate(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CachedReply(**REPLY | changed)


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"garbage",
        b"oyer99\n" + pack(b"{}").partition(b"\n")[2],
        pack(b"{}")[:-3],
        pack(b"not json"),
        pack(json.dumps(REPLY | {"finish_reason": "length"}).encode()),
        pack(json.dumps({"text": "最终评分：8"}).encode()),
    ],
)
def test_an_unreadable_entry_is_a_miss_and_is_deleted(client: Redis, blob: bytes) -> None:
    cache = ReplyCache(client, ttl_s=60)
    cache.keep("good", CachedReply(**REPLY))
    client.set(reply_key("bad"), blob)
    assert cache.get_many(["bad", "good"]).keys() == {"good"}
    assert not client.exists(reply_key("bad"))


def test_without_redis_every_lookup_is_a_miss_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with connect(f"redis://127.0.0.1:{services.free_port()}/0") as nowhere:
        cache = ReplyCache(nowhere, ttl_s=60)
        for _ in range(3):
            cache.keep("k", CachedReply(**REPLY))
            assert cache.get_many(["k"]) == {}
    assert caplog.text.count("Redis cannot be reached") == 1
