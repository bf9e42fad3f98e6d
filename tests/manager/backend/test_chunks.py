"""How a batch is cut into judge tasks."""

import json
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.manager.backend.chunks import (
    MAX_CHUNK_BYTES,
    MAX_CHUNK_ROLLOUTS,
    MAX_GROUP_BYTES,
    MAX_GROUP_ROLLOUTS,
    bytes_of,
    chunk_sizes,
    split_groups,
)
from oyer.protocol.rollout import Rollout

BATCHES = {
    "sizes": st.lists(st.integers(0, 2 * MAX_CHUNK_BYTES), max_size=300),
    "in_flight": st.integers(1, 100_000),
    "calls": st.integers(0, 64),
}


@given(**BATCHES)
def test_chunks_add_up_to_the_batch(sizes: list[int], in_flight: int, calls: int) -> None:
    chunks = chunk_sizes(sizes, in_flight=in_flight, calls=calls)
    assert sum(chunks) == len(sizes)
    assert all(1 <= count <= MAX_CHUNK_ROLLOUTS for count in chunks)


@given(**BATCHES)
def test_only_a_single_rollout_makes_a_chunk_too_large(
    sizes: list[int], in_flight: int, calls: int
) -> None:
    start = 0
    for count in chunk_sizes(sizes, in_flight=in_flight, calls=calls):
        assert count == 1 or sum(sizes[start : start + count]) <= MAX_CHUNK_BYTES
        start += count


def test_large_texts_make_chunks_of_fewer_rollouts() -> None:
    third = MAX_CHUNK_BYTES // 3
    assert chunk_sizes([third] * 7, in_flight=1000, calls=1) == [3, 3, 1]


def test_a_batch_fills_every_process_with_several_chunks() -> None:
    assert chunk_sizes([4000] * 1024, in_flight=128, calls=1) == [32] * 32
    assert chunk_sizes([4000] * 2048, in_flight=512, calls=1) == [64] * 32


def test_more_calls_for_a_rollout_make_smaller_chunks() -> None:
    assert chunk_sizes([10] * 64, in_flight=512, calls=1) == [32, 32]
    assert chunk_sizes([10] * 64, in_flight=512, calls=4) == [8] * 8


def test_a_small_batch_is_not_cut_to_single_rollouts() -> None:
    assert chunk_sizes([10] * 8, in_flight=1, calls=8) == [4, 4]


def test_the_number_of_chunks_of_a_huge_batch_grows_with_the_batch_only() -> None:
    assert len(chunk_sizes([10] * 100_000, in_flight=64, calls=1)) == 1563


def test_bytes_are_utf8_and_include_every_text_and_metadata() -> None:
    messages = [{"role": "user", "content": "你好"}]
    rollout = Rollout(prompt="你好", response="好", reference="é", metadata={"k": "ü"})
    assert bytes_of(rollout) == 6 + 3 + 2 + len(b'{"k": "xx"}')
    assert bytes_of(Rollout(prompt="", response="")) == 0
    chat = Rollout(prompt=messages, response="")
    assert bytes_of(chat) == len(json.dumps(messages, ensure_ascii=False).encode())


def test_a_group_that_fits_stays_in_one_chunk() -> None:
    group_ids = [f"g{i // 6}" for i in range(60)]
    counts = chunk_sizes([10] * 60, in_flight=64, calls=1, group_ids=group_ids)
    assert sum(counts) == 60
    assert all(count % 6 == 0 for count in counts)
    spans = list(zip(accumulate(counts, initial=0), counts, strict=False))
    assert split_groups(group_ids, spans) == []


@pytest.mark.parametrize(
    ("size", "bytes_each"),
    [(MAX_GROUP_ROLLOUTS, 10), (16, MAX_GROUP_BYTES // 16), (1, 2 * MAX_GROUP_BYTES)],
)
def test_a_group_larger_than_a_chunk_is_one_chunk(size: int, bytes_each: int) -> None:
    group_ids = ["small", *["large"] * size, None, None]
    sizes = [10, *[bytes_each] * size, 10, 10]
    counts = chunk_sizes(sizes, in_flight=64, calls=1, group_ids=group_ids)
    assert counts == [1, size, 2]


@pytest.mark.parametrize(
    ("size", "bytes_each"), [(MAX_GROUP_ROLLOUTS + 1, 10), (16, MAX_GROUP_BYTES // 15)]
)
def test_a_group_too_large_for_a_task_is_split_and_reported(size: int, bytes_each: int) -> None:
    group_ids = ["small", *["large"] * size, None, None]
    sizes = [10, *[bytes_each] * size, 10, 10]
    counts = chunk_sizes(sizes, in_flight=64, calls=1, group_ids=group_ids)
    assert max(counts) <= MAX_CHUNK_ROLLOUTS
    spans = list(zip(accumulate(counts, initial=0), counts, strict=False))
    assert split_groups(group_ids, spans) == ["large"]


def test_a_group_with_rollouts_in_several_chunks_is_reported() -> None:
    assert split_groups(["a", "b", "a", "b"], [(0, 3), (3, 1)]) == ["b"]
