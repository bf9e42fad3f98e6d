"""The pay-once cache: keys, what is admitted, and what cannot be read."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from redis import Redis

from oyer.protocol.errors import InvalidInput
from oyer.protocol.packing import pack
from oyer.protocol.redis_client import connect
from oyer.tasks.coordination.reply_cache import CachedReply, ReplyCache, reply_key, request_key
from tests.support import services

REQUEST: dict[str, Any] = {
    "endpoint": "deepseek",
    "model": "deepseek-v3",
    "messages": [{"role": "user", "content": "最终评分"}],
    "sampling": {"temperature": 0.0, "max_tokens": 1024},
    "rubric_hash": "abc",
    "sample": 0,
}
REPLY: dict[str, Any] = {
    "text": "理由 🙂\n最终评分：8",
    "finish_reason": "stop",
    "model": "deepseek-v3-0324",
    "usage": {"prompt_tokens": 812, "completion_tokens": 64},
    "at_s": 1.75e9,
}
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url) as opened:
        yield opened


@pytest.mark.parametrize(
    "changed",
    [
        {"endpoint": "other"},
        {"model": "deepseek-v3-0324"},
        {"messages": [{"role": "system", "content": "最终评分"}]},
        {"messages": [{"role": "user", "content": "最终评分 "}]},
        {"messages": [{"role": "user", "content": "最终評分"}]},
        {"messages": [{"role": "user", "content": "\ud83d"}]},
        {"sampling": {"temperature": 0.1, "max_tokens": 1024}},
        {"sampling": {"temperature": 0.0}},
        {"rubric_hash": "abd"},
        {"sample": 1},
    ],
)
def test_whatever_the_reply_depends_on_makes_another_key(changed: dict[str, Any]) -> None:
    assert request_key(**REQUEST) != request_key(**REQUEST | changed)


def test_composed_and_decomposed_characters_are_different_texts() -> None:
    composed, decomposed = ([{"role": "user", "content": text}] for text in ("é", "e\u0301"))
    keys = {request_key(**REQUEST | {"messages": m}) for m in (composed, decomposed)}
    assert len(keys) == 2


def test_the_order_of_keys_and_the_spelling_of_a_number_make_no_difference() -> None:
    sampling = {"max_tokens": 1024.0, "temperature": -0.0}
    messages = ({"content": "最终评分", "role": "user"},)
    assert request_key(**REQUEST | {"sampling": sampling, "messages": messages}) == request_key(
        **REQUEST
    )


def test_the_key_of_a_request_never_changes_by_accident() -> None:
    assert (
        request_key(**REQUEST) == "a762741168de596dd5a106c4ca761069030e6a9c205d9e16f500be63b9f13db9"
    )


@given(JSON_VALUES, JSON_VALUES)
def test_keys_are_equal_exactly_when_the_values_are(one: Any, other: Any) -> None:
    keys = [request_key(**REQUEST | {"sampling": {"x": value}}) for value in (one, other)]
    # `==` takes True for 1, which JSON does not.
    texts = [json.dumps(_plain(value), sort_keys=True) for value in (one, other)]
    assert (keys[0] == keys[1]) == (texts[0] == texts[1])


def _plain(value: Any) -> Any:
    match value:
        case float() if value == int(value):
            return int(value)
        case list():
            return [_plain(item) for item in value]
        case dict():
            return {key: _plain(item) for key, item in value.items()}
    return value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x"])
def test_what_is_no_json_has_no_key(value: Any) -> None:
    with pytest.raises(InvalidInput, match="finite numbers"):
        request_key(**REQUEST | {"sampling": {"x": value}})


def test_a_reply_comes_back_as_it_was_kept(client: Redis) -> None:
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
def test_an_incomplete_reply_cannot_be_kept(changed: dict[str, Any]) -> None:
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
def test_what_cannot_be_read_is_a_miss_and_is_deleted(client: Redis, blob: bytes) -> None:
    cache = ReplyCache(client, ttl_s=60)
    cache.keep("good", CachedReply(**REPLY))
    client.set(reply_key("bad"), blob)
    assert cache.get_many(["bad", "good"]).keys() == {"good"}
    assert not client.exists(reply_key("bad"))


def test_without_redis_everything_is_a_miss_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with connect(f"redis://127.0.0.1:{services.free_port()}/0") as nowhere:
        cache = ReplyCache(nowhere, ttl_s=60)
        for _ in range(3):
            cache.keep("k", CachedReply(**REPLY))
            assert cache.get_many(["k"]) == {}
    assert caplog.text.count("Redis cannot be reached") == 1
