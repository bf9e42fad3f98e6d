"""YAML is read as PyYAML reads it; aliases and duplicate keys are refused by line."""

from typing import Any

import pytest

from oyer.config.yaml_text import read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# nothing", None),
        ("a: [1, 2.5, x]", {"a": [1, 2.5, "x"]}),
        ("a: &a {<<: {k: 1, l: 1}, l: 2}", {"a": {"k": 1, "l": 2}}),
        ("text: " + "x" * 1_000_000, {"text": "x" * 1_000_000}),
    ],
    ids=["empty", "comment", "values", "merge key", "long"],
)
def test_plain_yaml_is_read(text: str, value: Any) -> None:
    assert read_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: &a {k: 1}\nb: *a", 2),
        ("a: &a {k: 1}\nb:\n  <<: *a", 3),
        ("&a [*a]", 1),
        ("&k a: 1\n*k : 2", 2),
    ],
    ids=["value", "merge key", "inside itself", "key"],
)
def test_an_alias_is_refused_with_its_line(text: str, line: int) -> None:
    with pytest.raises(ValueError, match=rf"line {line}, .*aliases \(`\*\w`\) are not supported"):
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
    ],
)
def test_a_duplicate_key_is_refused_with_its_lines(text: str, lines: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"line {lines[0]}, .* is already in line {lines[1]}"):
        read_yaml(text)
