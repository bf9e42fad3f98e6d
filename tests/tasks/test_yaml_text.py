"""YAML is read as PyYAML reads it, unless its aliases come to more than anything could hold."""

from typing import Any

import pytest

from oyer.tasks.yaml_text import MAX_CHARACTERS, read_yaml


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
