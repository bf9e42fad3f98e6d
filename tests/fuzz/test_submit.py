"""Any input of `submit` is refused with an error that names the field, or can be decoded by a worker."""

import re
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import event, given
from hypothesis import strategies as st

from oyer.config.loading import validate
from oyer.manager import InvalidInput, Rollout, validation
from oyer.manager.backend.prepare import plain, prepare
from oyer.manager.client import check_place
from oyer.manager.streaming.identity import rollout_name
from oyer.protocol import token_ids
from oyer.protocol.batch import decode_columns, decode_manifest, encode_columns, encode_manifest
from oyer.protocol.rollout import decode_rollouts
from tests.fuzz.conftest import fuzz
from tests.support.fuzz_values import anything, json_like, mostly

JUDGE = {"name": "q", "endpoint": "e", "model": "m"}
CONFIGS = [
    validate({"judges": [JUDGE], **keys})
    for keys in (
        {},
        {"length": {"method": "median_band"}},
        {"length": {"method": "repetition"}},
        {"length": {"method": "hapo"}, "max_rollout_bytes": 4096},
        {"length": {"method": "gr3"}},
        {"reward": {"on_missing": "group_mean", "zero_unless": "correct"}},
    )
]

_FIELD = re.compile(
    r"rollouts: |run: |step: |rollouts\[\d+\]: is of type |rollouts\[\d+\]\.(prompt|response|group_id"
    r"|base_score|response_tokens|token_ids|correct|truncated|reference|metadata)\b"
)
_SHOWN = 600
"""An error message of at most so many characters can be read."""

messages = st.lists(
    mostly(
        st.fixed_dictionaries(
            {"role": st.just("user"), "content": mostly(st.text(max_size=9), json_like)}
        ),
    ),
    max_size=3,
)
GOOD = {
    "prompt": st.one_of(st.text(max_size=20), messages),
    "response": st.text(max_size=20),
    "group_id": st.one_of(st.text(min_size=1, max_size=3), st.integers(-9, 2**40)),
    "base_score": st.one_of(st.floats(0, 1), st.sampled_from([np.float32(0.1), Fraction(1, 3)])),
    "response_tokens": st.integers(0, 1000),
    "token_ids": st.lists(st.integers(0, 99), max_size=5),
    "correct": st.one_of(st.booleans(), st.just(np.bool_(True))),
    "truncated": st.booleans(),
    "reference": st.one_of(st.none(), st.text(max_size=5)),
    "metadata": st.dictionaries(st.text(max_size=3), st.one_of(st.none(), st.text()), max_size=2),
}


@st.composite
def rollouts(draw: Any) -> Rollout:
    """A rollout of which at most two fields are anything at all."""
    fields = {name: draw(good) for name, good in GOOD.items()}
    for name in draw(st.lists(st.sampled_from(sorted(GOOD)), max_size=2)):
        fields[name] = draw(anything)
    for key in draw(st.lists(st.sampled_from(["history_lengths", "deep", "odd"]), max_size=1)):
        if isinstance(fields["metadata"], dict):
            fields["metadata"] = {**fields["metadata"], key: draw(anything)}
    return Rollout(**fields)


batches = mostly(st.lists(mostly(rollouts()), min_size=1, max_size=3))
places = st.tuples(
    mostly(st.text(min_size=1, max_size=9)), mostly(st.one_of(st.none(), st.integers(0, 9)))
)


@fuzz
@given(batches, places, st.sampled_from(CONFIGS))
def test_a_batch_is_refused_by_name_or_reaches_the_workers_as_it_was(
    batch: Any, place: tuple[Any, Any], config: Any
) -> None:
    run, step = place
    try:
        check_place(run, step)
        validation.check(batch, config)
        refused = ""
    except InvalidInput as error:
        refused = str(error)
    if refused:
        event(re.sub(r"\d+|is .*", "", refused)[:60])
        assert _FIELD.match(refused), refused[:200]
        assert len(refused) < _SHOWN
        return
    event("accepted")
    submission = prepare(batch, config, run=run, step=step)
    manifest = decode_manifest(encode_manifest(submission.manifest))
    assert manifest == submission.manifest
    assert decode_columns(encode_columns(submission.columns)).truncated == [
        bool(row.truncated) for row in batch
    ]
    rows = [row for blob in submission.chunks for row in decode_rollouts(blob)]
    assert [row.response for row in rows] == [row.response for row in batch]
    if submission.token_ids:
        ids = token_ids.decode(submission.token_ids)
        assert ids.lengths.tolist() == [len(row.token_ids) for row in batch]
    for row in batch:
        rollout_name(plain(row), "run", None)
