"""What a length method needs of a rollout is refused at submit with the row, the field and the fix."""

from typing import Any

import numpy as np
import pytest

from oyer.config.loading import validate
from oyer.config.reward import RewardConfig
from oyer.manager.backend.prepare import PreparedBatch, prepare
from oyer.manager.validation import check
from oyer.protocol import token_ids
from oyer.protocol.errors import InvalidRollout
from oyer.protocol.rollout import Rollout

JUDGE = {"name": "q", "endpoint": "e", "model": "m"}


def config(*length: dict[str, Any], **keys: Any) -> RewardConfig:
    return validate({"judges": [JUDGE], "length": list(length), **keys})


def rollout(**fields: Any) -> Rollout:
    return Rollout(**{"prompt": "p", "response": "r", **fields})


BAND, JET = {"method": "median_band"}, {"method": "jet"}
BY_TARGET = {"method": "lcpo_exact", "columns": {"target_lengths": "metadata.t"}}
DENSE = {"method": "repetition", "unit": "token_ids"}
THINK = {"method": "soft_overlong", "part": "think"}
BY_IDS = {**THINK, "think": {"close_ids": [9]}}
GROUP = {"group_id": "g", "response_tokens": 3}


@pytest.mark.parametrize(
    ("item", "fields", "message"),
    [
        (BAND, {"response_tokens": 3}, "group_id: is missing; length method median_band"),
        (BAND, {"group_id": "g"}, "response_tokens: is missing; give the count"),
        (JET, GROUP, "correct: is missing; length method jet needs it, or a base_score"),
        ({**JET, "correct": "base_score > 0"}, GROUP, "base_score: is missing; length method jet"),
        ({"method": "gr3"}, GROUP, "base_score: is missing; length method gr3 uses it"),
        ({"method": "gr3"}, {**GROUP, "base_score": -1}, "base_score: is -1; length method gr3"),
        ({"method": "effort_shaping"}, GROUP, "base_score: is missing"),
        (BY_TARGET, {"response_tokens": 3}, "metadata['t']: is missing; length method lcpo_exact"),
        (BY_TARGET, {"response_tokens": 3, "metadata": {"t": 1.5}}, "metadata['t']: is 1.5; give"),
        (BY_TARGET, {"response_tokens": 3, "metadata": {"t": -1}}, "metadata['t']: is -1; give"),
        ({"method": "lcpo_exact"}, {"response_tokens": 3}, "metadata['target_lengths']: is miss"),
        (
            {"method": "adaptthink"},
            {"correct": True, "metadata": {"no_think": 1, "reference_accuracy": 0.5}},
            "metadata['no_think']: must be true or false",
        ),
        (DENSE, {}, "token_ids: are missing; length method repetition needs them"),
        (DENSE, {"token_ids": [1.5]}, "token_ids: holds float64"),
        (DENSE, {"token_ids": [-1]}, "token_ids: holds ids from -1"),
        (THINK, {"response_tokens": 3}, "response: length method soft_overlong separates thinking"),
        (BY_IDS, {"response_tokens": 3}, "token_ids: are missing; length method soft_overlong"),
    ],
)
def test_what_is_missing_is_refused(
    item: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRollout) as caught:
        check([rollout(**fields)], config(item))
    assert str(caught.value).startswith(f"rollouts[0].{message}")


@pytest.mark.parametrize(
    ("item", "fields"),
    [
        (BAND, {"group_id": "g", "token_ids": [1]}),
        ({**BAND, "unit": "chars"}, {"group_id": "g"}),
        ({**JET, "correct": "judge >= 6"}, GROUP),
        ({"method": "gr3", "quality": "judge"}, GROUP),
        ({"method": "gr3"}, {**GROUP, "correct": True}),
        (BY_TARGET, {"response_tokens": 3, "metadata": {"t": 0}}),
        ({"method": "hapo"}, {"response_tokens": 3, "correct": True}),
        (
            {"method": "advantage_reweight", "columns": {"advantages": "metadata.a"}},
            {**GROUP, "metadata": {"a": -0.5}},
        ),
        ({"method": "repetition"}, {}),
        ({**THINK, "unit": "bytes"}, {}),
        (BY_IDS, {"token_ids": np.array([1, 9, 2])}),
        ({"method": "gdpo"}, {"group_id": "g"}),
    ],
)
def test_what_is_there_is_accepted(item: dict[str, Any], fields: dict[str, Any]) -> None:
    check([rollout(**fields)], config(item))


def test_a_tokenizer_makes_up_for_missing_counts() -> None:
    check([rollout(group_id="g")], config(BAND, THINK, tokenizer="gpt2"))


def test_a_gate_on_correctness_needs_correctness() -> None:
    with pytest.raises(InvalidRollout, match=r"correct: is missing; reward\.zero_unless needs it"):
        check([rollout()], config(reward={"zero_unless": "correct"}))


def prepared(*length: dict[str, Any], rollouts: list[Rollout]) -> PreparedBatch:
    return prepare(rollouts, config(*length), run="r", step=None)


def test_token_ids_travel_as_bytes_only_where_a_method_looks_at_them() -> None:
    rows = [rollout(token_ids=[i, i + 1], group_id="g") for i in range(70)]
    sent = prepared(DENSE, rollouts=rows)
    assert sent.manifest.token_ids
    assert len(sent.token_ids) == len(sent.chunks) > 1
    read = token_ids.decode(sent.token_ids)
    assert read.ids.reshape(-1, 2).tolist() == [[i, i + 1] for i in range(70)]
    plain = prepared(BAND, rollouts=rows)
    assert (plain.manifest.token_ids, plain.token_ids) == (False, [])
    some = prepared({"method": "repetition"}, rollouts=[*rows, rollout(group_id="g")])
    assert (some.manifest.token_ids, some.token_ids) == (False, [])


def test_metadata_that_methods_take_travels_with_the_columns() -> None:
    rows = [rollout(response_tokens=1, metadata={"t": i, "other": "x"}) for i in range(2)]
    assert prepared(BY_TARGET, rollouts=rows).columns.metadata == {"t": [0, 1]}


def test_the_plan_says_whether_lengths_wait_for_the_judges() -> None:
    rows = [rollout(**GROUP)]
    after = {"method": "gr3", "quality": "judge"}
    assert not prepared(BAND, rollouts=rows).manifest.length_follows_judges
    assert prepared(BAND, after, rollouts=rows).manifest.length_follows_judges


DOT = "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize("images", ["send", "reject"])
@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "ftp://host/dot.png"}},
        {"type": "image_url", "image_url": "dot.png"},
        {"type": "image", "image": "/data/dot.png"},
        {"type": "image"},
        {"image": "dot.png"},
    ],
    ids=str,
)
def test_an_image_that_cannot_be_sent_is_refused(part: dict[str, Any], images: str) -> None:
    good = {"type": "image_url", "image_url": {"url": DOT}}
    messages = [{"role": "user", "content": [good, part]}]
    settings = validate({"judges": [{**JUDGE, "images": images}], "length": []})
    for field in ("prompt", "response"):
        with pytest.raises(InvalidRollout) as refused:
            check([rollout(**{field: messages})], settings)
        assert str(refused.value).startswith(f"rollouts[0].{field}[0].content[1]: is an image")
    check([rollout(prompt=messages)], validate({"judges": [JUDGE], "length": []}))


def test_images_that_can_be_sent_and_other_parts_are_accepted() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": DOT}},
        {"type": "input_image", "image_url": "https://host/dot.png"},
        {"type": "image", "source": {"media_type": "image/png", "data": "iVBORw0KGgo="}},
        {"type": "text", "text": "image"},
        {"type": "file", "source": "image.txt"},
    ]
    settings = validate({"judges": [{**JUDGE, "images": "send"}], "length": []})
    check([rollout(prompt=[{"role": "user", "content": parts}])], settings)
