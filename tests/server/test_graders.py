"""The doors for hosted graders: an endpoint grader, and OpenAI's grader JSON."""

from typing import Any

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import named
from oyer.manager import InvalidInput, RewardManager
from oyer.server.formula import evaluate
from tests.support.scripted_backend import sibling, user_text
from tests.support.served_app import Served, served


@pytest.fixture
def judge_says() -> str:
    return "Final score: 10"


def test_an_endpoint_grader_scores_a_sample(server: Served, judge: JudgeServer) -> None:
    body = {
        "sample": {"output_text": "It is four."},
        "item": {
            "messages": [{"role": "user", "content": "What is 2+2?"}],
            "reference_answer": "4",
            "id": "row 1",
        },
    }
    answer = server.post("/grade", body)
    assert answer.status == 200
    assert answer.json() == {"score": pytest.approx(1.0), "components": {"q": 10.0}}
    shown = user_text(judge.requests[0])
    assert all(text in shown for text in ("What is 2+2?", "It is four.", "4"))


@pytest.mark.parametrize(
    ("item", "reference"),
    [
        ({"reference_answer": None, "answer": ""}, None),
        ({"reference_answer": " ", "answer": ["4", "four"]}, '["4", "four"]'),
    ],
    ids=["none", "list"],
)
def test_a_gap_of_the_data_set_is_no_reference(
    server: Served, judge: JudgeServer, item: dict[str, Any], reference: str | None
) -> None:
    body = {"sample": {"output_text": f"Four, {reference}."}, "item": item}
    assert server.post("/grade", body).status == 200
    shown = user_text(judge.requests[0])
    assert ("## Reference" in shown) == (reference is not None)
    assert reference is None or f"\n{reference}\n" in shown


def test_the_judge_is_shown_the_values_of_an_item(
    backend: RewardManager, judge: JudgeServer
) -> None:
    (q,) = backend.config.model_dump(mode="json")["judges"]
    topical = {**q, "rubric": "{metadata.topic} {prompt} {response} Final score: 0 to 10"}
    with served(sibling(backend, judges=[topical])) as server:
        answer = server.post("/grade", {"sample": "seen", "item": {"topic": "owls"}})
        refused = server.post("/grade", {"sample": "seen", "item": {}})
    assert (answer.status, refused.status) == (200, 422)
    assert "metadata.topic: is missing" in refused.json()["error"]
    assert ["owls" in user_text(request) for request in judge.requests] == [True]


def test_a_sample_without_a_score_is_an_error_and_no_number(
    server: Served, judge: JudgeServer
) -> None:
    judge.set_plan(named("not_found"))
    assert server.post("/grade", {"sample": "unjudged", "item": {}}).status == 503
    assert server.post("/grade", {"sample": {}, "item": {}}).status == 422


def multi(formula: str, **graders: Any) -> dict[str, Any]:
    return {"type": "multi", "name": "all", "graders": graders, "calculate_output": formula}


EXACT = {
    "type": "string_check",
    "name": "exact",
    "input": "{{ sample.output_json.answers[0] }}",
    "reference": "{{item.answer}}",
    "operation": "ilike",
}
JUDGED = {"type": "score_model", "name": "q", "model": "m", "input": [], "range": [0, 2]}


def test_a_multi_grader_combines_checks_and_judges(server: Served, judge: JudgeServer) -> None:
    similar = {
        "type": "text_similarity",
        "name": "similar",
        "input": "{{sample.output_text}}",
        "reference": '{"answers": ["Four."]}',
        "evaluation_metric": "fuzzy_match",
    }
    body = {
        "grader": multi(
            "0.5 * exact + max(judged, 0) - similar", exact=EXACT, judged=JUDGED, similar=similar
        ),
        "item": {"question": "2+2?", "answer": "four"},
        "model_sample": '{"answers": ["Four."]}',
    }
    result = server.post("/graders/run", body).json()
    assert result["sub_rewards"] == {"exact": 1.0, "similar": 1.0, "judged": 2.0}
    assert result["reward"] == pytest.approx(1.5)
    assert len(judge.requests) == 1


def test_a_single_grader_runs_alone(server: Served, judge: JudgeServer) -> None:
    exact = {**EXACT, "input": "{{sample.output_text}}", "operation": "eq"}
    body = {"grader": exact, "item": {"answer": "4"}, "model_sample": "5"}
    assert server.post("/graders/run", body).json()["reward"] == 0.0
    assert not judge.requests
    body = {"grader": JUDGED, "item": {"prompt": "2+2?"}, "model_sample": "four"}
    assert server.post("/graders/run", body).json()["reward"] == 2.0


@pytest.mark.parametrize(
    ("grader", "error"),
    [
        ({"type": "python", "source": "…"}, "compute others in the trainer"),
        ({**JUDGED, "name": "other", "model": "other"}, "no judge is called 'other'"),
        (multi("exact + missing", exact=EXACT), "missing is not in `graders`"),
        (multi("exact.__class__", exact={**EXACT, "input": ""}), "only numbers"),
        (multi("1 / 0", exact={**EXACT, "input": ""}), "zero"),
        ({**EXACT, "input": "{{item.nothing}}"}, "not in the request"),
    ],
)
def test_a_grader_that_cannot_run_is_refused(
    server: Served, judge: JudgeServer, grader: dict[str, Any], error: str
) -> None:
    body = {"grader": grader, "item": {"answer": "4"}, "model_sample": "4"}
    answer = server.post("/graders/run", body)
    assert answer.status == 422
    assert error in answer.json()["error"]


@pytest.mark.parametrize(
    "formula", ["__import__('os')", "a if a else 1", "[a]", "a = 1", "9**9**9"]
)
def test_a_formula_is_arithmetic_only(formula: str) -> None:
    with pytest.raises(InvalidInput, match="calculate_output"):
        evaluate(formula, {"a": 1.0})
