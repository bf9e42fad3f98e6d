"""OpenPipe ART's own groups and gathering with the example's `after_each`.

ART's `__init__` loads polars and litellm (400 MB); its modules of groups are loaded without it.
"""

import asyncio
import importlib
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
from openai.types.chat import ChatCompletionMessage
from openai.types.chat.chat_completion import Choice
from storms import splits, stormy
from trainer_backend import Backend, load_example, score_of


@pytest.fixture
def art(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The names that ART exports, from its own modules."""
    spec = find_spec("art")
    assert spec is not None
    package: Any = ModuleType("art")
    package.__path__ = list(spec.submodule_search_locations or [])
    monkeypatch.setitem(sys.modules, "art", package)
    trajectories = importlib.import_module("art.trajectories")
    gather = importlib.import_module("art.gather")
    vars(package).update(
        Trajectory=trajectories.Trajectory,
        TrajectoryGroup=trajectories.TrajectoryGroup,
        gather_trajectory_groups=gather.gather_trajectory_groups,
    )
    return package


def rollout(art: Any, text: str, own: float) -> Any:
    async def run() -> Any:
        message = ChatCompletionMessage(role="assistant", content=text)
        choice = Choice(finish_reason="stop", index=0, message=message)
        return art.Trajectory(
            messages_and_choices=[{"role": "user", "content": "What?"}, choice],
            reward=own,
            metadata={"row": "r1"},
        )

    return run()


def gathered(art: Any, example: Any, groups: list[list[str]], hook: str) -> list[Any]:
    async def run() -> list[Any]:
        found: list[Any] = await art.gather_trajectory_groups(
            (art.TrajectoryGroup(rollout(art, text, 0.5) for text in group) for group in groups),
            after_each=getattr(example, hook),
            pbar_desc=None,
        )
        return found

    return asyncio.run(run())


def test_groups_have_rewards_without_those_that_have_none(
    art: ModuleType, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.judge.set_plan(stormy)
    monkeypatch.setenv("OYER_CONFIG", str(backend.file("art.yaml")))
    example = load_example("art_rollouts")
    groups = gathered(art, example, [["one", "two", "storm"], ["storm a", "storm b"]], "judged")
    (group,) = groups
    rewards = {one.messages()[-1]["content"]: one.reward for one in group}
    assert rewards == {text: pytest.approx(0.5 + 0.1 * score_of(text)) for text in ("one", "two")}
    assert ["MissingScores" in one.type for one in group.exceptions] == [True]
    assert {one.metrics["oyer/q_present"] for one in group} == {1.0}
    assert {one.metrics["oyer/q"] for one in group} == {score_of("one"), score_of("two")}
    assert splits(backend, "art").keys() == {"train"}


def test_evaluations_are_marked(
    art: ModuleType, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OYER_CONFIG", str(backend.file("art.yaml")))
    example = load_example("art_rollouts")
    gathered(art, example, [["held out"]], "evaluated")
    assert "eval" in splits(backend, "art")
