"""Any payload in Redis is decoded, or refused with `MessageRefused`."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.config.loading import validate
from oyer.config.plan import read_plan
from oyer.manager import InvalidInput, Rollout
from oyer.manager.backend.prepare import prepare
from oyer.manager.backend.results import read_result
from oyer.manager.batch import RewardBatch
from oyer.protocol import packing, token_ids
from oyer.protocol.batch import (
    Manifest,
    decode_columns,
    decode_manifest,
    encode_columns,
    encode_manifest,
)
from oyer.protocol.batch_result import BatchResult
from oyer.protocol.errors import BatchFailed, MessageRefused
from oyer.protocol.packing import pack, unpack
from oyer.protocol.partial_results import JudgeResult, LengthResult, check_results, read_results
from oyer.protocol.rollout import decode_rollouts
from oyer.tasks.rewards.compose import verdicts_of
from tests.fuzz.conftest import fuzz
from tests.manager.conftest import outcome_of
from tests.support.fuzz_values import bomb, damaged, json_like, mutated

CONFIG = validate(
    {
        "judges": [{"name": "q", "endpoint": "e", "model": "m"}],
        "length": {"method": "repetition"},
    }
)
ROWS = [
    Rollout(prompt=[{"role": "user", "content": "p"}], response=f"r{i}", token_ids=[i, 2])
    for i in range(3)
]
SUBMITTED = prepare(ROWS, CONFIG, run="r", step=1)
MANIFEST = encode_manifest(SUBMITTED.manifest)
COLUMNS = encode_columns(SUBMITTED.columns)
(CHUNK,) = SUBMITTED.chunks
(IDS,) = SUBMITTED.token_ids

JUDGED = JudgeResult(chunk=0, scores={"q": [8.0, None, 1.0]}, statuses={"q": ["scored"] * 3})
SHAPED = LengthResult(added={"repetition": np.zeros(3)}, kept=np.ones(3, dtype=bool))


def repacked(blob: bytes) -> st.SearchStrategy[bytes]:
    """A payload whose JSON says something else, well packed."""
    value = json.loads(unpack(blob))
    return mutated(value).map(lambda other: pack(json.dumps(other).encode()))


def blobs(*good: bytes) -> st.SearchStrategy[bytes]:
    """Payloads that are cut, damaged or of other content, and other bytes."""
    return st.one_of(
        damaged(st.sampled_from(good)),
        st.binary(max_size=60),
        st.binary(max_size=60).map(pack),
        json_like.map(lambda value: pack(json.dumps(value).encode())),
        st.sampled_from(good).flatmap(lambda blob: damaged(st.just(unpack(blob))).map(pack)),
    )


def refused(read: Callable[[], Any], *also: type[Exception]) -> Any:
    """Return what `read` returns, or None where it refuses."""
    try:
        return read()
    except (MessageRefused, *also):  # type: ignore[misc]  # mypy loses the types of `also`
        return None


@fuzz
@given(
    blobs(MANIFEST, COLUMNS, CHUNK) | st.sampled_from([MANIFEST, COLUMNS, CHUNK]).flatmap(repacked)
)
def test_a_payload_is_read_or_refused(blob: bytes) -> None:
    refused(lambda: decode_rollouts(blob))
    refused(lambda: decode_columns(blob))
    manifest = refused(lambda: decode_manifest(blob))
    if manifest is not None:
        assert isinstance(manifest, Manifest)
        refused(lambda: read_plan(manifest))


@fuzz
@given(st.lists(blobs(IDS) | st.just(IDS), max_size=3))
def test_token_ids_are_read_or_refused(packed: list[bytes]) -> None:
    ids = refused(lambda: token_ids.decode(packed))
    assert ids is None or ids.offsets[-1] == len(ids.ids)


_PARTS = [json.loads(json.dumps(part.to_wire())) for part in (JUDGED, SHAPED)]


@fuzz
@given(st.lists(st.sampled_from(_PARTS) | mutated(_PARTS[0]) | mutated(_PARTS[1]), max_size=4))
def test_parts_are_composed_or_refused(parts: list[Any]) -> None:
    manifest = SUBMITTED.manifest

    def read() -> None:
        arrived = read_results(parts)
        check_results(manifest, arrived.judges, arrived.length)
        verdicts = verdicts_of(arrived.judges, read_plan(manifest).judges)
        assert len(verdicts["q"].scores) == len(verdicts["q"].statuses) == 3

    refused(read, BatchFailed)


_OUTCOME = json.loads(json.dumps(outcome_of("b", 3).to_wire()))


@fuzz
@given(mutated(_OUTCOME) | json_like)
def test_an_outcome_is_read_or_refused(wire: Any) -> None:
    batch = refused(lambda: RewardBatch.of(BatchResult.from_wire(wire)))
    assert batch is None or len(batch.rewards) == len(batch.statuses) == len(batch.mask)


_RESULT = json.dumps({"status": "SUCCESS", "result": _OUTCOME, "task_id": "b"}).encode()


@fuzz
@given(st.just(_RESULT) | damaged(st.just(_RESULT)) | st.binary() | json_like.map(json.dumps))
def test_a_result_is_read_or_a_failure(blob: Any) -> None:
    meta = read_result(blob)
    assert isinstance(meta["status"], str)
    assert "result" in meta


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 2**16
    monkeypatch.setattr(packing, "MAX_PAYLOAD_BYTES", limit)
    assert unpack(pack(b" " * limit)) == b" " * limit
    with pytest.raises(MessageRefused, match=f"larger than {limit} bytes"):
        unpack(bomb(limit + 1))
    with pytest.raises(InvalidInput, match=f"{limit + 1} bytes, more than {limit}; submit it in"):
        pack(b" " * (limit + 1))
