"""TRL's GRPOTrainer on two ranks, two processes with gloo between them: groups span the ranks."""

import json
import math
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trainer_backend import Backend, judged, score_of

from oyer.demo.responses import Action, named

RANK = Path(__file__).with_name("trl_rank.py")
HANG_S = 300
"""A training that takes this long hangs, in seconds."""

GROUP, ROWS_PER_RANK = 4, 6

RUNS = ("well", "mixin", "repeated", "holes", "storm", "dead")
"""By the judge's model, which is named like the run, the scripted judge knows how to behave."""
BREAKER = "breaker"
"""A run whose rules are that an outage ends it."""

ROOMS = ("rooms", "rooms-mixin")
"""Runs with an environment."""

COMPONENTS = ("length_penalty", "length_penalty_present", "q", "q_present")
METRICS = ("judge_score", "judge_term", "length_term", "missing", *COMPONENTS)
COLUMNS = (
    "judge_score",
    "judge_status",
    "judge_term",
    *COMPONENTS[:2],
    "length_term",
    "q",
    "q_present",
)

Seen = dict[str, list[dict[str, Any]]]


def plan(arrival: Any) -> Action:
    """Score well, not the odd ones, or limit every request."""
    if arrival.model in ROOMS:
        return Action(text="Final score: 5")
    if arrival.model == "storm":
        return named("rate_limited", retry_after_s=0)
    score = score_of(judged(arrival))
    if arrival.model == "holes" and score % 2:
        return named("not_found")
    return Action(text=f"Final score: {score}")


@pytest.fixture(scope="module")
def seen(up: Backend, tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Train each run on both ranks, one after the other; what each rank saw, by run."""
    up.judge.set_plan(plan)
    up.judge.reset()
    folder = tmp_path_factory.mktemp("ranks")
    runs = {}
    for run in (*RUNS, *ROOMS, BREAKER):
        endpoint = "dead" if run in ("dead", BREAKER) else "fake"
        changes = {
            "judges": [{"name": "q", "endpoint": endpoint, "model": run, "reasks": 0}],
            "length": {"method": "median_band"},
            "reward": {"max_failed_fraction": 0.5 if run == BREAKER else 1.0},
        }
        runs[f"ranks-{run}"] = str(up.file(f"{run}.yaml", **changes))
    job = {"folder": str(folder), "tokenizer": str(tokenizer_folder), "runs": runs}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*torchrun, str(RANK), json.dumps(job)], env=environment) as process:
        try:
            assert process.wait(HANG_S) == 0
        finally:
            # torchrun ends its ranks on SIGTERM.
            process.terminate()
    ranks = [json.loads((folder / f"rank{i}.json").read_text()) for i in range(2)]
    return {run: [rank[f"ranks-{run}"] for rank in ranks] for run in (*RUNS, *ROOMS, BREAKER)}


def groups_of(ranks: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The rows of both ranks, by step and by the place among the rows of both."""
    groups = defaultdict(list)
    for rank, one in enumerate(ranks):
        for i, row in enumerate(one["rows"]):
            place = rank * ROWS_PER_RANK + i % ROWS_PER_RANK
            groups[row["step"], place // GROUP].append({**row, "rank": rank})
    return list(groups.values())


def judge_score(completion: str) -> int:
    """The judge's score; a completion that is empty has the lowest without being judged."""
    return score_of(completion) if completion else 1


def expected_rewards(group: list[dict[str, Any]]) -> list[float]:
    """Judge and median band of a whole group, by the formula of the replaced system."""
    lengths = np.array([row["tokens"] for row in group])
    off = np.abs(lengths / np.median(lengths) - 1)
    penalties = np.clip((off - 0.3) / (0.5 - 0.3), 0, 1)
    return list(0.1 * np.array([judge_score(row["completion"]) for row in group]) - penalties)


@pytest.mark.parametrize("run", ["well", "mixin", "repeated"])
def test_rewards_are_those_on_record_and_compare_the_whole_group(
    up: Backend, seen: Seen, run: str
) -> None:
    groups = groups_of(seen[run])
    assert [len(group) for group in groups] == [4] * 6
    prompts = [{row["prompt"] for row in group} for group in groups]
    assert [len(one) for one in prompts] == [1] * 6
    spans = [len({row["rank"] for row in group}) for group in groups]
    assert sorted(spans) == [1, 1, 1, 1, 2, 2]
    recorded = up.shaped_rewards(f"ranks-{run}")
    penalised_across = 0
    for group, span in zip(groups, spans, strict=True):
        expected = expected_rewards(group)
        assert [row["reward"] for row in group] == pytest.approx(expected, abs=1e-6)
        for row in group:
            assert pytest.approx(row["reward"], abs=1e-6) in recorded[row["completion"]]
            penalised_across += span == 2 and row["reward"] < 0
    # Half a group has another median: that two ranks' halves were compared shows in these.
    assert penalised_across


@pytest.mark.parametrize("run", RUNS)
def test_both_ranks_log_the_same_and_stay_in_step(seen: Seen, run: str) -> None:
    first, second = seen[run]
    for one in (first, second):
        assert one["error"] is None
        assert one["steps"] == 2
        assert one["finite"]
    assert first["metrics"] == second["metrics"]
    assert first["columns"] == second["columns"] == [*map("oyer/{}".format, COLUMNS)]
    for entry in first["metrics"][:2]:
        assert {*map("oyer/{}".format, METRICS)} <= {*entry}
    assert first["weights"] == second["weights"]


@pytest.mark.parametrize("run", ROOMS)
def test_prompts_that_all_differ_are_grouped_by_place(seen: Seen, run: str) -> None:
    """Six rows a rank: the second group has two on each. The last of each four is long."""
    for one in seen[run]:
        assert one["rewards"] == pytest.approx([0.5, 0.5, 0.5, -0.5] * 3 * 2)


def test_of_the_holes_only_the_rows_are_masked(seen: Seen) -> None:
    rows = [row for one in seen["holes"] for row in one["rows"]]
    missing = [math.isnan(row["reward"]) for row in rows]
    assert missing == [
        judge_score(r["completion"]) % 2 == 1 and r["completion"] != "" for r in rows
    ]
    assert 0 < sum(missing) < len(missing)


@pytest.mark.parametrize("run", ["storm", "dead"])
def test_without_a_judge_every_judged_row_is_masked(seen: Seen, run: str) -> None:
    rows = [row for one in seen[run] for row in one["rows"]]
    assert len(rows) == 2 * 12
    assert all(math.isnan(row["reward"]) for row in rows if row["completion"])


def test_rollouts_to_evaluate_are_groups_of_one(seen: Seen) -> None:
    for one in seen["well"]:
        (reward,) = one["evaluated"]
        assert reward > 0


def test_where_the_rules_say_so_an_outage_ends_every_rank(seen: Seen) -> None:
    assert [one["error"] for one in seen[BREAKER]] == ["JudgeOutage"] * 2
    assert [one["steps"] for one in seen[BREAKER]] == [0, 0]
