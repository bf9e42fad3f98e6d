"""Marks parts of texts: the span that a score was read from, and differences by word; pure."""

import difflib
import re
from typing import NamedTuple

MAX_WORDS = 4000
"""Longest text, in words, that is compared word by word."""


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


def difference(text: str, base: str) -> list[Piece]:
    """Mark the words of `text` that `base` does not have at that place, and those left out."""
    words, base_words = _words(text), _words(base)
    if len(words) > MAX_WORDS or len(base_words) > MAX_WORDS:
        return [Piece(text)]
    found = []
    matcher = difflib.SequenceMatcher(None, _keys(base_words), _keys(words), autojunk=False)
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
