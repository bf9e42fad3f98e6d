"""Rollouts and groups have the same names in every process, and packed rollouts stay equal."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.config.reward import RewardConfig
from oyer.manager.backend.prepare import plain
from oyer.manager.streaming import identity
from oyer.protocol.errors import BatchFailed
from oyer.protocol.rollout import Rollout

CONFIG: dict[str, Any] = {
    "judges": [{"name": "q", "endpoint": "e", "model": "m"}],
    "length": {"method": "median_band"},
}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
rollouts = st.builds(
    Rollout,
    prompt=texts | st.just([{"role": "user", "content": "é?"}]),
    response=texts,
    group_id=st.just("g"),
    base_score=st.none() | st.floats(-1e6, 1e6),
    response_tokens=st.none() | st.integers(0, 2**31 - 1),
    correct=st.none() | st.booleans(),
    truncated=st.booleans(),
    reference=st.none() | texts,
    metadata=st.dictionaries(texts, st.integers() | texts, max_size=2),
    token_ids=st.lists(st.integers(0, 2**31 - 1), max_size=5),
)


@given(st.lists(rollouts, min_size=1, max_size=8), st.data())
def test_unpacked_rollouts_equal_the_packed_ones_however_they_were_divided(
    rows: list[Rollout], data: st.DataObject
) -> None:
    members = {f"id{i}": row for i, row in enumerate(rows)}
    # Some are packed twice, by two processes, and the parts are in any order.
    parts = [
        identity.pack({name: members[name] for name in names}, with_token_ids=True)
        for names in data.draw(
            st.lists(st.lists(st.sampled_from(list(members)), min_size=1, unique=True), max_size=4)
        )
    ]
    parts += [identity.pack({name: row}, with_token_ids=True) for name, row in members.items()]
    parts = data.draw(st.permutations(parts))
    order = data.draw(st.permutations(list(members)))
    known = data.draw(st.sets(st.sampled_from(order)))
    found = identity.unpack(order, parts, {name: members[name] for name in known})
    assert found == [members[name] for name in order]


@given(rollouts)
def test_token_ids_are_not_packed_unless_a_length_method_reads_them(row: Rollout) -> None:
    parts = identity.pack({"a": row}, with_token_ids=False)
    assert identity.unpack(["a"], [parts], {}) == [replace(row, token_ids=None)]


def test_a_group_with_missing_rollouts_is_refused() -> None:
    row = Rollout(prompt="p", response="r")
    parts = identity.pack({"a": row}, with_token_ids=False)
    with pytest.raises(BatchFailed, match="1 of a group's 2 rollouts are no longer in Redis"):
        identity.unpack(["a", "b"], [parts], {})


def test_numpy_scalars_and_derived_fields_do_not_change_a_name() -> None:
    given = Rollout(
        prompt="p",
        response="r",
        group_id=7,
        correct=np.bool_(True),  # type: ignore[arg-type]
        response_tokens=np.int64(3),  # type: ignore[arg-type]
    )
    explicit = Rollout(
        prompt="p", response="r", group_id="7", correct=True, base_score=1.0, response_tokens=3
    )
    names = {identity.rollout_name(plain(row), "run", 4, 8, None) for row in (given, explicit)}
    assert len(names) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"response": "other"},
        {"prompt": "other"},
        {"group_id": "h"},
        {"base_score": 0.5},
        {"reference": "42"},
        {"response_tokens": 4},
        {"truncated": True},
    ],
)
def test_every_field_that_affects_the_score_changes_the_name(change: dict[str, Any]) -> None:
    row = Rollout(prompt="p", response="r", group_id="g", base_score=1.0, response_tokens=3)
    names = {identity.rollout_name(one, "run", 4, 8, None) for one in (row, replace(row, **change))}
    assert len(names) == 2


def test_run_step_group_and_sample_change_the_name() -> None:
    row = Rollout(prompt="p", response="r", group_id="g")
    places: list[tuple[str, int | None, Any, Any]] = [
        ("run", 4, 8, None),
        ("other", 4, 8, None),
        ("run", 5, 8, None),
        ("run", None, 8, None),
        ("run", 4, 4, None),
        ("run", 4, 8, "sample"),
    ]
    assert len({identity.rollout_name(row, *place) for place in places}) == len(places)


def test_equal_rollouts_of_two_trainings_are_two_rollouts() -> None:
    row = Rollout(prompt="p", response="r", group_id="g")
    names: Any = {"plan": "p", "training": "own", "now_s": 0.0}
    places = [{"training": "a"}, {"training": "b"}, {}, {"run": "r"}, {"training": "a"}]
    options: list[Any] = [{**place, "group_size": 2} for place in places]
    ids = [identity.pending_rollouts([row], one, **names)[0].id for one in options]
    assert len(set(ids)) == 4
    assert ids[0] == ids[4]


def test_plan_training_prompt_run_id_and_size_change_a_groups_name() -> None:
    plans = [
        identity.plan_name(RewardConfig.model_validate({**CONFIG, **change}))
        for change in ({}, {"reward": {"gate": "none"}}, {"broker": {"url": "redis://elsewhere"}})
    ]
    # The broker is not part of the plan.
    assert plans[0] == plans[2] != plans[1]
    scopes = [identity.scope_of("a"), identity.scope_of("b"), identity.scope_of("a", "p")]
    scopes.append(identity.scope_of("a", None, "eval"))
    keys = [(plans[0], "r", scope, "g", 4) for scope in scopes]
    keys += [(plans[1], "r", scopes[0], "g", 4), (plans[0], "s", scopes[0], "g", 4)]
    keys += [(plans[0], "r", scopes[0], "h", 4), (plans[0], "r", scopes[0], "g", 5)]
    assert len({identity.group_name(*key) for key in keys}) == len(keys)


OPTIONS: dict[str, Any] = {
    "run": "r",
    "training": "t",
    "one_prompt": True,
    "step": 3,
    "split": "eval",
    "priority": "interactive",
    "group_size": 4,
    "sample_id": "s",
    "group_timeout_s": 1.0,
    "on_group_timeout": "error",
}


def test_every_option_is_compared() -> None:
    names = identity.ScoreOptions.__required_keys__ | identity.ScoreOptions.__optional_keys__
    assert set(OPTIONS) == names


@pytest.mark.parametrize("given", [[], *[[name] for name in OPTIONS], list(OPTIONS)], ids=str)
def test_a_group_is_closed_under_the_name_that_its_rollouts_join(given: list[str]) -> None:
    options: Any = {"group_size": 2} | {name: OPTIONS[name] for name in given}
    names: Any = {"plan": "p", "training": "own", "now_s": 0.0}
    row = Rollout(prompt="q", response="r", group_id=7)
    (joined,) = identity.pending_rollouts([row], options, **names)
    closing = identity.closing_of([7], None, ["q"], options, **names)
    assert closing.groups == [joined.group]


def test_names_are_the_same_in_another_process() -> None:
    code = (
        "from oyer.manager import Rollout; from oyer.manager.streaming import identity\n"
        "row = Rollout(prompt='é', response='r', group_id='g', base_score=0.1)\n"
        "print(identity.rollout_name(row, 'run', 4, 8, None), identity.group_name('p', 'r', '', 'g', 4))"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    row = Rollout(prompt="é", response="r", group_id="g", base_score=0.1)
    here = [
        identity.rollout_name(row, "run", 4, 8, None),
        identity.group_name("p", "r", "", "g", 4),
    ]
    assert there == here
