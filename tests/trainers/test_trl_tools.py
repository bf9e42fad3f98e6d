"""TRL's tools and environments: groups by place, the policy's own words, with and without overlap."""

import json
import math
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from trainer_backend import Backend, judged
from trl_tools import PAGE, THOUGHT, WORDS, Room, train_with_tools

from oyer.demo.responses import Action
from oyer.manager.trl import OverlappedRewards, reward_function

ROWS = """
SELECT b.step, b.split, r.group_id, r.response_tokens, r.truncated, r.metadata, w.reward, w.terms
FROM rollouts r
JOIN batches b ON b.id = r.batch_id JOIN runs u ON u.id = b.run_id
JOIN rewards w ON w.batch_id = r.batch_id AND w.rollout_index = r.rollout_index
WHERE u.name = ? ORDER BY b.step, r.rollout_index
"""


def rows_of(backend: Backend, run: str) -> list[sqlite3.Row]:
    with sqlite3.connect(backend.folder / "record.db") as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute(ROWS, (run,)).fetchall()


@pytest.mark.parametrize("overlapped", [False, True], ids=["documented", "mixin"])
@pytest.mark.parametrize("environment", [False, True], ids=["tools", "environment"])
def test_own_words_and_whole_groups(
    backend: Backend,
    tokenizer_folder: Path,
    tmp_path: Path,
    environment: bool,
    overlapped: bool,
) -> None:
    backend.judge.set_plan(Action(text="Final score: 5"))
    run = f"tools-{environment}-{overlapped}"
    file = backend.file(length={"method": "median_band"})
    bases: tuple[type, ...] = (OverlappedRewards,) if overlapped else ()
    trainer = train_with_tools(
        bases,
        reward_function(file, num_generations=4, run=run),
        tokenizer_folder,
        tmp_path,
        environment=environment,
    )
    rows = rows_of(backend, run)
    assert len(rows) == 16
    # TRL's own mask, which counts no token of a tool.
    assert [row["response_tokens"] for row in rows] == trainer.own_lengths
    # The pages differ fourfold in length; only the long answer is out of the band.
    assert [json.loads(row["terms"])["length_penalty"] < 0 for row in rows] == (
        [False, False, False, True] * 4
    )
    assert trainer.rewards == pytest.approx([row["reward"] for row in rows])
    groups = [(row["step"], row["group_id"]) for row in rows]
    assert groups == [(step, str(group)) for step in (0, 1) for group in (0, 1) for _ in range(4)]
    assert {row["split"] for row in rows} == {"train"}
    assert not any(row["truncated"] for row in rows)
    assert json.loads(rows[0]["metadata"])["source"] == "web"
    for shown in map(asked, backend.judge.requests):
        assert THOUGHT in shown
        assert WORDS in shown
        assert PAGE in shown


def test_a_page_is_not_the_policys_word(
    backend: Backend, tokenizer_folder: Path, tmp_path: Path
) -> None:
    """The response that is judged holds the page under the tool's role, outside the policy's fences."""
    backend.judge.set_plan(Action(text="Final score: 5"))
    function = reward_function(backend.file(), num_generations=4, run="tool-page")
    train_with_tools((), function, tokenizer_folder, tmp_path, max_steps=1)
    for arrival in backend.judge.requests:
        assert PAGE in asked(arrival)
        assert PAGE not in judged(arrival)


class RewardedRoom(Room):
    """An environment that has a reward of its own."""

    def get_reward(self) -> float:
        """Return a reward for every rollout."""
        return 2.0


def test_the_mixin_masks_an_environments_reward_too(
    backend: Backend, tokenizer_folder: Path, tmp_path: Path
) -> None:
    def plan(arrival: Any) -> Action:
        # One answer of each group.
        missing = re.search(r"It is 0\.[15]\.", asked(arrival))
        return Action(status=404) if missing else Action(text="Final score: 5")

    backend.judge.set_plan(plan)
    trainer = train_with_tools(
        (OverlappedRewards,),
        reward_function(backend.file(), num_generations=4, run="room-reward"),
        tokenizer_folder,
        tmp_path,
        environment=RewardedRoom,
        max_steps=1,
    )
    missing = [i % 4 == 1 for i in range(8)]
    assert [[math.isnan(value) for value in row] for row in trainer.columns] == [
        [gone, gone] for gone in missing
    ]
    assert trainer.columns[0] == pytest.approx([0.5, 2.0])


def asked(arrival: Any) -> str:
    return "\n".join(content for _, content in arrival.messages())
