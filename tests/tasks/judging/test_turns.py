"""A judge with `view: each_turn`: its requests, its rows, and the verdict that they give."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.config.reward import JudgeConfig, RewardConfig, RewardRules
from oyer.models.rows import JudgementRow, StoredJudgement
from oyer.protocol.content import turn_states
from oyer.protocol.errors import InvalidConfig
from oyer.protocol.rollout import Message, Rollout
from oyer.protocol.status import Status
from oyer.tasks.judging.judgements import (
    Answer,
    judgement_row,
    key_of,
    recorded_result,
    settled_rows,
    verdicts_on,
)
from oyer.tasks.judging.request_record import Kept, first_messages
from oyer.tasks.judging.requests import JudgeRequest, decided_score, requests_of
from oyer.tasks.parsing.parser import parse_score
from tests.support.request_parameters import parameters_of

USER = {"role": "user", "content": "And then?"}
TOOL = {"role": "tool", "content": "42", "tool_call_id": "1"}


def own(text: str) -> Message:
    return {"role": "assistant", "content": text}


RESPONSE = [own("first"), TOOL, own("second"), USER, own("third"), USER]
ROLLOUT = Rollout(prompt="p", response=RESPONSE)


def judge_of(**keys: Any) -> JudgeConfig:
    return JudgeConfig.model_validate(
        {"name": "q", "endpoint": "e", "model": "m", "view": "each_turn", **keys}
    )


def jobs_of(rollout: Rollout, **keys: Any) -> list[JudgeRequest]:
    return list(requests_of({0: rollout}, [judge_of(**keys)], RewardRules(), {}))


def shown(job: JudgeRequest) -> str:
    assert job.request is not None, job.error
    return str(job.request.messages[-1]["content"])


def row_of(job: JudgeRequest, reply: str | None) -> JudgementRow:
    """Return the row of a request that was answered, or that failed if there is no reply."""
    if job.decided is not None:
        row = judgement_row(job, Answer(source="none", status=job.decided), worker="w", price=None)
        row["score"] = decided_score(job)
        return row
    answer = Answer(source="called", status=Status.TIMEOUT, error="too late")
    if reply is not None:
        parsed = parse_score(reply, scale=(1.0, 10.0))
        answer = Answer(source="called", status=parsed.status, text=reply, parsed=parsed)
    return judgement_row(job, answer, worker="w", price=None)


def rows_of(
    jobs: list[JudgeRequest], scores: dict[tuple[int | None, int], float | None]
) -> dict[Any, JudgementRow]:
    """Answer each request by turn and sample; None fails it."""
    rows = []
    for job in jobs:
        score = scores.get((job.turn, job.sample % job.judge.samples))
        rows.append(row_of(job, None if score is None else f"Final score: {score}"))
    return {key_of(row): row for row in rows}


def test_a_state_ends_with_a_message_of_the_policy_and_the_results_of_its_calls() -> None:
    assert turn_states(RESPONSE) == [RESPONSE[:2], RESPONSE[:3], RESPONSE]
    assert turn_states("text") == ["text"]
    assert turn_states([USER]) == [[USER]]
    assert turn_states([own("a"), own("b")]) == [[own("a")], [own("a"), own("b")]]


@given(st.lists(st.sampled_from([own("x"), USER, TOOL]), max_size=8))
def test_states_grow_to_the_whole_response_one_message_of_the_policy_each(
    response: list[Message],
) -> None:
    states = [state for state in turn_states(response) if isinstance(state, list)]
    own_messages = [sum(one["role"] == "assistant" for one in state) for state in states]
    assert states[-1] == response
    assert own_messages == [*range(1, own_messages[-1] + 1)] or own_messages == [0]
    for shorter, longer in itertools.pairwise(states):
        assert longer[: len(shorter)] == shorter


def test_each_turn_is_a_request_that_begins_as_the_others_do() -> None:
    jobs = jobs_of(ROLLOUT, samples=2)
    assert [job.place[1:] for job in jobs] == [
        *(("q", 0), ("q", 1)),
        *(("q/turns", 0), ("q/turns", 1), ("q/turns", 2), ("q/turns", 3)),
    ]
    assert [job.turn for job in jobs] == [2, 2, 0, 0, 1, 1]
    whole, first, second = (shown(jobs[i]) for i in (0, 2, 4))
    assert "second" not in first
    assert "42" in first
    assert "third" not in second
    assert second.startswith(first.rpartition("\n\n")[0])
    assert whole.startswith(second.rpartition("\n\n")[0])
    assert len({job.key for job in jobs}) == 6


def test_the_whole_response_shares_its_request_with_the_full_view() -> None:
    assert jobs_of(ROLLOUT)[0].key == jobs_of(ROLLOUT, view="full")[0].key
    (job,) = jobs_of(Rollout(prompt="p", response="text"))
    assert (job.turn, job.judge.name) == (0, "q")
    assert job.key == jobs_of(Rollout(prompt="p", response="text"), view="full")[0].key


def test_the_score_is_that_of_the_last_turn() -> None:
    jobs = jobs_of(ROLLOUT, samples=2)
    scores: dict[tuple[int | None, int], float | None] = {(0, 0): 2, (0, 1): 4, (1, 0): 5}
    scores |= {(1, 1): 5, (2, 0): 9, (2, 1): 8}
    verdict = verdicts_on(rows_of(jobs, scores), judge_of(samples=2), [0])[0]
    assert (verdict.score, verdict.status) == (8.5, Status.SCORED)
    assert verdict.turn_scores == [3.0, 5.0, 8.5]


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_a_missing_turn_is_none_and_the_status_of_the_rollout(turn: int) -> None:
    scores: dict[tuple[int | None, int], float | None] = {(0, 0): 2, (1, 0): 5, (2, 0): 9}
    rows = rows_of(jobs_of(ROLLOUT), {**scores, (turn, 0): None})
    verdict = verdicts_on(rows, judge_of(), [0])[0]
    assert (verdict.score, verdict.status) == (None, Status.TIMEOUT)
    assert verdict.error == f"turn {turn + 1}: too late"
    expected: list[float | None] = [2.0, 5.0, 9.0]
    expected[turn] = None
    assert verdict.turn_scores == expected


def test_turns_without_words_and_gated_rollouts_need_no_call() -> None:
    silent = Rollout(prompt="p", response=[own(""), USER, own("words")])
    jobs = jobs_of(silent)
    assert [(job.turn, job.decided) for job in jobs] == [(1, None), (0, Status.EMPTY)]
    verdict = verdicts_on(rows_of(jobs, {(1, 0): 7}), judge_of(), [0])[0]
    assert (verdict.score, verdict.status, verdict.turn_scores) == (7.0, Status.SCORED, [1.0, 7.0])
    gated = jobs_of(Rollout(prompt="p", response=RESPONSE, base_score=0.0))
    verdict = verdicts_on(rows_of(gated, {}), judge_of(), [0])[0]
    assert (verdict.status, verdict.turn_scores) == (Status.GATED, [None, None, None])


def test_criteria_are_judged_after_each_turn() -> None:
    criteria = [{"name": name, "text": "Is it?"} for name in ("a", "b")]
    judge = judge_of(criteria=criteria, criteria_per_call=1)
    jobs = list(requests_of({0: ROLLOUT}, [judge], RewardRules(), {}))
    assert [(job.place[1:], job.turn) for job in jobs] == [
        *((("q", 0), 2), (("q", 1), 2)),
        *((("q/turns", 0), 0), (("q/turns", 1), 0), (("q/turns", 2), 1), (("q/turns", 3), 1)),
    ]
    rows = {}
    for job in jobs:
        name = job.criteria[0].name
        met = job.turn == 2 or (job.turn == 1 and name == "a")
        text = json.dumps({"verdicts": [{"name": name, "reason": "r", "verdict": met}]})
        parsed = job.reading.read_again(text, None)
        assert parsed is not None
        answer = Answer(source="called", status=parsed.status, text=text, parsed=parsed)
        row = judgement_row(job, answer, worker="w", price=None)
        rows[key_of(row)] = row
    verdict = verdicts_on(rows, judge, [0])[0]
    assert (verdict.score, verdict.turn_scores) == (1.0, [0.0, 0.5, 1.0])
    assert [one["verdict"] for one in verdict.criteria] == [True, True]


def test_a_chunk_is_read_back_with_its_turns_or_not_at_all() -> None:
    scores: dict[tuple[int | None, int], float | None] = {(0, 0): 2, (1, 0): 5, (2, 0): 9}
    rows: dict[Any, Any] = rows_of(jobs_of(ROLLOUT), scores)
    result = recorded_result(0, [0], [judge_of()], rows)
    assert result is not None
    assert result.turn_scores == [[2.0, 5.0, 9.0]]
    failed: dict[Any, StoredJudgement] = rows_of(jobs_of(ROLLOUT), {**scores, (0, 0): None})  # type: ignore[assignment]  # without the keys of stored rows
    assert recorded_result(0, [0], [judge_of()], failed) is None
    assert set(settled_rows(failed.values())) == {(0, "q", 0), (0, "q/turns", 1)}


def test_the_request_of_a_turn_is_rebuilt_from_the_record() -> None:
    for job in jobs_of(ROLLOUT, samples=2):
        assert job.request is not None
        kept = Kept(
            request_hash=str(job.key),
            sample=job.sample,
            parameters=parameters_of(job),
            messages=None,
            rubric=job.judge.rubric,
            prompt="p",
            response=json.dumps(RESPONSE),
            reference=None,
            turn=job.turn,
        )
        assert first_messages(kept) == job.request.messages


@pytest.mark.parametrize(
    ("judges", "message"),
    [
        (
            [{"name": "a", "view": "each_turn"}, {"name": "b", "view": "each_turn"}],
            r"judges\[1\].view: 'a' already has `each_turn`",
        ),
        ([{"name": "a", "kind": "group", "view": "each_turn"}], "is for `kind: pointwise`"),
    ],
)
def test_a_view_that_cannot_serve_is_refused(judges: list[dict[str, Any]], message: str) -> None:
    given = [{"endpoint": "e", "model": "m", **judge} for judge in judges]
    with pytest.raises((InvalidConfig, ValueError), match=message):
        RewardConfig.model_validate({"judges": given})


def test_normalized_scores_are_normalized_in_each_turn() -> None:
    judge = judge_of(normalize=True)
    jobs = list(requests_of({0: ROLLOUT}, [judge], RewardRules(), {}))
    verdict = verdicts_on(rows_of(jobs, {(0, 0): 1, (1, 0): 5.5, (2, 0): 10}), judge, [0])[0]
    assert verdict.turn_scores == [0.0, 0.5, 1.0]
