"""Builds regular expressions from lists of phrases, so that vocabularies are written as words.

Phrases are separated by commas. A space matches any white space, a final `*` any ending.
"""

import re


def any_of(phrases: str) -> str:
    """Return a group that matches any of the phrases, the longest first, also inside words."""
    return f"(?:{'|'.join(_pattern(phrase) for phrase in _longest_first(phrases))})"


def words(phrases: str) -> str:
    """Return a group that matches any of the phrases; Latin phrases as whole words only."""
    split = _longest_first(phrases)
    latin = [_pattern(phrase) for phrase in split if phrase.isascii()]
    han = [_pattern(phrase) for phrase in split if not phrase.isascii()]
    whole = [rf"\b(?:{'|'.join(latin)})\b"] if latin else []
    return f"(?:{'|'.join(whole + han)})"


def finder(phrases: str, *patterns: str) -> re.Pattern[str]:
    """Compile a case-insensitive pattern of the phrases and of further patterns."""
    return re.compile("|".join([words(phrases), *patterns]), re.IGNORECASE)


def _longest_first(phrases: str) -> list[str]:
    split = (phrase.strip() for phrase in phrases.replace("\n", " ").split(","))
    return sorted((phrase for phrase in split if phrase), key=len, reverse=True)


def _pattern(phrase: str) -> str:
    escaped = r"\s+".join(re.escape(word) for word in phrase.removesuffix("*").split())
    return escaped + (r"\w*" if phrase.endswith("*") else "")
