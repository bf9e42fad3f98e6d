"""Small batches for the tests of the length task: one group, one judge, terms by name."""

from typing import Any

import numpy as np
import pytest
import torch

from oyer.config.loading import validate
from oyer.config.reward import RewardConfig
from oyer.protocol.batch import Columns
from oyer.protocol.partial_results import LengthResult
from oyer.protocol.status import Status
from oyer.protocol.token_ids import TokenIds
from oyer.tasks.rewards.compose import RewardInputs
from oyer.tasks.rewards.length_columns import LengthInputs
from oyer.tasks.rewards.length_terms import length_part
from oyer.tasks.rewards.missing_judges import Verdicts

CPU = torch.device("cpu")
NAN = float("nan")
JUDGE = {"name": "q", "endpoint": "e", "model": "m"}
LENGTHS = [100, 110, 120, 400]


def columns(n: int, **fields: Any) -> Columns:
    given = {
        "group_ids": ["g"] * n,
        "base_score": [1.0] * n,
        "correct": [None] * n,
        "truncated": [False] * n,
        "response_tokens": LENGTHS[:n],
        **fields,
    }
    return Columns(**given)


def shaped(
    *length: dict[str, Any],
    n: int = 4,
    responses: list[str] | None = None,
    ids: list[list[int]] | None = None,
    scores: list[float | Status] | None = None,
    rules: dict[str, Any] | None = None,
    **fields: Any,
) -> LengthResult:
    """Compute length terms, with the verdicts of one judge where there are scores."""
    judges = [JUDGE] if scores is not None else []
    config = validate({"judges": judges, "length": list(length), "reward": rules or {}})
    given = inputs(config, n, responses, ids, scores, **fields)
    part = length_part(config.length, given)
    # As on a GPU: the same on tensors of a device.
    _assert_same(part, length_part(config.length, given, CPU))
    return part


def _assert_same(part: LengthResult, other: LengthResult) -> None:
    for name, terms in vars(part).items():
        one, two = terms, getattr(other, name)
        if not isinstance(one, dict):
            one, two = {name: one}, {name: two}
        assert one.keys() == two.keys()
        for key, column in one.items():
            np.testing.assert_allclose(column, two[key], rtol=1e-12, atol=1e-12)


def inputs(
    config: RewardConfig,
    n: int,
    responses: list[str] | None = None,
    ids: list[list[int]] | None = None,
    scores: list[float | Status] | None = None,
    **fields: Any,
) -> LengthInputs:
    rows = scores or []
    verdicts = Verdicts(
        np.array([NAN if isinstance(row, Status) else row for row in rows]),
        [row if isinstance(row, Status) else Status.SCORED for row in rows],
    )
    return LengthInputs(
        rewards=RewardInputs(
            columns=columns(n, **fields),
            judges=config.judges,
            verdicts={"q": verdicts},
            rules=config.reward,
        ),
        read_responses=lambda: responses or pytest.fail("the texts were read"),
        read_token_ids=lambda: TokenIds.of_all(ids or [None]),
        tokenizer=None,
    )
