"""In-process scoring against a real judge server."""

from collections.abc import Iterator

import numpy as np
import pytest

from oyer.config.reward import RewardConfig
from oyer.demo.judge_server import JudgeServer
from oyer.manager.verl import backends
from oyer.manager.verl.settings import LengthPenaltyConfig
from oyer.protocol.batch import Columns
from oyer.protocol.rollout import Rollout
from oyer.tasks.in_process import InProcessScorer

COLUMNS = Columns(
    group_ids=["g", "g"],
    base_score=[1.0, 0.0],
    correct=[None, None],
    truncated=[False, False],
    response_tokens=[10, 20],
)
ROLLOUTS = [Rollout(prompt="p", response=f"response {i}", group_id="g") for i in range(2)]


@pytest.fixture
def config() -> Iterator[RewardConfig]:
    with JudgeServer() as server:
        yield RewardConfig.model_validate(
            {
                "endpoints": {"e": {"base_url": server.base_url}},
                "judges": [{"name": "q", "endpoint": "e", "model": "m", "weight": 0.1}],
            }
        )


def test_a_batch_is_judged_composed_and_answered_from_memory_again(config: RewardConfig) -> None:
    scorer = InProcessScorer(config, {})
    first, second = scorer.score(COLUMNS, ROLLOUTS), scorer.score(COLUMNS, ROLLOUTS)
    assert first.counts == {"scored": 2}
    expected = np.array([1.0, 0.0]) + 0.1 * first.judge_scores
    np.testing.assert_allclose(first.rewards, expected, rtol=1e-6)
    np.testing.assert_array_equal(second.rewards, first.rewards)
    assert (first.usage["calls"], second.usage["calls"]) == (2, 0)


def test_the_verl_adapter_finds_the_scorer() -> None:
    settings = LengthPenaltyConfig(use_async_io=False)
    assert isinstance(backends.in_process_scorer(settings), InProcessScorer)
