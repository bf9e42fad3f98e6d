"""The time to parse a reply is linear in its length, whatever its content."""

import resource
import subprocess
import sys

import pytest

CPU_S = 60
"""CPU limit of a child process, in seconds: about ten times what linear parsing takes."""

SCRIPT = """
import random, sys
from oyer.tasks.parsing.parser import parse_score

SIZES = (15_000, 100_000)  # a line is parsed up to 16 KiB
PIECES = (
    "[ ] [[ ]] { } ( ) < > * ** _ ` ``` ~~ “ ” 「 \\" ' $ # | 1 9 . , ; : 。 ， 、 - – / = → % 分 满分 给 打 评分 最终 "
    "综合 八点 十 回答 根据 这 先 可能 若 的 <score> </score> \\\\boxed{ <think> </think> {\\"score\\": \\"a\\":{ [1, /* // {//"
).split(" ") + [
    " ", "\\t", "\\n", "x\\n", "\\u3000", "score ", "final ", "overall ", "I ", "I give ", "I give 9", "this is a ", "it's ",
    "a ", "so ", "to ", "8 or ", "not ", "wait ", "no, ", "8/10", "7.5", "9 (", "Score: ", "out of ", "response A ",
    "based on x", " = ", "[RESULT]", "> ", "|a", "<response>", "</response>", "\\n[begin", "\\n[end", "\\n[开始",
    "| score |\\n|-|\\n", "| total | 8 |\\n", "|-", "<score>8</score></a>",
]
draw = random.Random(int(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    head = "".join(draw.choices(PIECES, k=draw.randint(0, 3)))
    unit = "".join(draw.choices(PIECES, k=draw.choice((1, 1, 2, 3))))
    tail = "".join(draw.choices(PIECES, k=draw.randint(0, 3)))
    print(repr((head, unit, tail)), flush=True)
    size = draw.choice(SIZES)
    parse_score(head + (unit * size)[:size] + tail, scale=(1, 10))
print("all parsed")
"""


def _limit_cpu() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))


@pytest.mark.parametrize("seed", range(3))
def test_long_replies_of_hostile_pieces_are_parsed(seed: int) -> None:
    child = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(seed), "100"],
        preexec_fn=_limit_cpu,
        capture_output=True,
        text=True,
        check=False,
    )
    last = child.stdout.splitlines()[-1:]
    assert last == ["all parsed"], f"stopped on {last}: {child.stderr[-500:]}"


@pytest.mark.parametrize(
    ("head", "unit", "tail"),
    [
        ("I give 9", " ", "x"),
        ("I give 9", "*", "x"),
        ("Score: 9", "\t", "x"),
        ("<", " ", "to"),
        ("[[", "$", "x"),
        ("<score>", " ", "7"),
        ("满分", "\u3000", "给8分"),
        ("", "I give it a 9 ,  ", ""),
        ("", "9" + " " * 15, "x"),
        ("", '\n{"a', ""),
        ("", '\n{"score": 7', "}"),
    ],
)
def test_replies_that_once_took_cubic_time_are_parsed(head: str, unit: str, tail: str) -> None:
    script = f"from oyer.tasks.parsing.parser import parse_score\nparse_score({head!r} + ({unit!r} * 15_000)[:15_000] + {tail!r}, scale=(1, 10))"
    child = subprocess.run(
        [sys.executable, "-c", script], preexec_fn=_limit_cpu, capture_output=True, check=False
    )
    assert child.returncode == 0, child.stderr[-500:]


@pytest.mark.parametrize(
    ("head", "unit", "tail"),
    [
        ("Final score: 3\n", "\n", "Final score: 5"),
        ("", "Answer: 2/10\n", "Format: 9/10"),
        ("Score: 3\na", ":", "x"),
    ],
)
def test_replies_that_once_took_quadratic_time_are_parsed(head: str, unit: str, tail: str) -> None:
    script = f"from oyer.tasks.parsing.parser import parse_score\nfor _ in range(30): parse_score({head!r} + ({unit!r} * 15_000)[:15_000] + {tail!r}, scale=(1, 10))"
    child = subprocess.run(
        [sys.executable, "-c", script], preexec_fn=_limit_cpu, capture_output=True, check=False
    )
    assert child.returncode == 0, child.stderr[-500:]


@pytest.mark.parametrize(
    ("head", "unit"),
    [('{"a": "', r"\""), ("{'a': ", "' "), ('{"a": 1', ",\n"), ("{", "/* "), ('{"a": 1', "//\n,")],
)
def test_slips_of_a_long_value_that_is_cut_off_are_found_in_linear_time(
    head: str, unit: str
) -> None:
    script = f"""
from oyer.tasks.parsing.json_objects import MAX_RELAXED, MAX_RELAXED_CHARS, ReplyDecoder
text = ({head!r} + {unit!r} * MAX_RELAXED_CHARS)[:MAX_RELAXED_CHARS]
for _ in range(25 * MAX_RELAXED):
    try:
        ReplyDecoder().at(text, 0)
    except ValueError:
        pass
"""
    child = subprocess.run(
        [sys.executable, "-c", script], preexec_fn=_limit_cpu, capture_output=True, check=False
    )
    assert child.returncode == 0, child.stderr[-500:]


@pytest.mark.parametrize(
    ("name", "unit", "times", "tail"),
    [
        ("mask_quotations", "[answer]\n \n", 100_000, "</x>"),
        ("strip_thinking", "<think></think>", 600_000, ""),
    ],
)
def test_marks_of_quotations_and_thinking_are_found_in_linear_time(
    name: str, unit: str, times: int, tail: str
) -> None:
    script = (
        f"from oyer.tasks.parsing.normalize import {name}\n{name}({unit!r} * {times} + {tail!r})"
    )
    child = subprocess.run(
        [sys.executable, "-c", script], preexec_fn=_limit_cpu, capture_output=True, check=False
    )
    assert child.returncode == 0, child.stderr[-500:]
