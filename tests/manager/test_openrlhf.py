"""OpenRLHF's reward file: queries in, numbers and marks out."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action, named
from oyer.manager import InvalidConfig, InvalidInput, InvalidRollout, RewardManager, openrlhf
from oyer.manager.openrlhf import missing_reward, reward, reward_function, rows_of
from oyer.manager.openrlhf.query_text import QueryText, special_tokens
from oyer.manager.score import Score
from tests.support.scripted_backend import DEAD_JUDGE, by_response, sibling, user_text


@pytest.fixture
def judge_says() -> str:
    return "Final score: 10"


PROMPT = "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n"


def test_a_query_is_scored_in_openrlhf_s_words(backend: RewardManager, judge: JudgeServer) -> None:
    judge.set_plan(by_response({"alpha.": 10, "beta.": 1}))
    queries = [f"{PROMPT}alpha.<|im_end|>", f"{PROMPT}beta.<|im_end|>"]
    answer = reward_function(backend)(queries, [PROMPT] * 2, ["42", "43"])
    assert answer["rewards"] == pytest.approx([1.0, 0.1])
    assert answer["scores"] == [1.0, 0.0]
    assert answer["extra_logs"]["oyer_missing"] == [0.0, 0.0]
    assert answer["extra_logs"]["oyer_judge_score"] == [10.0, 1.0]
    assert "42" in user_text(next(a for a in judge.requests if "alpha." in user_text(a)))


def test_the_configured_function_is_what_the_file_exports(
    backend: RewardManager, judge: JudgeServer, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "oyer.yaml"
    file.write_text(json.dumps(backend.config.model_dump(mode="json")))
    monkeypatch.setenv("OYER_CONFIG", str(file))
    reward._configured.cache_clear()
    answer = openrlhf.reward_func([f"{PROMPT}exported"], [PROMPT], ["1"], unknown="ignored")
    assert answer["rewards"] == pytest.approx([1.0])


def test_base_scores_gate_and_groups_are_assembled_by_prompt(
    backend: RewardManager, judge: JudgeServer
) -> None:
    right = reward_function(backend, base_score=lambda prompt, response, label: float(label))
    answer = right([f"{PROMPT}base a", f"{PROMPT}base b"], [PROMPT] * 2, [1, 0])
    assert answer["rewards"] == pytest.approx([2.0, 0.0])
    assert len(judge.requests) == 1
    compared = sibling(backend, length={"method": "median_band", "unit": "chars"})
    queries = [f"{PROMPT}{'x' * n}" for n in (10, 11, 30)]
    shaped = reward_function(compared, group_size=3)(queries, [PROMPT] * 3, None)
    assert shaped["extra_logs"]["oyer_length_term"] == pytest.approx([0, 0, -1])


def test_a_base_score_that_fails_is_a_stand_in_and_no_exception(
    backend: RewardManager, judge: JudgeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenRLHF would swallow one, and end later for want of a reward."""

    def failing(prompt: str, response: str, label: Any) -> float:
        raise ZeroDivisionError

    answer = reward_function(backend, base_score=failing, stand_in=-1.0)(["? fails"], ["?"], [None])
    assert answer["rewards"] == [-1.0]
    assert answer["extra_logs"]["oyer_missing"] == [1.0]
    assert "ZeroDivisionError" in caplog.text
    right = reward_function(backend, base_score=lambda *_: True)
    assert right([f"{PROMPT}true"], [PROMPT], ["x"])["rewards"] == pytest.approx([2.0])


def test_scores_lie_in_0_to_1_whatever_the_scale(
    backend: RewardManager, judge: JudgeServer
) -> None:
    """Dynamic filtering compares them with bounds from 0 to 1."""
    judge.set_plan(by_response({"best.": 10, "worst.": 1}))
    queries = [f"{PROMPT}best.", f"{PROMPT}worst."]
    one = backend.config.judges[0].model_dump(mode="json")
    normalized = {**one, "normalize": True}
    pair = [{**normalized, "name": "a"}, {**one, "name": "b", "weight": 0.3}]
    for judges in ([normalized], pair):
        function = reward_function(sibling(backend, judges=judges))
        assert function(queries, [PROMPT] * 2, None)["scores"] == pytest.approx([1.0, 0.0])


def test_a_rollout_that_is_not_judged_scores_0(backend: RewardManager, judge: JudgeServer) -> None:
    method = {"method": "target_range", "low": 0, "high": 1, "slope_high": 0.1, "unit": "chars"}
    penalised = sibling(backend, length=method)
    wrong = reward_function(penalised, base_score=lambda *_: 0.0)
    answer = wrong([f"{PROMPT}wrong answer"], [PROMPT], None)
    assert answer["rewards"][0] < 0
    assert answer["scores"] == [0.0]


def test_two_samples_with_one_text_are_two_of_their_group(
    backend: RewardManager, judge: JudgeServer
) -> None:
    """OpenRLHF calls on a thread of its own for each sample."""
    compared = sibling(backend, length={"method": "median_band", "unit": "chars"})
    function = reward_function(compared, group_size=3)
    texts = ["twin" * 5, "twin" * 5, "single" * 5]
    with ThreadPoolExecutor(3) as threads:
        calls = [threads.submit(function, [PROMPT + text], [PROMPT], None) for text in texts]
        rewards = [call.result(90)["rewards"][0] for call in calls]
    # Of 20, 20 and 30 the median is 20; were the twins one, it would be 25.
    assert rewards == pytest.approx([1.0, 1.0, 0.0])
    assert len(judge.requests) == 2


def test_a_configuration_that_fits_no_rollout_is_refused_at_once(backend: RewardManager) -> None:
    counted = sibling(backend, length={"method": "median_band"})
    with pytest.raises(InvalidConfig, match=r"text only.*response_tokens.*tokenizer"):
        reward_function(counted, group_size=4)
    compared = sibling(backend, length={"method": "median_band", "unit": "chars"})
    with pytest.raises(InvalidConfig, match="group_size"):
        reward_function(compared)
    by_correct = sibling(backend, reward={"zero_unless": "correct"})
    with pytest.raises(InvalidConfig, match="correct"):
        reward_function(by_correct)
    reward_function(by_correct, base_score=lambda *_: 1.0)


@pytest.mark.parametrize("failure", ["rate_limited", "dead", "late", "surrogate"])
def test_a_missing_reward_is_a_number_with_a_mark(
    backend: RewardManager, judge: JudgeServer, failure: str
) -> None:
    manager, query, timeout_s = backend, f"{PROMPT}{failure}", 60.0
    if failure == "rate_limited":
        judge.set_plan(named("rate_limited", retry_after_s=0))
    elif failure == "dead":
        manager = sibling(backend, judges=[DEAD_JUDGE])
    elif failure == "late":
        judge.set_plan(Action(hold=True))
        timeout_s = 0.3
    else:
        query += "\ud83d"
    function = reward_function(manager, timeout_s=timeout_s, stand_in=0.25)
    answer = function([query], [PROMPT], [None])
    judge.release()
    assert answer["rewards"] == [0.25]
    assert answer["scores"] == [0.25]
    assert answer["extra_logs"]["oyer_missing"] == [1.0]
    assert all(math.isfinite(v) for values in answer["extra_logs"].values() for v in values)


def test_a_missing_reward_is_the_stand_in() -> None:
    assert missing_reward(Score(status="timeout"), 0.5) == 0.5
    assert missing_reward(Score(status="scored", reward=2.0), 0.5) == 2.0


@pytest.mark.parametrize(
    ("query", "prompt", "response"),
    [
        ("Q: 2+2? 4", "Q: 2+2?", " 4"),
        ("<s>Q A</s>", "Q", " A"),
        ("Q A<|im_end|>\n<|endoftext|>", "Q", " A"),
        ("no prompt", "", "no prompt"),
        # White space is decoded differently.
        ("<s> Q : 2 + 2 ?\n4", "Q: 2+2?", "4"),
        # The trainer has cut the prompt on the left, also inside a character.
        ("of a question? A\n4<eos>", "The long start of a question? A\n", "4"),
        ("\ufffd\ufffdof a question? 4", "日本 of a question?", " 4"),
        ("a a a a a b b b b b c", "a a a a a a a a a a b b b b b", "c"),
    ],
)
def test_the_response_is_the_query_without_prompt_and_end_marks(
    query: str, prompt: str, response: str
) -> None:
    assert QueryText().response(query, prompt)[0].strip() == response.strip()


@pytest.mark.parametrize("query", ["something else", "2? 4", ""])
def test_a_query_without_its_prompt_is_refused(query: str) -> None:
    with pytest.raises(InvalidRollout, match="query: does not start with the prompt"):
        QueryText().response(query, "Q: what is 2+2?")


@pytest.mark.parametrize(
    "mark",
    [
        "<eos>", "<end_of_turn>\n", "<｜end▁of▁sentence｜>", "<|im_end|>", "<|eot_id|>", "</s>",
        "<|endoftext|>", "<|return|>", "<|END_OF_TURN_TOKEN|>", "[|endofturn|]", "<turn|>", "[e~[",
    ],
)  # fmt: skip
def test_end_marks_of_common_models_are_no_part_of_a_response(mark: str) -> None:
    assert QueryText().response(f"Q? The end.{mark}", "Q?") == (" The end.", True)
    assert QueryText().response("Q? The en", "Q?") == (" The en", False)
    # Padding does not end a response.
    assert QueryText().response("Q? The en<pad>", "Q?") == (" The en", False)


@pytest.mark.parametrize("unit", ["\n", "<|a|> ", "</s>"])
def test_long_runs_inside_a_response_take_linear_time(unit: str) -> None:
    """Policies degenerate into such runs; in quadratic time this test would not end."""
    query = unit * (1_000_000 // len(unit)) + "x"
    assert QueryText().response(query + "</s>", "") == (query, True)


def test_the_end_marks_are_the_special_tokens_of_a_named_tokenizer(tmp_path: Path) -> None:
    added = [{"id": 1, "content": "<fin>", "special": True}, {"id": 2, "content": "<b>"}]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<over>"}))
    texts = QueryText(special_tokens(str(tmp_path)))
    assert texts.response("Q <b>bold<b><fin>", "Q") == (" <b>bold<b>", True)
    assert texts.response("Q A<over>", "Q") == (" A", True)
    assert texts.response("Q A<|im_end|>", "Q") == (" A<|im_end|>", False)
    with pytest.raises(InvalidConfig, match=r"tokenizer: .* give a folder"):
        special_tokens(str(tmp_path / "nothing"))


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(InvalidInput, match="have 1, 2 and 1 entries"):
        rows_of(["q"], ["p", "p"], None, QueryText())
