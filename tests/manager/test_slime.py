"""slime's reward functions on a stand-in of its `Sample`, and its reward post-process.

The stand-in has the fields, and the calls the forms, of slime's sources of August 2026.
"""

import asyncio
import inspect
import json
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action, named
from oyer.manager import MissingScores
from oyer.manager.slime import custom_rm, group_rm, post_process
from tests.support.scripted_backend import DEAD_JUDGE, Running, by_response


class Status(Enum):
    """slime's `Sample.Status`."""

    PENDING = "pending"
    COMPLETED = "completed"
    TRUNCATED = "truncated"
    ABORTED = "aborted"
    FAILED = "failed"


@dataclass
class Sample:
    """The fields of slime's `Sample` that the adapter reads or writes."""

    group_index: int | None = None
    index: int | None = None
    rollout_id: int | str | None = None
    prompt: Any = "What?"
    tokens: list[int] = field(default_factory=list)
    response: str = ""
    response_length: int = 10
    label: str | None = "42"
    reward: Any = None
    remove_sample: bool = False
    status: Status = Status.COMPLETED
    metadata: dict[str, Any] | None = field(default_factory=dict)


@pytest.fixture
def configure(running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write the file that `OYER_CONFIG` names."""

    def write(**changes: Any) -> None:
        file = tmp_path / "oyer.yaml"
        file.write_text(json.dumps({**running[0].config.model_dump(mode="json"), **changes}))
        monkeypatch.setenv("OYER_CONFIG", str(file))

    write()
    return write


def args(**given: Any) -> SimpleNamespace:
    """slime's arguments."""
    return SimpleNamespace(**{"reward_key": None, "n_samples_per_prompt": 4, **given})


def samples(tag: str, lengths: tuple[int, ...] = (10, 10, 10, 16), group: int = 1) -> list[Sample]:
    return [
        Sample(group, 10 * group + i, response=f"{tag} {i}.", response_length=n)
        for i, n in enumerate(lengths)
    ]


async def one_by_one(given: SimpleNamespace, of: list[Sample]) -> list[Any]:
    return await asyncio.gather(*(custom_rm(given, sample, evaluation=False) for sample in of))


def test_the_functions_have_the_parameters_that_slime_checks() -> None:
    """Its contract tests compare the first names, and all of the post-process's."""
    parameters = [[*inspect.signature(f).parameters] for f in (custom_rm, group_rm, post_process)]
    assert [names[:2] for names in parameters[:2]] == [["args", "sample"], ["args", "samples"]]
    assert parameters[2] == ["args", "samples"]
    assert inspect.iscoroutinefunction(custom_rm)
    assert inspect.iscoroutinefunction(group_rm)
    raw, rewards = post_process(
        SimpleNamespace(), [Sample(index=0, reward=0.5), Sample(index=1, reward=1.5)]
    )
    assert raw == [0.5, 1.5]
    assert sum(rewards) == pytest.approx(0)


def test_without_samples_there_are_no_rewards(judge: JudgeServer, configure: Any) -> None:
    """slime asks all the same where a custom generate function has filled in every reward."""
    configure(reward={"on_missing": "raise"})
    assert asyncio.run(custom_rm(args(), [])) == []
    assert asyncio.run(group_rm(args(), [])) == []


def test_samples_are_scored_one_by_one(judge: JudgeServer, configure: Any) -> None:
    judge.set_plan(by_response({f"single {i}.": i + 1 for i in range(4)}))
    group = samples("single")
    rewards = asyncio.run(one_by_one(args(), group))
    assert rewards == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert [(sample.metadata or {})["judge_status"] for sample in group] == ["scored"] * 4
    assert not any(sample.remove_sample for sample in group)


def test_a_group_is_assembled_from_single_samples_even_with_equal_texts(
    judge: JudgeServer, configure: Any
) -> None:
    configure(length={"method": "median_band"})
    group = samples("assembled")
    group[1].response = group[0].response
    rewards = asyncio.run(one_by_one(args(), group))
    assert rewards == pytest.approx([0.5, 0.5, 0.5, -0.5])
    assert len(judge.requests) == 3


def test_a_sample_that_cannot_be_read_keeps_no_sibling_waiting(
    judge: JudgeServer, configure: Any
) -> None:
    """In a custom rollout function, whose tasks the adapter does not know."""
    configure(length={"method": "median_band"})
    group = samples("unread")
    group[2].response = "half a pair \ud83d"
    given = args(oyer_group_timeout_s=600, oyer_timeout_s=60)
    rewards = asyncio.run(one_by_one(given, group))
    assert [rewards[i] for i in (0, 1, 3)] == pytest.approx([0.5, 0.5, -0.5])
    assert [sample.remove_sample for sample in group] == [False, False, True, False]


def test_the_wait_for_a_group_is_configurable(
    judge: JudgeServer, configure: Any, caplog: pytest.LogCaptureFixture
) -> None:
    configure(length={"method": "median_band"})
    given = args(oyer_group_timeout_s=1)
    rewards = asyncio.run(one_by_one(given, samples("waited", (10, 10, 16))))
    assert rewards == pytest.approx([0.5, 0.5, -0.5])
    assert "3 of 4 rollouts arrived within" in caplog.text


def test_a_group_in_one_call_is_compared(judge: JudgeServer, configure: Any) -> None:
    configure(length={"method": "median_band"})
    for function, tag in ((group_rm, "group"), (custom_rm, "list")):
        rewards = asyncio.run(function(args(), samples(tag)))
        assert rewards == pytest.approx([0.5, 0.5, 0.5, -0.5])


def test_samples_of_an_evaluation_are_groups_of_their_own(
    judge: JudgeServer, configure: Any
) -> None:
    """slime gives them no group."""
    configure(length={"method": "median_band"})
    evaluated = samples("evaluated", (10, 100))
    for sample in evaluated:
        sample.group_index = None
    assert asyncio.run(one_by_one(args(), evaluated)) == pytest.approx([0.5, 0.5])
    assert not any(sample.remove_sample for sample in evaluated)


def test_token_ids_and_metadata_reach_the_length_methods(
    judge: JudgeServer, configure: Any
) -> None:
    repetition = {"method": "repetition", "ngram_size": 2, "max_penalty": -1.0}
    configure(length=[repetition, {"method": "lcpo_exact", "alpha": 0.01}])
    loops, varied = samples("wanted", (30, 30))
    loops.tokens, varied.tokens = [1, 2] + [7] * 30, [1, 2, *range(30)]
    for sample in (loops, varied):
        sample.metadata = {"target_lengths": 30, "of no use": object()}
    rewards = asyncio.run(one_by_one(args(), [loops, varied]))
    assert rewards[1] == pytest.approx(0.5)
    assert rewards[0] < 0
    assert not loops.remove_sample


def test_under_a_reward_key_the_answer_is_a_dict_with_it(
    judge: JudgeServer, configure: Any
) -> None:
    (sample,) = samples("keyed", (10,))
    reward = asyncio.run(custom_rm(args(reward_key="score"), sample))
    assert reward == {
        "score": pytest.approx(0.5), "judge_score": 5.0, "judge_status": "scored",
        "oyer/q": 5.0, "oyer/q_present": 1.0,
    }  # fmt: skip
    component = asyncio.run(custom_rm(args(reward_key="oyer/q"), sample))
    assert component["oyer/q"] == 5.0


def test_an_evaluation_may_read_the_reward_under_a_key_of_its_own(
    judge: JudgeServer, configure: Any
) -> None:
    given = args(eval_reward_key="checked")
    trained, evaluated = samples("own key", (10, 10))
    evaluated.group_index = None
    one, other = asyncio.run(one_by_one(given, [trained, evaluated]))
    assert one == pytest.approx(0.5)
    assert other["checked"] == pytest.approx(0.5)
    given.reward_key = "score"
    both = asyncio.run(custom_rm(given, evaluated))
    assert both["checked"] == both["score"] == pytest.approx(0.5)


def test_base_score_label_and_truncation_are_read_from_the_sample(
    judge: JudgeServer, configure: Any
) -> None:
    right, wrong = samples("based", (10, 10))
    right.metadata, wrong.metadata = {"base_score": True}, {"base_score": 0.0}
    right.status = Status.TRUNCATED
    assert asyncio.run(one_by_one(args(), [right, wrong])) == pytest.approx([1.5, 0.0])
    assert (right.metadata or {})["base_score"] is True
    assert len(judge.requests) == 1


@pytest.mark.parametrize("failure", ["rate_limited", "dead", "late", "surrogate"])
def test_a_sample_without_a_reward_is_a_number_and_leaves_the_loss(
    judge: JudgeServer, configure: Any, failure: str
) -> None:
    given = args(oyer_missing_reward=-0.5)
    (sample,) = samples(failure, (10,))
    sample.metadata = None
    if failure == "rate_limited":
        judge.set_plan(named("rate_limited", retry_after_s=0))
    elif failure == "dead":
        configure(judges=[DEAD_JUDGE])
    elif failure == "late":
        judge.set_plan(Action(hold=True))
        given.oyer_timeout_s = 0.3
    else:
        sample.response = "half a pair \ud83d"
    assert asyncio.run(custom_rm(given, sample)) == -0.5
    judge.release()
    assert sample.remove_sample
    status = {"dead": "unavailable", "late": "expired", "surrogate": "rejected"}
    assert sample.metadata is not None
    assert sample.metadata["judge_status"] == status.get(failure, failure)


def test_a_failure_is_raised_where_the_rules_say_so(judge: JudgeServer, configure: Any) -> None:
    configure(reward={"on_missing": "raise"}, judges=[DEAD_JUDGE])
    with pytest.raises(MissingScores):
        asyncio.run(custom_rm(args(), samples("strict", (10,))[0]))


def test_rewards_are_normalised_without_the_samples_that_have_none() -> None:
    group = samples("norm") + samples("norm", group=2)
    for i, sample in enumerate(group):
        sample.reward = {"score": float(i)}
    group[3].remove_sample = True
    given = args(
        reward_key="score",
        advantage_estimator="grpo",
        rewards_normalization=True,
        grpo_std_normalization=True,
    )
    raw, rewards = post_process(given, group)
    assert raw == [float(i) for i in range(8)]
    first = np.array([0.0, 1.0, 2.0])
    np.testing.assert_allclose(rewards[:3], (first - 1) / (first.std(ddof=1) + 1e-6))
    assert rewards[3] == 0
    second = np.array([4.0, 5.0, 6.0, 7.0])
    np.testing.assert_allclose(rewards[4:], (second - 5.5) / (second.std(ddof=1) + 1e-6))


@pytest.mark.parametrize("estimator", ["grpo", "gspo", "cispo", "sapo"])
def test_estimators_that_compare_groups_get_scaled_rewards(estimator: str) -> None:
    group = samples("scaled", (1, 1))
    group[0].reward, group[1].reward = 0.0, 2.0
    _, rewards = post_process(args(advantage_estimator=estimator), group)
    assert rewards == pytest.approx([-1 / 2**0.5, 1 / 2**0.5], rel=1e-5)


def test_samples_without_a_group_belong_together_by_their_places() -> None:
    unnumbered = [Sample(index=i, reward=r) for i, r in enumerate([1.0, 3.0, 10.0, 10.0])]
    given = args(n_samples_per_prompt=2, grpo_std_normalization=False)
    assert post_process(given, unnumbered)[1] == pytest.approx([-1, 1, 0, 0])


def test_the_samples_of_one_attempt_count_once() -> None:
    """A custom generate function may split one attempt into several samples."""
    rewards = [1.0, 1.0, 1.0, 0.0]
    group = [Sample(7, i, ("a", "a", "a", "b")[i], reward=r) for i, r in enumerate(rewards)]
    given = args(grpo_std_normalization=False)
    assert post_process(given, group)[1] == pytest.approx([0.5, 0.5, 0.5, -0.5])
    for sample in group[:3]:
        sample.remove_sample = True
    assert post_process(args(), group)[1] == [0, 0, 0, 0]
    alone = [Sample(7, 0, "a", reward=1.0), Sample(7, 1, "a", reward=0.0)]
    assert post_process(args(), alone)[1] == pytest.approx([0, -1])


def test_other_estimators_get_centred_or_raw_rewards() -> None:
    group = samples("other")
    for i, sample in enumerate(group):
        sample.reward = float(i)
    centred = args(advantage_estimator="reinforce_plus_plus_baseline", rewards_normalization=True)
    assert post_process(centred, group)[1] == pytest.approx([-1.5, -0.5, 0.5, 1.5])
    raw = args(advantage_estimator="ppo", rewards_normalization=True)
    assert post_process(raw, group) == ([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0])
