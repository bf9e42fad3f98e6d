"""Responses without content, and short answers that are content."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.tasks.judging.empty_response import has_content


@pytest.mark.parametrize(
    "response",
    [
        *(
            "",
            " ",
            "\n\t",
            ":",
            ".",
            ",",
            "。。。",
            "...",
            "```\n```",
            "---",
            "?!",
            "\u200b\ufeff",
            "\u3164",
        ),
        *("Thought process:", "Solution", "**Solution:**", "# Solution\n\n---", "The answer is"),
        *("Thought process:\nSolution:", "My thought process:", "Final answer:", "Reasoning:"),
        *("Let's solve this problem step by step.", "Let’s think step by step", "Step 1:"),
        *("Okay, let me work through this problem carefully.", "<think></think>", "\\boxed{}"),
        *(
            "解",
            "解：",
            "解答：",
            "【解析】",
            "答案是：",
            "思考过程：",
            "让我们一步一步地思考。",
            "かいせつ",
            "Respuesta",
        ),
        *(
            "<|im_end|>",
            "Ｓｏｌｕｔｉｏｎ：",
            "Ｔｈｏｕｇｈｔ　ｐｒｏｃｅｓｓ：",
            "……",
            "——",
            "「」",
            "　",
        ),
        *(
            "答案如下：",
            "以下是解答：",
            "我的思考过程：",
            "下面是解题过程：",
            "最后答案：",
            "思考中……",
            "结果：",
        ),
        *("首先，让我们分析题目。", "解題過程：", "答案為：", "讓我們一步一步思考。", "輸出："),
        *("Here's the solution:", "Sure, here is the solution:", "Let me think.", "```python\n```"),
    ],
)
def test_nothing_to_judge(response: str) -> None:
    assert not has_content(response)


@pytest.mark.parametrize(
    "response",
    [
        *(
            "42",
            "Yes",
            "no",
            "是",
            "B",
            "(C)",
            "∞",
            "√2",
            "👍",
            "None",
            "x",
            "好的",
            "Let's go",
            "-1",
        ),
        *(
            "Solution: 4",
            "解：x=2",
            "The answer is 4",
            "\\boxed{4}",
            "print(1)",
            "<think>a</think>",
        ),
        *(
            "Let's solve this problem step by step. 1+1=2",
            "Thought process: none needed",
            "Step 1: add",
        ),
        *(
            "答案是四",
            "结果为零",
            "解为空集",
            "以下是解答：x=2",
            "过程正确",
            "```\n4\n```",
            "```4```",
            "Sure, 4",
        ),
        *("分析师", "答非所问", "solutions architect", '{"name": "f"}'),
    ],
)
def test_something_to_judge(response: str) -> None:
    assert has_content(response)


@given(st.text(alphabet=st.characters(categories=("P", "Z", "Cc", "Cf", "M"))))
def test_punctuation_and_invisible_characters_are_never_content(response: str) -> None:
    assert not has_content(response)


@given(st.text(), st.integers(0, 999))
def test_a_number_is_always_content(response: str, number: int) -> None:
    assert has_content(f"{response}\n{number} apples")
