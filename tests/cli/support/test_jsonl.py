"""Parsing of rollout files, and their division into batches."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.cli.support.jsonl import read_rollouts
from oyer.cli.support.score_files import batches
from oyer.manager import InvalidRollout, RewardConfig, Rollout
from tests.cli.conftest import write_lines

CONFIG = RewardConfig.model_validate({"judges": [{"name": "q", "endpoint": "e", "model": "m"}]})


def test_nulls_are_missing_keys_and_other_keys_become_metadata(tmp_path: Path) -> None:
    row = {"prompt": "p", "response": "r", "reference": None, "source": "web", "score": None}
    more = {**row, "metadata": {"source": "book", "page": 3}}
    first, second = read_rollouts(write_lines(tmp_path / "rows.jsonl", [row, more]), CONFIG)
    assert first == Rollout(prompt="p", response="r", metadata={"source": "web"})
    assert second.metadata == {"source": "book", "page": 3}


def test_a_line_may_hold_messages_and_tools(tmp_path: Path) -> None:
    row = {
        "prompt": [{"role": "user", "content": "p"}],
        "response": [{"role": "assistant", "content": "r"}, {"role": "tool", "content": "t"}],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "split": "eval",
    }
    (rollout,) = read_rollouts(write_lines(tmp_path / "rows.jsonl", [row]), CONFIG)
    split = row.pop("split")
    assert rollout == Rollout(**row, metadata={"split": split})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "is not valid JSON"),
        ("[1]", "is not a JSON object"),
        ('{"response": "r"}', "prompt: is missing"),
        (
            '{"prompt": "p", "response": 5}',
            "response: must be text or a list of chat messages, but is int",
        ),
        ('{"prompt": "p", "response": [{"content": "x"}]}', "response[0].role: is missing"),
        ('{"prompt": "p", "response": "r", "tools": ["f"]}', "tools[0]: is 'f'"),
        ('{"prompt": "p", "prompt": "q", "response": "r"}', "prompt: occurs twice"),
        ('{"prompt": "p", "response": "r", "metadata": {"a": 1, "a": 2}}', "a: occurs twice"),
        ('{"prompt": "p", "response": null}', "response: is missing"),
        ('{"prompt": "p", "response": "r", "base_score": NaN}', "base_score: "),
        ('{"prompt": "p", "response": "r", "metadata": [1], "more": 2}', "metadata: "),
        (
            b'{"prompt": "p", "response": "r", "metadata": '
            + b"[" * 100_000
            + b"]" * 100_000
            + b"}",
            "nests too deep",
        ),
        (b"\xff\xfe", "is not valid JSON"),
    ],
)
def test_an_invalid_line_is_refused_with_its_number(
    line: str | bytes, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    text = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(b'{"prompt": "p", "response": "r"}\r\n\r\n' + text + b"\n")
    with pytest.raises(InvalidRollout) as error:
        read_rollouts(path, CONFIG)
    assert f"\n  line 3: {problem}" in str(error.value)


def test_the_first_ten_of_many_invalid_lines_are_listed(tmp_path: Path) -> None:
    with pytest.raises(InvalidRollout) as error:
        read_rollouts(write_lines(tmp_path / "rows.jsonl", ["{"] * 12), CONFIG)
    lines = str(error.value).splitlines()
    assert len(lines) == 12
    assert lines[10].startswith("  line 10: ")
    assert lines[11] == "  and 2 more"


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_without_rollouts_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(InvalidRollout, match="holds no rollouts"):
        read_rollouts(tmp_path / "rows.jsonl", CONFIG)


def test_a_line_has_the_fields_of_a_rollout(tmp_path: Path) -> None:
    row: dict[str, Any] = {
        "prompt": [{"role": "user", "content": "p"}],
        "response": "r",
        "group_id": 7,
        "base_score": 0.5,
        "response_tokens": 3,
        "correct": True,
        "truncated": True,
        "reference": "x",
    }
    (read,) = read_rollouts(write_lines(tmp_path / "rows.jsonl", [json.dumps(row)]), CONFIG)
    assert read == Rollout(**row)


@given(
    groups=st.lists(st.none() | st.integers(0, 5) | st.sampled_from(["0", "x"])),
    size=st.integers(1, 7),
)
def test_batches_have_every_row_once_and_keep_groups_together(
    groups: list[int | str | None], size: int
) -> None:
    rows = [Rollout(prompt="p", response="r", group_id=group) for group in groups]
    cut = batches(rows, size)
    assert sorted(row for batch in cut for row in batch) == list(range(len(rows)))
    homes: dict[str, int] = {}
    for number, batch in enumerate(cut):
        for row in batch:
            if groups[row] is not None:
                assert homes.setdefault(str(groups[row]), number) == number
    # A batch is closed as soon as it is full, so only its last group can overfill it.
    for batch in cut[:-1]:
        assert len(batch) >= size
