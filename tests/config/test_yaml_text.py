"""YAML is read as PyYAML reads it, unless its aliases come to more than anything could hold."""

from typing import Any

import pytest

from oyer.config.yaml_text import MAX_CHARACTERS, KeyTwice, read_yaml


def of_aliases(line: str, levels: int = 40) -> str:
    """Write a few lines of which each names the one before it twice."""
    lines = ["a0: &a0 {k: v}"]
    lines += [
        f"a{level}: &a{level} " + line.replace("*", f"*a{level - 1}") for level in range(1, levels)
    ]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# nothing", None),
        ("a: [1, 2.5, x]", {"a": [1, 2.5, "x"]}),
        ("a: &a {k: 1}\nb: *a\nc: {<<: *a, l: 2}", {"a": {"k": 1}, "b": {"k": 1}, "c": {"k": 1, "l": 2}}),
        ("text: " + "x" * MAX_CHARACTERS, {"text": "x" * MAX_CHARACTERS}),
    ],
    ids=["empty", "comment", "values", "aliases", "long"],
)  # fmt: skip
def test_plain_yaml_is_read_whole(text: str, value: Any) -> None:
    assert read_yaml(text) == value


@pytest.mark.parametrize(
    "text",
    [
        of_aliases("[*, *]"),
        of_aliases("{x: *, y: *}"),
        of_aliases("{<<: [*, *]}"),
        f"a: &a {'x' * 10_000}\nb: [{', '.join(['*a'] * 1000)}]",
    ],
    ids=["lists", "mappings", "merge keys", "long text"],
)
def test_aliases_that_come_to_too_much_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"aliases \(`\*name`\) come to more than .* write out"):
        read_yaml(text)


@pytest.mark.parametrize("text", ["&a [*a]", "a: &a {b: {c: *a}}"])
def test_a_value_inside_of_itself_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="inside of what it names; write out a value"):
        read_yaml(text)


@pytest.mark.parametrize(
    "text", ["a: [1", "a\n---\nb", "!!bool maybe", "!!python/name:os.system x", "\x00", "[" * 5000]
)
def test_what_is_not_yaml_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        read_yaml(text)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a: 1\nb: 2\na: 3\n", (3, 1)),
        ("judges:\n  - {name: x}\nlength: []\njudges:\n  - {name: y}\n", (4, 1)),
        ("e:\n  timeout_s: 1\n  timeout_s: 1\n", (3, 2)),
        ("e: {a: 1, 'a': 2}\n", (1, 1)),
        ("- {b: [{c: 1,\n c: 2}]}\n", (2, 1)),
        ("&k a: 1\n*k : 2\n", (1, 1)),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_its_lines(
    text: str, lines: tuple[int, int]
) -> None:
    with pytest.raises(KeyTwice, match=rf"line {lines[0]}: .* in line {lines[1]} already"):
        read_yaml(text)


def test_a_merged_key_may_be_overridden() -> None:
    text = "base: &b {x: 1, y: 2}\nmine: {<<: *b, x: 3}\nyours: {x: 4, <<: *b}\n"
    assert read_yaml(text)["mine"] == {"x": 3, "y": 2}
    assert read_yaml(text)["yours"] == {"x": 4, "y": 2}
