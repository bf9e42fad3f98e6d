"""Marks parts of texts: the span that a score was read from, and differences by word; pure."""

import difflib
import re
from collections import Counter
from typing import NamedTuple

MAX_WORDS = 4000
"""Longest text, in words, that is compared word by word."""

MAX_PAIRS = 500_000
"""Most pairs of equal words of two texts that are compared word by word, 0.1 s of CPU at worst. Two
texts of 4,000 words of prose or code have up to 400,000, two that repeat a few words have millions."""


class Piece(NamedTuple):
    """A part of a text; `kind` is the CSS class of its mark, empty if it is not marked."""

    text: str
    kind: str = ""


def marked(text: str, span: str | None) -> list[Piece]:
    """Mark the last occurrence of `span`, which is where the parser read the score."""
    start = text.rfind(span) if span else -1
    if span is None or start < 0:
        return [Piece(text)]
    end = start + len(span)
    return [Piece(text[:start]), Piece(span, "span"), Piece(text[end:])]


def difference(text: str, base: str) -> list[Piece] | None:
    """Mark the words of `text` that `base` does not have at that place, and those left out.

    Returns:
        None if the comparison would take too long: see `MAX_WORDS` and `MAX_PAIRS`.
    """
    words, base_words = _words(text), _words(base)
    if len(words) > MAX_WORDS or len(base_words) > MAX_WORDS:
        return None
    keys, base_keys = _keys(words), _keys(base_words)
    counts = Counter(keys)
    if sum(counts[key] for key in base_keys) > MAX_PAIRS:
        return None
    found = []
    matcher = difflib.SequenceMatcher(None, base_keys, keys, autojunk=False)
    for operation, i, j, k, m in matcher.get_opcodes():
        if operation in ("delete", "replace"):
            found.append(Piece("".join(base_words[i:j]), "left-out"))
        if operation != "delete":
            kind = "" if operation == "equal" else "added"
            found.append(Piece("".join(words[k:m]), kind))
    return found


def _keys(words: list[str]) -> list[str]:
    return [word.rstrip() for word in words]


def _words(text: str) -> list[str]:
    """Split a text into words, each with the white space after it."""
    return re.findall(r"\w+\s*|\W\s*", text)
