"""Progress counts verdicts, of which some need several calls."""

from typing import Any

import pytest

from oyer.config.reward import JudgeConfig
from oyer.protocol.batch_store import BatchStore
from oyer.protocol.redis_client import connect
from oyer.protocol.rollout import Rollout
from oyer.tasks.chunk_progress import ChunkProgress

OWN = {"role": "assistant", "content": "words"}
ROLLOUTS = [Rollout(prompt="p", response=one) for one in ([OWN, OWN, OWN], [OWN], "text", "text")]
PLAIN: dict[str, Any] = {"name": "q", "endpoint": "e", "model": "m"}
CRITERIA = [{"name": name, "text": "Is it?"} for name in "abc"]


@pytest.mark.parametrize(
    ("judges", "calls"),
    [
        ([{}], 4),
        ([{"samples": 3}], 12),
        ([{"criteria": CRITERIA, "criteria_per_call": 2}], 8),
        ([{"view": "each_turn"}], 6),
        ([{"view": "each_turn", "samples": 2, "criteria": CRITERIA, "criteria_per_call": 1}], 36),
        ([{}, {"samples": 3}], 16),
        ([{"kind": "group", "mode": "pairs"}], 4),
    ],
    ids=str,
)
def test_the_calls_of_a_chunk_are_progress_to_all_its_verdicts(
    redis_url: str, judges: list[dict[str, Any]], calls: int
) -> None:
    configs = [JudgeConfig.model_validate({**PLAIN, **judge}) for judge in judges]
    verdicts = len(ROLLOUTS) * len(judges)
    with connect(redis_url) as client:
        batches = BatchStore(client, expires_s=60)
        for made, expected in (
            (calls, verdicts),
            (calls // 2, verdicts // 2),
            (calls + 99, verdicts),
        ):
            # Those on record are reported at once.
            ChunkProgress(batches, ("b", 0), configs, ROLLOUTS, made)
            assert batches.judged("b") == expected


def test_a_chunk_without_judges_has_no_verdicts(redis_url: str) -> None:
    with connect(redis_url) as client:
        batches = BatchStore(client, expires_s=60)
        ChunkProgress(batches, ("b", 0), [], ROLLOUTS, 0).report(0)
        assert batches.judged("b") == 0
