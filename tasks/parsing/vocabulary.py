"""Turns lists of phrases into patterns, so that vocabularies read as words and not as regexes.

- Phrases are parted by commas. A space stands for any white space, `*` at the end for any ending.
"""

import re


def any_of(phrases: str) -> str:
    """A group that matches any of the phrases, the longest first, within words too."""
    return f"(?:{'|'.join(_pattern(phrase) for phrase in _longest_first(phrases))})"


def words(phrases: str) -> str:
    """A group that matches any of the phrases; Latin ones as whole words."""
    split = _longest_first(phrases)
    latin = [_pattern(phrase) for phrase in split if phrase.isascii()]
    han = [_pattern(phrase) for phrase in split if not phrase.isascii()]
    whole = [rf"\b(?:{'|'.join(latin)})\b"] if latin else []
    return f"(?:{'|'.join(whole + han)})"


def finder(phrases: str, *patterns: str) -> re.Pattern[str]:
    """Search for any of the phrases, or of further patterns, in any case of letters."""
    return re.compile("|".join([words(phrases), *patterns]), re.IGNORECASE)


def _longest_first(phrases: str) -> list[str]:
    split = (phrase.strip() for phrase in phrases.replace("\n", " ").split(","))
    return sorted((phrase for phrase in split if phrase), key=len, reverse=True)


def _pattern(phrase: str) -> str:
    escaped = r"\s+".join(re.escape(word) for word in phrase.removesuffix("*").split())
    return escaped + (r"\w*" if phrase.endswith("*") else "")
