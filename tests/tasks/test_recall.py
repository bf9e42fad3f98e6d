"""A result read from the record equals the one that was returned."""

from typing import Any

import numpy as np

from oyer.manager.batch import RewardBatch
from oyer.protocol.batch_result import BatchResult
from oyer.tasks.recall import stored_result
from tests.manager.conftest import outcome_of


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
