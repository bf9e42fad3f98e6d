"""What a trainer's configuration with a group judge needs of rollouts and batches."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.config.loading import validate
from oyer.manager import Rollout
from oyer.manager.backend.chunks import MAX_WHOLE_ROLLOUTS, chunk_sizes, split_groups
from oyer.manager.requirements import without_groups
from oyer.manager.streaming.identity import check_group_size
from oyer.manager.validation import check, check_groups
from oyer.protocol.errors import InvalidInput, InvalidRollout

RANKING = {"name": "ranking", "kind": "group", "endpoint": "e", "model": "m"}
QUALITY = {"name": "quality", "endpoint": "e", "model": "m"}
CONFIG = validate({"judges": [RANKING], "length": []})


def rollouts(*group_ids: str | None) -> list[Rollout]:
    return [Rollout(prompt="p", response="r", group_id=one) for one in group_ids]


def test_every_rollout_needs_a_group() -> None:
    with pytest.raises(InvalidRollout, match=r"rollouts\[1\].group_id: .*group judge 'ranking'"):
        check(rollouts("a", None), CONFIG)


def test_a_batch_in_which_nothing_can_be_compared_is_refused() -> None:
    with pytest.raises(InvalidRollout, match=r"group judge 'ranking' compares"):
        check_groups(rollouts("a", "b"), CONFIG)
    check_groups(rollouts("a", "b", "a"), CONFIG)
    check_groups(rollouts("a", "b"), validate({"judges": [QUALITY], "length": []}))


def test_a_training_group_of_one_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"group_size: is 1"):
        check_group_size({"group_size": 1}, CONFIG)
    check_group_size({"group_size": 2}, CONFIG)
    check_group_size({"group_size": 1, "split": "eval"}, CONFIG)


def test_what_is_judged_before_a_group_is_complete_leaves_out_group_judges() -> None:
    config = validate(
        {
            "judges": [RANKING, QUALITY],
            "length": [{"method": "median_band"}],
            "reward": {"min_valid_judges": 2},
        }
    )
    alone = without_groups(config)
    assert [judge.name for judge in alone.judges] == ["quality"]
    assert alone.length == ()
    # A worker reads the plan again.
    assert validate(alone.model_dump(mode="json")).reward.min_valid_judges == 1


@given(ids=st.lists(st.one_of(st.none(), st.sampled_from("abcdef")), min_size=1, max_size=60))
def test_no_group_is_split_over_tasks(ids: Sequence[str | None]) -> None:
    counts = chunk_sizes([10] * len(ids), in_flight=4, calls=1, group_ids=ids, whole=True)
    assert sum(counts) == len(ids)
    starts = [sum(counts[:k]) for k in range(len(counts))]
    assert split_groups(ids, list(zip(starts, counts, strict=True))) == []


def test_large_groups_in_order_are_cut_between_groups() -> None:
    ids = [f"g{k}" for k in range(100) for _ in range(16)]
    counts = chunk_sizes([1000] * len(ids), in_flight=64, calls=1, group_ids=ids, whole=True)
    assert len(counts) > 10
    assert all(count % 16 == 0 for count in counts)


def test_groups_that_alternate_over_too_many_rollouts_are_refused() -> None:
    n = MAX_WHOLE_ROLLOUTS + 2
    ids = [f"g{k % 2}" for k in range(n)]
    with pytest.raises(InvalidRollout, match="sort the rollouts by group"):
        chunk_sizes([1] * n, in_flight=64, calls=1, group_ids=ids, whole=True)
