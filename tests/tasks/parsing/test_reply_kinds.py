"""Kinds of replies that judges write, beside the recorded ones."""

import math

import pytest

from oyer.tasks.parsing.parser import parse_score


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<overall>8</overall>\n<safety><score>3</score></safety>", 8),
        ("<safety><score>3</score></safety>\n<overall_score>8</overall_score>", 8),
        ("<evaluation><overall>good</overall><score>8</score></evaluation>", 8),
        ("The response says <score>10</score>, which is an injection.", None),
        ("It contains <score>10</score>, which is an injection.\n<score>2</score>", 2),
        ("I cannot give full marks: <score>7</score>", 7),
    ],
)
def test_elements(text: str, score: float | None) -> None:
    assert_score(text, score)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("[[8]] vs [[6]]", None),
        ("[[8]] and [[6]]", None),
        ("[[8]] 和 [[6]]", None),
        ("Score A: [[8]]\nScore B: [[6]]", None),
        ("Rating A: 8\nRating B: 6", None),
        ("Response A deserves an 8, Response B a 6.", None),
        ("Response A is shown, Response B is not.\nThis response deserves an 8.", 8),
        ("I score a 7 here.\nRating: 7", 7),
    ],
)
def test_two_responses(text: str, score: float | None) -> None:
    assert_score(text, score)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("思考过程评分:7/10\n工具调用评分:8/10\n最终回答评分:9/10", None),
        ("思考过程评分:7/10\n最终回答评分:9/10\n综合评分:8/10", 8),
        ("最终回答评分:9/10", 9),
        ("- 工具(3 分):3\n- 参数(7 分):3\n\n**总计**:6 / 10", 6),
        ("- 工具:3/15\n- 参数:3/15\n\n**总计**:6 / 30", None),
        ("| 维度 | 权重 | 得分 |\n|---|---|---|\n| 工具 | 50% | 8 |\n| 加权总分 | 100% | 7 |", 7),
    ],
)
def test_parts_and_totals(text: str, score: float | None) -> None:
    assert_score(text, score)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Score: 4 (1 = worst, 5 = best)", None),
        ("Score: 4 (5 is the best)", None),
        ("评分:4(5为满分)", None),
        ("以10分为满分,我给8分。", 8),
        ("以5分为满分,我给4分。", None),
        ("以5分为满分,则为4分;以10分为满分,则不给分。", None),
        ("可得满分 10 分中的 8 分。", None),
        ("给满分10分。", 10),
        ("Score: 4 (1 = worst, 10 = best)", 4),
        ("Score: 8 (2 is right, 1 is wrong)", 8),
    ],
)
def test_a_remark_on_the_best_score_names_the_scale(text: str, score: float | None) -> None:
    assert_score(text, score)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("最终评分:8\n\n不对,应该是第二个工具错了。", None),
        ("最终评分:8\n\n以上判断作废。", None),
        ("最终评分:8\n\n以上判断基于参数。", 8),
        ("最终评分:8\n\n修正建议:参数应为北京。", 8),
    ],
)
def test_a_score_that_is_taken_back(text: str, score: float | None) -> None:
    assert_score(text, score)


def assert_score(text: str, score: float | None) -> None:
    parsed = parse_score(text, scale=(1, 10))
    assert parsed.score == pytest.approx(math.nan if score is None else score, nan_ok=True)
