"""A reply gives its score, or no score with the reason why."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.protocol.status import Status
from oyer.tasks.parsing.parser import ParsedScore, parse_score, response_format
from tests.support.paths import DATA

RECORDED: dict[str, list[dict[str, Any]]] = {
    name: [json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines()]
    for name in ("judge_outputs.jsonl", "judge_outputs_more.jsonl")
}
ROWS = [row for rows in RECORDED.values() for row in rows]
EXCERPT_CHARS = 300
ON_TEN = (1.0, 10.0)
DECOYS = [
    "评分标准：8-10分为优秀，5-7分为良好。",
    "总分将被限制在1-3分。",
    "Accuracy: 8/10",
    "Clarity score: 6",
    "- 文本可读性：9.0/10（保持）",
    "### Part 2",
    "1. The city is right.",
    "> Final score: 10",
    "The response says “Final score: 10”.",
    "回复中写着「最终评分：10」，属于注入。",
    "```\nFinal score: 10\n```",
    'The call was:\n```json\n{"name": "rate", "arguments": {"score": 9}}\n```',
    "The answer \\boxed{8} is right.",
    "It passes 3/10 tests.",
    "Tom scored 8 points in 5 minutes.",
    "Score: 5",
    "答案是7",
    "扣2分。",
    "| 准确性 | 8 |",
]


def parse(text: str, **kwargs: Any) -> ParsedScore:
    return parse_score(text, **{"scale": ON_TEN, **kwargs})


def difference(place: str, row: dict[str, Any]) -> str | None:
    """Describe how a recorded reply is parsed otherwise than its row expects; None if it is not."""
    parsed = parse_score(
        row["text"], scale=tuple(row["scale"]), finish_reason=row.get("finish_reason", "stop")
    )
    got = parsed.score if parsed.status is Status.SCORED else None
    if got == row["expected"] and math.isnan(parsed.score) is (row["expected"] is None):
        return None
    excerpt = row["text"]
    if len(excerpt) > EXCERPT_CHARS:
        excerpt = f"{excerpt[: EXCERPT_CHARS // 2]} … {excerpt[-EXCERPT_CHARS // 2 :]}"
    return (
        f"{place} {row.get('tags', [])}: expected {row['expected']}, got {got}"
        f" ({parsed.status}, {parsed.layer}, from {parsed.span!r}) on scale {row['scale']}"
        f" in {excerpt!r}"
    )


@pytest.mark.parametrize(
    ("name", "replies", "scored"),
    [("judge_outputs.jsonl", 46, 35), ("judge_outputs_more.jsonl", 3548, 2296)],
)
def test_every_recorded_reply_gives_the_score_that_a_careful_reader_gave(
    name: str, replies: int, scored: int
) -> None:
    rows = RECORDED[name]
    assert (len(rows), sum(row["expected"] is not None for row in rows)) == (replies, scored)
    places = ((f"{name}:{line}", row) for line, row in enumerate(rows, start=1))
    differences = [found for place, row in places if (found := difference(place, row))]
    assert not differences, f"{len(differences)} of {replies} differ:\n" + "\n".join(differences)


@pytest.mark.parametrize(
    ("text", "expected", "report"),
    [
        ("Score: 7", 7, None),
        ("Good.", None, None),
        ("Score: 7", 8, "a:1 ['en']: expected 8, got 7.0 (scored, label, from 'Score: 7')"),
        ("Score: 7", None, "a:1 ['en']: expected None, got 7.0 (scored, label, from 'Score: 7')"),
        ("Good.", 7, "a:1 ['en']: expected 7, got None (unparseable, none, from '')"),
    ],
)
def test_a_difference_shows_expected_and_parsed_score_and_the_reply(
    text: str, expected: float | None, report: str | None
) -> None:
    row = {"text": text, "expected": expected, "scale": [1, 10], "tags": ["en"]}
    assert difference("a:1", row) == (report and f"{report} on scale [1, 10] in {text!r}")


@pytest.mark.parametrize(
    ("text", "kwargs", "status", "layer"),
    [
        ("Score: 8", {"finish_reason": "length"}, Status.TRUNCATED, "finish_reason"),
        ("Score: 8", {"finish_reason": "content_filter"}, Status.REFUSED, "refusal"),
        ("Score: 8", {"finish_reason": "content_filter: RECITATION"}, Status.REFUSED, "refusal"),
        ("Score: 8", {"finish_reason": "MAX_TOKENS"}, Status.TRUNCATED, "finish_reason"),
        ("Score: 8", {"finish_reason": "abort"}, Status.UNAVAILABLE, "finish_reason"),
        ('{"score": 8}', {"finish_reason": "abort"}, Status.UNAVAILABLE, "finish_reason"),
        ("Score: 8", {"finish_reason": "odd"}, Status.TRUNCATED, "finish_reason"),
        ('{"score": 8', {"finish_reason": "odd"}, Status.TRUNCATED, "finish_reason"),
        ('{"score": 8}\nStill', {"finish_reason": "odd"}, Status.TRUNCATED, "finish_reason"),
        ('{"reason": "fine"}', {"finish_reason": "odd"}, Status.TRUNCATED, "finish_reason"),
        ("{'score': 8}", {"finish_reason": "odd"}, Status.TRUNCATED, "finish_reason"),
        ('{"score": 11}', {"finish_reason": "odd"}, Status.UNPARSEABLE, "off_scale"),
        ("", {"refusal": "I can't help with that."}, Status.REFUSED, "refusal"),
        ("我无法对该内容评分。", {}, Status.REFUSED, "refusal"),
        ("<think>Score: 8", {}, Status.UNPARSEABLE, "thinking"),
        ("Score: 11", {}, Status.UNPARSEABLE, "off_scale"),
        ("Score: 7 or 8", {}, Status.UNPARSEABLE, "unreliable"),
        ("Score: 7\n\n9", {}, Status.UNPARSEABLE, "conflict"),
        ("The response claims a final score of 9.", {}, Status.UNPARSEABLE, "disowned"),
        ("Good.", {}, Status.UNPARSEABLE, "none"),
    ],
)
def test_a_missing_score_says_why(
    text: str, kwargs: dict[str, str], status: Status, layer: str
) -> None:
    parsed = parse(text, **kwargs)
    assert math.isnan(parsed.score)
    assert (parsed.status, parsed.layer) == (status, layer)


@pytest.mark.parametrize(
    ("text", "layer", "span"),
    [
        ("Fine.\n**Final score**: 7/10", "label", "Final score : 7/10"),
        ("Rating: [[7]]", "bracket", "[[7]]"),
        ('{"score": 7}', "object", '{"score": 7}'),
        ("<score>7</score>", "element", "<score>7</score>"),
        ("I'd give it a 7.", "prose", "I'd give it a 7"),
        ("Fine.\n7", "bare", "7"),
    ],
)
def test_a_score_has_its_layer_and_span(text: str, layer: str, span: str) -> None:
    assert parse(text) == ParsedScore(7.0, Status.SCORED, layer, span)


@pytest.mark.parametrize("finish_reason", ["stop", None, "tool_calls", "STOP", "eos", "end_turn"])
def test_a_complete_reply_is_parsed(finish_reason: str | None) -> None:
    assert parse("最终评分: 8", finish_reason=finish_reason).score == 8


@pytest.mark.parametrize(
    "text",
    [
        '{"score": 8}',
        '{"reasoning": "Fine.", "score": 8}\n',
        '```json\n{"score": 8}\n```',
        'Fine.\n\n```json\n{"score": 8}\n```',
        '<think>{"score": 3}</think>{"score": 8}',
    ],
)
def test_after_an_unknown_finish_reason_a_complete_json_verdict_is_parsed(text: str) -> None:
    assert parse(text, finish_reason="odd").score == 8


@pytest.mark.parametrize(("scale", "score"), [((1, 5), 4), ((0, 1), 0.5), ((0, 100), 91)])
def test_a_score_is_parsed_on_the_judges_scale(scale: tuple[int, int], score: float) -> None:
    assert parse_score(f"最终评分：{score}/{scale[1]}", scale=scale).score == score
    assert math.isnan(parse_score(f"最终评分：{score}/{scale[1] * 2}", scale=scale).score)


def test_a_scale_below_zero_accepts_signs() -> None:
    assert parse_score("Score: -3", scale=(-5, 5)).score == -3
    assert parse_score("Score: +3", scale=(-5, 5)).score == 3


def test_structured_output_asks_for_reasons_first_and_is_parsed() -> None:
    schema = response_format(ON_TEN)["json_schema"]["schema"]
    assert list(schema["properties"]) == schema["required"] == ["reasoning", "score"]
    assert (schema["properties"]["score"]["minimum"], schema["properties"]["score"]["maximum"]) == (
        1.0,
        10.0,
    )
    assert parse(json.dumps({"reasoning": "Final score: 3?", "score": 8})).score == 8


FRAGMENT = st.sampled_from([row["text"] for row in ROWS] + DECOYS) | st.text(max_size=12)
SCALE = st.sampled_from([(1, 10), (0, 10), (1, 5), (0, 1), (0, 100), (-5, 5)])


@given(st.lists(FRAGMENT, max_size=4), st.sampled_from(["", " ", "\n", "。", "**", "“"]), SCALE)
def test_no_text_raises_or_scores_off_the_scale(
    parts: list[str], glue: str, scale: tuple[int, int]
) -> None:
    parsed = parse_score(glue.join(parts), scale=scale)
    if parsed.status is Status.SCORED:
        assert scale[0] <= parsed.score <= scale[1]
    else:
        assert math.isnan(parsed.score)


@given(st.text())
def test_any_text_is_parsed_without_raising(text: str) -> None:
    assert isinstance(parse(text), ParsedScore)


@given(st.lists(st.sampled_from(DECOYS), max_size=5), st.integers(1, 10))
def test_a_final_line_wins_over_every_decoy_before_it(decoys: list[str], score: int) -> None:
    for line in (f"最终评分: {score}", f"**Final score:** {score}/10"):
        assert parse("\n".join([*decoys, "", line])).score == score


@pytest.mark.parametrize(
    "verdict", ["最终评分: {}", "Final score: {}/10", "[[{}]]", '{{"score": {}}}']
)
@given(before=st.lists(FRAGMENT, max_size=3), score=st.integers(1, 10))
def test_a_verdict_at_the_end_never_gives_another_number(
    verdict: str, before: list[str], score: int
) -> None:
    parsed = parse("\n".join([*before, "", verdict.format(score)]))
    assert math.isnan(parsed.score) or parsed.score == score


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('- 参数: 正确\n- 格式: 正确\n\n{"score": 8}', 8),
        ('The tool call used the wrong city.\n{"score": 3}', 3),
        ('工具返回:\n\n{"score": 9}', math.nan),
        ('The output was\n{"score": 9}', math.nan),
        ('The tool call was {"score": 9}', math.nan),
    ],
)
def test_an_object_announced_as_a_quotation_is_not_a_verdict(text: str, score: float) -> None:
    assert parse(text).score == pytest.approx(score, nan_ok=True)


@given(st.sampled_from([row["text"] for row in ROWS]))
def test_full_width_characters_are_parsed_like_ascii(text: str) -> None:
    wide = text.translate({ord(c): ord(c) + 0xFEE0 for c in "0123456789:/().,!;|[]{}=<>+"})
    assert parse(wide).score == pytest.approx(parse(text).score, abs=0, nan_ok=True)


@given(st.sampled_from([row["text"] for row in ROWS if "<" not in row["text"]]))
def test_closed_thinking_before_a_reply_changes_nothing(text: str) -> None:
    plain = parse(text)
    for thought in ("<think>最终评分：10</think>", "Final score: 9\n</think>\n"):
        assert parse(thought + text).score == pytest.approx(plain.score, abs=0, nan_ok=True)


@given(st.sampled_from([row["text"] for row in ROWS if not {"`", "~"} & set(row["text"])]))
def test_a_fence_around_the_whole_reply_changes_nothing(text: str) -> None:
    fenced = parse(f"```markdown\n{text}\n```")
    assert fenced.score == pytest.approx(parse(text).score, abs=0, nan_ok=True)


@pytest.mark.parametrize(
    "unit",
    [
        *(
            "[[1]]",
            "`",
            "```a\n",
            "~~",
            "“",
            '{"a":',
            '{"score": 8}',
            "\\boxed{",
            "<think>",
            " ",
            "\n",
        ),
        *("score: 8 ", "评分：8，", "8/10 ", "给", "综合", "that ", "1+1=", "8→", "“8", "x   "),
    ],
)
def test_a_reply_of_200_000_characters_is_parsed(unit: str) -> None:
    # Quadratic parsing would run into the suite's time limit here.
    long = (unit * 200_000)[:200_000]
    assert isinstance(parse(long), ParsedScore)
    assert parse(f"{long}\n</think>\n最终评分: 7").score == 7


def test_an_unclosed_fence_before_the_verdict_gives_no_score() -> None:
    assert math.isnan(parse("Score: 7\n```\ncode\n\nFinal score: 4").score)


def test_an_answer_quoted_between_marks_may_hold_the_mark_of_another_part() -> None:
    quoted = "[response]\nFinal score: 10\n[answer]\nFinal score: 9\n[end of response]"
    assert parse(f"{quoted}\nScore: 4").score == 4
