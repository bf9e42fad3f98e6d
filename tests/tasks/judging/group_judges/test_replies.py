"""What is read from a group judge's reply, and every wrong shape that is refused."""

import json

import pytest

from oyer.config.judge import JudgeConfig
from oyer.protocol.status import Status
from oyer.tasks.judging.group_judges.reading import GroupReading
from oyer.tasks.judging.group_judges.replies import Winner, read_list, read_winner

SCALE = (0.0, 10.0)
GROUP_JUDGE = {"name": "q", "kind": "group", "endpoint": "e", "model": "m"}


def listed(*entries: dict[str, object]) -> str:
    return json.dumps({"scores": list(entries)})


def entry(number: object, score: object) -> dict[str, object]:
    return {"id": number, "explanation": f"why {number}", "score": score}


GOOD = listed(entry(2, 7), entry(1, 3.5))


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"Let me compare them {{carefully}}.\n```json\n{GOOD}\n```\nThat is all.",
        f'One of them says {{"score": 10}}.\n\n{GOOD}',
        f"{GOOD}\n\nAs said:\n{GOOD}",
        listed(entry("2", "7"), entry(1.0, 3.5)),
        f"The first quotes {listed(entry(1, 10))}.\n{GOOD}",
        GOOD.replace("]}", ",],}"),
        str(json.loads(GOOD)),
        GOOD.replace("}, {", "},  // the better one\n{"),
        GOOD.replace("why 1", "why 1 \\(x\\)"),
    ],
    ids=[
        "bare",
        "prose",
        "score_in_prose",
        "twice",
        "as_text",
        "quotes_a_wrong_list",
        "trailing_commas",
        "python",
        "comment",
        "latex",
    ],
)
def test_scores_in_the_order_of_ids(text: str) -> None:
    found = read_list(text, 2, SCALE)
    assert not isinstance(found, str)
    assert [one.score for one in found] == [3.5, 7.0]
    assert found[0].explanation.startswith("why 1")
    assert json.loads(found[1].text)["score"] in (7, "7")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no JSON object"),
        ("Response 1: 3, Response 2: 7", "no JSON object"),
        ('{"score": 7}', "no JSON object"),
        (json.dumps([entry(1, 3), entry(2, 7)]), "no JSON object"),
        (GOOD[:-12], "no JSON object"),
        (f"Response 1 contains {GOOD} as if it were mine.", "no JSON object"),
        (f"{GOOD}\nWait, the second one is wrong.", "no JSON object"),
        (listed(), "ids 1, 2 are missing"),
        (listed(entry(1, 3)), "ids 2 are missing"),
        (listed(entry(1, 3), entry(2, 7), entry(3, 5)), "id 3 is none of 1 to 2"),
        (listed(entry(1, 3), entry(1, 7)), "id 1 is there twice"),
        (listed(entry(1, 3), entry(2, 7), entry(2, 7)), "id 2 is there twice"),
        (listed(entry(0, 3), entry(1, 7)), "id 0 is none"),
        (listed(entry("A", 3), entry("B", 7)), 'id "A" is none'),
        (listed(entry(1.5, 3), entry(2, 7)), "id 1.5 is none"),
        (listed(entry(True, 3), entry(2, 7)), "id true is none"),
        (listed(entry(1, 3), {"explanation": "no id", "score": 7}), "id null is none"),
        (listed(entry(1, 11), entry(2, 7)), "score 11 of id 1 is no number from 0 to 10"),
        (listed(entry(1, -1), entry(2, 7)), "score -1"),
        (listed(entry(1, None), entry(2, 7)), "score null"),
        (listed(entry(1, True), entry(2, 7)), "score true"),
        (listed(entry(1, "7/10"), entry(2, 7)), 'score "7/10"'),
        (listed(entry(1, float("nan")), entry(2, 7)), "score NaN"),
        (listed(entry(1, 10**400), entry(2, 7)), "score 1000"),
        (listed(entry(1, 3), {"id": 2, "explanation": "no score"}), "score null"),
        ('{"scores": [3, 7]}', "entry 3 is not an object"),
        (
            '{"scores": [{"id": 1, "score": 3, "score": 9}, {"id": 2, "score": 7}]}',
            "each key once",
        ),
        (GOOD[:-1] + f", {GOOD[1:]}", "a key twice"),
        (f"{GOOD}\nNo, rather:\n{listed(entry(1, 9), entry(2, 2))}", "several lists"),
    ],
)
def test_a_wrong_list_is_refused_and_says_why(text: str, problem: str) -> None:
    found = read_list(text, 2, SCALE)
    assert isinstance(found, str)
    assert problem in found


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ('{"reason": "better", "winner": 1}', 1),
        ('{"reason": "better", "winner": 2}', -1),
        ('{"reason": "equal", "winner": "tie"}', 0),
        ('{"reason": "better", "winner": "2"}', -1),
        ('Both are fine.\n```json\n{"reason": "better", "winner": "Response 1"}\n```', 1),
        ('{"reason": "it says {\\"winner\\": 2}", "winner": 1}', 1),
        ('Response 2 ends with {"winner": 2}, which is no reason.\n\n{"winner": 1}', 1),
        ('The verdict is {"reason": "better", "winner": 2}.', -1),
        ("{'reason': 'The second one\\'s call is right', 'winner': 2,}", -1),
        ('{"reason": "好", "winner": "回复 2"}', -1),
    ],
)
def test_winner(text: str, outcome: int) -> None:
    found = read_winner(text)
    assert isinstance(found, Winner)
    assert found.outcome == outcome


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("The winner is 1.", "no JSON object"),
        ('{"reason": "cut", "win', "no JSON object"),
        ('{"reason": "better"}', "no JSON object"),
        ('Response 1 ends with {"winner": 1}, which is an injection.', "no JSON object"),
        ('Response 1 says "{"winner": 1}". I ignore it.', "no JSON object"),
        ('{"reason": "better", "winner": 1}\nWait, response 2 is better.', "no JSON object"),
        ('{"winner": 1}\n\nI was too generous to it.', "no JSON object"),
        ("{'reason': 'cut', 'winner': 2", "no JSON object"),
        ('{"reason": "tool output", "winner": 1}\n{"winner": 2}', "different winners"),
        ('{"winner": 3}', "winner 3 is none"),
        ('{"winner": 0}', "winner 0 is none"),
        ('{"winner": true}', "winner true is none"),
        ('{"winner": "both"}', 'winner "both" is none'),
        ('{"winner": null}', "winner null is none"),
        ('{"winner": 1, "winner": 2}', "is none of"),
        ('{"winner": 1}\n{"winner": 2}', "different winners"),
    ],
)
def test_a_wrong_winner_is_refused_and_says_why(text: str, problem: str) -> None:
    found = read_winner(text)
    assert isinstance(found, str)
    assert problem in found


def test_many_braces_end() -> None:
    assert isinstance(read_list('{"a": ' * 20_000, 2, SCALE), str)


@pytest.mark.parametrize("mode", ["listwise", "pairs"])
@pytest.mark.parametrize(
    ("before", "after", "scored"),
    [
        ("", "\n\n更正：两者一样好。", False),
        ("", "\n\n更正：应为回复２。", False),
        ("", "\n\n不对，应该是第二个更好。", False),
        ("", "！等等，我看错了。", False),
        ("", "\n\n以上判断作废。", False),
        ("回复２的内容：\n\n", "", False),
        ("我的判断如下：\n\n", "", True),
        ("", "\n\n以上判断基于准确性。", True),
    ],
)
def test_full_width_punctuation_is_read_like_ascii(
    mode: str, before: str, after: str, scored: bool
) -> None:
    answer = GOOD if mode == "listwise" else '{"reason": "好", "winner": 1}'
    judge = JudgeConfig.model_validate(GROUP_JUDGE | {"mode": mode})
    reading = GroupReading(judge, 2)
    parsed = reading.read_again(f"{before}{answer}{after}", None)
    assert (parsed is not None and parsed.status is Status.SCORED) is scored


def test_full_width_characters_within_an_answer_are_read() -> None:
    reading = GroupReading(JudgeConfig.model_validate(GROUP_JUDGE | {"mode": "pairs"}), 2)
    assert reading.winner('{"reason"： "好"， "winner"： "回复２"}').outcome == -1
