"""Replies are read right or not at all."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.protocol.status import Status
from oyer.tasks.parsing.parser import ParsedScore, parse_score, response_format
from tests.support.paths import DATA

ROWS: list[dict[str, Any]] = [
    json.loads(line)
    for name in ("judge_outputs.jsonl", "judge_outputs_more.jsonl")
    for line in (DATA / name).read_text("utf-8").splitlines()
]
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


def read(text: str, **kwargs: Any) -> ParsedScore:
    return parse_score(text, **{"scale": ON_TEN, **kwargs})


@pytest.mark.parametrize("row", ROWS, ids=[f"{i}: {r['text'][:40]}" for i, r in enumerate(ROWS)])
def test_every_recorded_reply_reads_as_a_careful_reader_would(row: dict[str, Any]) -> None:
    reading = parse_score(
        row["text"], scale=tuple(row["scale"]), finish_reason=row.get("finish_reason", "stop")
    )
    expected = math.nan if row["expected"] is None else row["expected"]
    assert reading.score == pytest.approx(expected, abs=0, nan_ok=True), reading
    assert (reading.status is Status.SCORED) == (row["expected"] is not None)


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
    reading = read(text, **kwargs)
    assert math.isnan(reading.score)
    assert (reading.status, reading.layer) == (status, layer)


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
def test_a_score_names_its_layer_and_span(text: str, layer: str, span: str) -> None:
    assert read(text) == ParsedScore(7.0, Status.SCORED, layer, span)


@pytest.mark.parametrize("finish_reason", ["stop", None, "tool_calls", "STOP", "eos", "end_turn"])
def test_a_reply_that_ended_by_itself_is_read(finish_reason: str | None) -> None:
    assert read("最终评分: 8", finish_reason=finish_reason).score == 8


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
def test_after_an_unknown_end_a_whole_json_verdict_is_read(text: str) -> None:
    assert read(text, finish_reason="odd").score == 8


@pytest.mark.parametrize(("scale", "score"), [((1, 5), 4), ((0, 1), 0.5), ((0, 100), 91)])
def test_a_score_is_read_on_the_judges_own_scale(scale: tuple[int, int], score: float) -> None:
    assert parse_score(f"最终评分：{score}/{scale[1]}", scale=scale).score == score
    assert math.isnan(parse_score(f"最终评分：{score}/{scale[1] * 2}", scale=scale).score)


def test_a_scale_below_zero_takes_signs() -> None:
    assert parse_score("Score: -3", scale=(-5, 5)).score == -3
    assert parse_score("Score: +3", scale=(-5, 5)).score == 3


def test_structured_output_asks_for_reasons_first_and_reads_back() -> None:
    schema = response_format(ON_TEN)["json_schema"]["schema"]
    assert list(schema["properties"]) == schema["required"] == ["reasoning", "score"]
    assert (schema["properties"]["score"]["minimum"], schema["properties"]["score"]["maximum"]) == (
        1.0,
        10.0,
    )
    assert read(json.dumps({"reasoning": "Final score: 3?", "score": 8})).score == 8


FRAGMENT = st.sampled_from([row["text"] for row in ROWS] + DECOYS) | st.text(max_size=12)
SCALE = st.sampled_from([(1, 10), (0, 10), (1, 5), (0, 1), (0, 100), (-5, 5)])


@given(st.lists(FRAGMENT, max_size=4), st.sampled_from(["", " ", "\n", "。", "**", "“"]), SCALE)
def test_no_text_raises_or_scores_off_the_scale(
    parts: list[str], glue: str, scale: tuple[int, int]
) -> None:
    reading = parse_score(glue.join(parts), scale=scale)
    if reading.status is Status.SCORED:
        assert scale[0] <= reading.score <= scale[1]
    else:
        assert math.isnan(reading.score)


@given(st.text())
def test_any_text_at_all_is_read_without_raising(text: str) -> None:
    assert isinstance(read(text), ParsedScore)


@given(st.lists(st.sampled_from(DECOYS), max_size=5), st.integers(1, 10))
def test_a_final_line_wins_over_every_decoy_before_it(decoys: list[str], score: int) -> None:
    for line in (f"最终评分: {score}", f"**Final score:** {score}/10"):
        assert read("\n".join([*decoys, "", line])).score == score


@pytest.mark.parametrize(
    "verdict", ["最终评分: {}", "Final score: {}/10", "[[{}]]", '{{"score": {}}}']
)
@given(before=st.lists(FRAGMENT, max_size=3), score=st.integers(1, 10))
def test_a_verdict_at_the_end_is_never_read_as_another_number(
    verdict: str, before: list[str], score: int
) -> None:
    reading = read("\n".join([*before, "", verdict.format(score)]))
    assert math.isnan(reading.score) or reading.score == score


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
def test_an_object_that_the_text_announces_as_quoted_is_no_verdict(text: str, score: float) -> None:
    assert read(text).score == pytest.approx(score, nan_ok=True)


@given(st.sampled_from([row["text"] for row in ROWS]))
def test_full_width_forms_read_like_ascii(text: str) -> None:
    wide = text.translate({ord(c): ord(c) + 0xFEE0 for c in "0123456789:/().,!;|[]{}=<>+"})
    assert read(wide).score == pytest.approx(read(text).score, abs=0, nan_ok=True)


@given(st.sampled_from([row["text"] for row in ROWS if "<" not in row["text"]]))
def test_closed_thinking_before_a_reply_changes_nothing(text: str) -> None:
    plain = read(text)
    for thought in ("<think>最终评分：10</think>", "Final score: 9\n</think>\n"):
        assert read(thought + text).score == pytest.approx(plain.score, abs=0, nan_ok=True)


@given(st.sampled_from([row["text"] for row in ROWS if not {"`", "~"} & set(row["text"])]))
def test_a_fence_around_the_whole_reply_changes_nothing(text: str) -> None:
    fenced = read(f"```markdown\n{text}\n```")
    assert fenced.score == pytest.approx(read(text).score, abs=0, nan_ok=True)


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
def test_a_reply_of_two_hundred_kilobytes_is_read(unit: str) -> None:
    # Quadratic reading would run into the suite's time limit here.
    long = (unit * 200_000)[:200_000]
    assert isinstance(read(long), ParsedScore)
    assert read(f"{long}\n</think>\n最终评分: 7").score == 7


def test_an_unclosed_fence_before_the_verdict_gives_no_score() -> None:
    assert math.isnan(read("Score: 7\n```\ncode\n\nFinal score: 4").score)
