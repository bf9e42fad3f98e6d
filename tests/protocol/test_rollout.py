"""Payloads survive encoding or are refused; they are never misread."""

import math
import os
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.protocol import packing
from oyer.protocol.batch import (
    Columns,
    Manifest,
    Submission,
    decode_columns,
    decode_manifest,
    encode_columns,
    encode_manifest,
)
from oyer.protocol.errors import MessageRefused
from oyer.protocol.packing import pack, unpack
from oyer.protocol.rollout import Rollout, decode_rollouts, encode_rollouts

FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.text(), "content": JSON}), max_size=3)
ROLLOUTS = st.builds(
    Rollout,
    prompt=st.text() | MESSAGES,
    response=st.text(),
    group_id=st.none() | st.text(),
    base_score=st.none() | FINITE,
    response_tokens=st.none() | st.integers(0, 2**31),
    token_ids=st.none() | st.lists(st.integers(0, 2**20)),
    correct=st.none() | st.booleans(),
    truncated=st.booleans(),
    reference=st.none() | st.text(),
    metadata=st.dictionaries(st.text(), JSON, max_size=3),
)
MANIFEST = Manifest(
    batch_id="b",
    run="r",
    step=3,
    submitted_at=1_760_000_000.123456,
    deadline=1_760_003_600.123456,
    sendings=[
        Submission(at=1_760_000_000.123456, host="trainer:7", why="submit"),
        Submission(at=1_760_000_090.5, host="trainer:7", why="made no progress for 90 s"),
    ],
    plan={"judges": [{"name": "q"}], "tokenizer": None},
    chunks=[(0, 4), (4, 2)],
)
COLUMNS = Columns(
    group_ids=["g", None],
    base_score=[0.1 + 0.2, None],
    correct=[True, None],
    truncated=[False, True],
    response_tokens=[3, None],
)
DECODERS: list[Any] = [decode_rollouts, decode_manifest, decode_columns]


@given(st.lists(ROLLOUTS, max_size=4))
def test_rollouts_survive_encoding(rollouts: list[Rollout]) -> None:
    assert decode_rollouts(encode_rollouts(rollouts)) == rollouts


def test_manifest_and_columns_survive_encoding() -> None:
    assert decode_manifest(encode_manifest(MANIFEST)) == MANIFEST
    assert decode_columns(encode_columns(COLUMNS)) == COLUMNS
    assert MANIFEST.size == 6
    assert MANIFEST.submission == 2


def test_a_resubmission_names_sender_and_reason() -> None:
    again = MANIFEST.again("is no longer in Redis")
    assert again.submission == 3
    assert again.sendings[:2] == MANIFEST.sendings
    assert again.sendings[2].why == "is no longer in Redis"
    assert again.sendings[2].host == f"{socket.gethostname()}:{os.getpid()}"


@given(st.binary())
def test_bytes_survive_packing(body: bytes) -> None:
    assert unpack(pack(body)) == body


@pytest.mark.parametrize("stamp", [b"oyer2\n", b"oyer0\n", b"oyer10\n", b"oyer\n", b"\n", b""])
def test_another_version_is_refused_by_name(stamp: bytes) -> None:
    blob = stamp + pack(b"{}").partition(b"\n")[2]
    with pytest.raises(MessageRefused, match=r"this worker reads version 1: upgrade the older"):
        unpack(blob)


def test_a_newer_version_refuses_payloads_of_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    blob = encode_rollouts([])
    monkeypatch.setattr(packing, "WIRE_VERSION", 2)
    with pytest.raises(MessageRefused, match=r"payload stamped b'oyer1'"):
        decode_rollouts(blob)


@pytest.mark.parametrize("decode", DECODERS)
@given(st.binary(max_size=60))
def test_foreign_bytes_are_refused(decode: Any, blob: bytes) -> None:
    for bytes_ in (blob, b"oyer1\n" + blob, pack(blob)):
        with pytest.raises(MessageRefused):
            decode(bytes_)


@given(st.data())
def test_a_truncated_or_altered_payload_is_refused_or_equal(data: st.DataObject) -> None:
    rollouts = [Rollout(prompt="p" * 200, response="r" * 200)]
    blob = encode_rollouts(rollouts)
    end = data.draw(st.integers(0, len(blob) - 1))
    with pytest.raises(MessageRefused):
        decode_rollouts(blob[:end])
    with pytest.raises(MessageRefused):
        decode_rollouts(blob + b"x")


def test_a_payload_of_another_type_is_refused() -> None:
    with pytest.raises(MessageRefused, match=r"manifest payload cannot be read"):
        decode_manifest(encode_rollouts([]))
    with pytest.raises(MessageRefused, match=r"columns payload cannot be read"):
        decode_columns(encode_manifest(MANIFEST))


def test_an_error_does_not_contain_the_users_text() -> None:
    blob = pack(b'[{"prompt": "secret prompt", "response": {"secret": 1}}]')
    with pytest.raises(
        MessageRefused, match=r"0\.response\.str Input should be a valid string"
    ) as caught:
        decode_rollouts(blob)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_repetitive_text_is_compressed() -> None:
    assert len(encode_rollouts([Rollout(prompt="ab" * 5000, response="cd" * 5000)])) < 1000


def test_nan_and_infinity_are_not_decoded_as_numbers() -> None:
    blob = encode_columns(
        Columns(
            group_ids=[None],
            base_score=[math.nan],
            correct=[None],
            truncated=[False],
            response_tokens=[None],
        )
    )
    assert decode_columns(blob).base_score == [None]
