"""Patterns of phrases match the phrases."""

import re

import pytest

from oyer.tasks.parsing.vocabulary import any_of, finder, words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("so it is", True),
        ("also", False),
        ("in  total", True),
        ("因此，", True),
        ("injection", True),
    ],
)
def test_latin_phrases_match_whole_words_and_han_ones_anywhere(text: str, found: bool) -> None:
    assert bool(finder("so, in total, inject*, 因此").search(text)) is found


def test_the_longest_phrase_is_taken() -> None:
    assert re.match(any_of("综合, 综合来看, 综合来"), "综合来看，")[0] == "综合来看"  # type: ignore[index] # matches


def test_further_patterns_are_alternatives() -> None:
    assert finder("never", r"n't\b").search("It isn't.")


def test_special_characters_of_a_phrase_are_literal() -> None:
    assert not re.fullmatch(words("e.g"), "ebg")
    assert re.fullmatch(words("it's"), "it's")
