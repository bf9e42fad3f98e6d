"""Replies of judges that give verdicts: right ones, and every wrong shape."""

import json
from typing import Any

import pytest

from oyer.config.judge import JudgeConfig
from oyer.config.reward import RewardRules
from oyer.protocol.rollout import Rollout
from oyer.protocol.status import Status
from oyer.tasks.endpoint.types import Reply
from oyer.tasks.judging.criteria.verdict_reading import ParsedVerdicts
from oyer.tasks.judging.reading import Reading
from oyer.tasks.judging.request_record import Kept, first_messages
from oyer.tasks.judging.requests import JudgeRequest, requests_of
from tests.support.request_parameters import parameters_of

CRITERIA: list[dict[str, Any]] = [
    {"name": "correct", "text": "Is the answer right?", "weight": 3},
    {"name": "steps", "text": "Are the steps shown?", "choices": ["none", "some", "all"]},
    {"name": "filler", "text": "Has filler.", "points": -2},
]
RIGHT: list[dict[str, Any]] = [
    {"name": "correct", "reason": "It is 42.", "verdict": True},
    {"name": "steps", "reason": "One is missing.", "verdict": "some"},
    {"name": "filler", "reason": "None.", "verdict": False},
]
SCORE = (3 + 0.5 + 2) / 6


def requests(**keys: Any) -> list[JudgeRequest]:
    raw = {"name": "q", "endpoint": "e", "model": "m", "criteria": CRITERIA, **keys}
    judge = JudgeConfig.model_validate(raw)
    rollout = Rollout(prompt="What is 6 times 7?", response="It is 42.")
    return list(requests_of({0: rollout}, [judge], RewardRules(), {}))


def reading(**keys: Any) -> Reading:
    return requests(**keys)[0].reading


def reply(text: str, finish_reason: str | None = "stop", refusal: str | None = None) -> Reply:
    return Reply(
        text=text,
        finish_reason=finish_reason,
        refusal=refusal,
        prompt_tokens=1,
        completion_tokens=1,
        usage_reported=True,
        model="m",
    )


def written(*entries: Any) -> str:
    return json.dumps({"verdicts": list(entries)})


def names_read(text: str, finish_reason: str | None = "stop") -> set[str]:
    parsed = reading().read(reply(text, finish_reason))
    return set(parsed.verdicts) if isinstance(parsed, ParsedVerdicts) else set()


ALL = {"correct", "steps", "filler"}


@pytest.mark.parametrize(
    "text",
    [
        written(*RIGHT),
        f"I checked it.\n\n```json\n{json.dumps({'verdicts': RIGHT}, indent=2)}\n```\nThat is all.",
        f"<think>Is it {written(RIGHT[0])}?</think>\n{written(*RIGHT)}",
        written(*reversed(RIGHT)),
        json.dumps({"note": "x", "verdicts": RIGHT}),
        written({**RIGHT[0], "verdict": "true"}, *RIGHT[1:]),
        written(*RIGHT, {"name": "unknown", "reason": "r", "verdict": True}),
        written({**RIGHT[0], "reason": f"It says {written({'name': 'steps', 'verdict': 'all'})}"}, *RIGHT[1:]),
        f"{written(*RIGHT)}\n{written(*RIGHT)}",
        written(*RIGHT).replace("}", ",}").replace("]", ",]"),
        str({"verdicts": RIGHT}),
        "It is $\\frac{1}{2}$, then $\\frac{3}{4}$ and $\\sqrt{5}$.\n\n" + str({"verdicts": RIGHT}),
        written(*RIGHT).replace("}, {", "},  # next\n{"),
        written({**RIGHT[0], "reason": "It is"}, *RIGHT[1:]).replace("It is", "\\(42\\)"),
        json.dumps(written(*RIGHT)),
        f"{{{written(*RIGHT)}}}",
    ],
)  # fmt: skip
def test_verdicts_are_read(text: str) -> None:
    parsed = reading().read(reply(text))
    assert parsed.status is Status.SCORED
    assert parsed.score == pytest.approx(SCORE)
    assert isinstance(parsed, ParsedVerdicts)
    assert [(v.verdict, v.value) for v in parsed.verdicts.values()] == [
        (True, 1.0),
        ("some", 0.5),
        (False, 0.0),
    ]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (written(*RIGHT[:2]), {"correct", "steps"}),
        (written(*RIGHT, RIGHT[0]), {"steps", "filler"}),
        (written({**RIGHT[0], "name": "Correct"}, *RIGHT[1:]), {"steps", "filler"}),
        (written({**RIGHT[0], "name": "answer"}, *RIGHT[1:]), {"steps", "filler"}),
        (written(RIGHT[0], {**RIGHT[1], "verdict": "most"}, RIGHT[2]), {"correct", "filler"}),
        (written(RIGHT[0], {**RIGHT[1], "verdict": True}, RIGHT[2]), {"correct", "filler"}),
        (written({**RIGHT[0], "verdict": "some"}, *RIGHT[1:]), {"steps", "filler"}),
        (written({**RIGHT[0], "verdict": 1}, *RIGHT[1:]), {"steps", "filler"}),
        (written({**RIGHT[0], "verdict": None}, *RIGHT[1:]), {"steps", "filler"}),
        (written({"name": "correct", "reason": "r"}, *RIGHT[1:]), {"steps", "filler"}),
        (written("correct", *RIGHT[1:]), {"steps", "filler"}),
        (written(*RIGHT)[:-30], {"correct", "steps"}),
        (written(*RIGHT).replace('"verdict": true', '"verdict": true, "verdict": false'), {"steps", "filler"}),
        (f"{written(*RIGHT)}\n{written({**RIGHT[0], 'verdict': False}, *RIGHT[1:])}", {"steps", "filler"}),
        (f"{written({**RIGHT[0], 'reason': 'tool output'}, *RIGHT[1:])}\n{written({**RIGHT[0], 'verdict': False})}", {"steps", "filler"}),
        (f"{written(*RIGHT)}\nWait, the answer is not 42.", set()),
        (f"{written(*RIGHT)}\nI was too lenient on the first.", set()),
        (str({"verdicts": RIGHT})[:-30], set()),
        (f"The response contains {written(*RIGHT)} as if it were mine.", set()),
        (json.dumps({"verdicts": {"correct": True}}), set()),
        (json.dumps(RIGHT), set()),
        ("correct: true, steps: some, filler: false", set()),
        ("", set()),
        (f"<think>{written(*RIGHT)}", set()),
    ],
)  # fmt: skip
def test_a_wrong_shape_gives_no_verdict(text: str, read: set[str]) -> None:
    assert names_read(text) == read
    assert reading().read(reply(text)).status is not Status.SCORED


def test_a_cut_reply_keeps_its_whole_verdicts() -> None:
    cut = written(*RIGHT)[:-30]
    assert names_read(cut, "length") == {"correct", "steps"}
    assert reading().read(reply(cut, "length")).status is Status.UNPARSEABLE
    assert reading().read(reply('{"verdicts": [{"name": "co', "length")).status is Status.TRUNCATED


@pytest.mark.parametrize(
    ("text", "finish_reason", "refusal", "status"),
    [
        ("I cannot judge this response.", "stop", None, Status.REFUSED),
        ("", "content_filter", None, Status.REFUSED),
        ("", "stop", "No.", Status.REFUSED),
        ("Hm.", "stop", None, Status.UNPARSEABLE),
    ],
)
def test_a_reply_without_verdicts_says_why(
    text: str, finish_reason: str, refusal: str | None, status: Status
) -> None:
    assert reading().read(reply(text, finish_reason, refusal)).status is status


def test_only_the_missing_ones_are_asked_again() -> None:
    first = reading()
    parsed = first.read(reply(written(*RIGHT[:2])))
    question, after = first.reask(parsed, last=True)
    assert "### filler" in question
    assert "### correct" not in question
    changed = {**RIGHT[0], "verdict": False}
    done = after.read(reply(written(changed, RIGHT[2])))
    assert done.status is Status.SCORED
    assert done.score == pytest.approx(SCORE)
    assert done.reply is not None
    kept = first.read_again(done.reply, None)
    assert kept is not None
    assert kept.score == done.score


def test_enough_verdicts_are_a_score_once_nothing_more_is_asked() -> None:
    first = reading(min_valid_criteria=2)
    parsed = first.read(reply(written(*RIGHT[:2])))
    assert parsed.status is Status.UNPARSEABLE
    settled = first.settled(parsed)
    assert settled.status is Status.SCORED
    assert settled.score == pytest.approx(3.5 / 4)
    assert reading(min_valid_criteria=2, reasks=0).read(reply(written(*RIGHT[:2]))).score == (
        pytest.approx(3.5 / 4)
    )
    _, after = reading().reask(parsed, last=True)
    strict = after.read(reply("Hm."))
    assert strict.status is Status.UNPARSEABLE
    assert "'filler'" in strict.problem


def test_a_criterion_without_a_name_is_also_known_by_its_text() -> None:
    judge = JudgeConfig.model_validate(
        {"name": "q", "endpoint": "e", "model": "m", "criteria_from": "metadata.r"}
    )
    metadata = {"r": [{"criterion": "Names a doctor.", "points": 5}]}
    rollout = Rollout(prompt="p", response="See a doctor.", metadata=metadata)
    request = next(iter(requests_of({0: rollout}, [judge], RewardRules(), {})))
    for name in ("criterion_1", "Names a doctor."):
        text = written({"name": name, "reason": "r", "verdict": True})
        assert request.reading.read(reply(text)).score == 1.0


def test_calls_share_all_but_the_end_and_hide_the_weights() -> None:
    one_each = requests(criteria_per_call=1)
    assert [request.sample for request in one_each] == [0, 1, 2]
    texts = [request.request.messages[-1]["content"] for request in one_each if request.request]
    heads = {text.partition("## Criteria to judge")[0] for text in texts}
    assert len(heads) == 1
    assert "It is 42." in heads.pop()
    tails = [text.partition("## Criteria to judge")[2] for text in texts]
    assert [name in tail for name, tail in zip(("correct", "steps", "filler"), tails, strict=True)]
    assert "true if the response has the fault" in tails[2]
    assert not any("weight" in tail or "-2" in tail or "points" in tail for tail in tails)
    assert len({request.key for request in one_each}) == 3


def test_samples_of_the_first_call_come_first() -> None:
    found = requests(criteria_per_call=2, samples=2)
    assert [(request.sample, len(request.criteria)) for request in found] == [
        (0, 2),
        (1, 2),
        (2, 1),
        (3, 1),
    ]
    assert [request.first_sample for request in found] == [True, False, True, False]


def test_the_record_gives_the_messages_of_each_call_again() -> None:
    for request in requests(criteria_per_call=2, samples=2):
        assert request.request is not None
        assert request.key is not None
        kept = Kept(
            request_hash=request.key,
            sample=request.sample,
            parameters=parameters_of(request),
            messages=None,
            rubric=request.judge.rubric,
            prompt="What is 6 times 7?",
            response="It is 42.",
            reference=None,
        )
        assert first_messages(kept) == request.request.messages
