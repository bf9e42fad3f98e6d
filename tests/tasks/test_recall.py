"""A result read from the record equals the one that was returned."""

from typing import Any

import numpy as np
import pytest

from oyer.manager.batch import RewardBatch
from oyer.models.engine import open_engine
from oyer.protocol.batch_result import BatchResult
from oyer.protocol.errors import MessageRefused
from oyer.tasks.recall import _recalled, stored_result
from tests.manager.conftest import outcome_of
from tests.support.page_record import add_batch


def stored_rows(result: BatchResult) -> list[Any]:
    recorded = result.recorded
    return [
        {
            "reward": float(result.rewards[i]),
            "unshaped_reward": float(result.unshaped_rewards[i]),
            "judge_score": float(result.judge_scores[i]),
            "trainable": bool(result.mask[i]),
            "status": result.statuses[i],
            "terms": {
                name: float(values[i]) if np.isfinite(values[i]) else None
                for name, values in recorded.items()
            },
        }
        for i in range(len(result.statuses))
    ]


def test_components_and_their_means_are_read_from_the_record() -> None:
    result = outcome_of(
        "b",
        3,
        terms={"judge": np.ones(3, np.float32), "length_penalty": np.zeros(3, np.float32)},
        scores={"q": np.array([2.0, np.nan, 5.0], np.float32)},
        advantages={"grpo": np.ones(3, np.float32)},
        groups=[0, 0, -1],
    )
    usage: Any = result.usage
    read = stored_result("b", stored_rows(result), ["g", "g", None], usage, {}, None)
    first, second = RewardBatch.of(result), RewardBatch.of(read)
    assert list(first.components) == ["q", "length_penalty", "grpo"]
    assert first.components.keys() == second.components.keys()
    for name, values in first.components.items():
        np.testing.assert_array_equal(second.components[name], values)
        np.testing.assert_array_equal(second.component_means[name], first.component_means[name])


def test_a_record_of_an_earlier_release_has_no_scores_of_its_judges() -> None:
    result = outcome_of("b", 2, terms={"length_penalty": np.zeros(2, np.float32)})
    usage: Any = result.usage
    read = stored_result("b", stored_rows(result), ["g", "g"], usage, {}, None)
    assert list(RewardBatch.of(read).components) == ["length_penalty"]


def test_details_whose_plan_is_of_another_release_are_refused(store_url: str) -> None:
    engine = open_engine(store_url)
    judge = {"name": "quality", "endpoint": "e", "model": "m", "view": "each_turn"}
    found = []
    for changed in ({}, {"later": 1}):
        plan = {"judges": [{**judge, **changed}]}
        scores = [{"quality": 5.0}]
        found.append(add_batch(engine, ["a"], scores=scores, plan=plan, judgement={"turn": 0}))
    known, foreign = found
    with engine.connect() as conn:
        assert _recalled(conn, known).turn_scores == [[5.0]]
        with pytest.raises(
            MessageRefused, match=rf"plan of batch {foreign} cannot be read .*later"
        ):
            _recalled(conn, foreign)
    engine.dispose()
