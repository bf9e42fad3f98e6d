"""Decodes the JSON of judges, also with the slips that change no value.

These are trailing commas, comments, single quotes, Python's `True`, `False` and `None`, and
backslashes of LaTeX in texts. Nothing is added to a text that is cut off.
"""

import json
import re
from collections.abc import Callable
from typing import Any

MAX_RELAXED_CHARS = 32_768
"""A longer text is decoded strictly only."""

MAX_RELAXED = 4
"""Most values of one reply whose slips are mended; this bounds the work on any reply."""

_TOKEN = re.compile(
    r"""(?P<double>"(?:[^"\\]|\\.)*")
      | (?P<single>(?<=[{\[,:\s])'(?:[^'\\\n]|\\.)*'(?=\s{0,9}[:,}\]]))
      | (?P<comment>//[^\n]*|/\*.{0,500}?\*/|\#[^\n]*)
      | (?P<comma>,(?=(?:\s|//[^\n]{0,200}\n|\#[^\n]{0,200}\n){0,80}[}\]]))
      | (?P<word>\b(?:True|False|None)\b)""",
    re.VERBOSE | re.DOTALL,
)
_PYTHON = {"True": "true", "False": "false", "None": "null"}
_BAD_ESCAPE = re.compile(r'\\(?!["\\/bfnrtu])|\\u(?![0-9a-fA-F]{4})')
_LOOK_ALIKE = "\u29f5"
"""Stands for a backslash that JSON does not allow, as in `\\(x\\)`."""


class ReplyDecoder:
    """Decodes the JSON values of one reply; slips are mended up to `MAX_RELAXED` times."""

    def __init__(self, pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> None:
        self._strict = json.JSONDecoder(strict=False, object_pairs_hook=pairs_hook)
        self._left = MAX_RELAXED

    def at(self, text: str, start: int) -> tuple[Any, int]:
        """Decode the value at `start`; returns it and its end.

        Raises:
            ValueError: there is none, even with slips mended.
            RecursionError: it is nested too deeply.
        """
        try:
            return self._strict.raw_decode(text, start)
        except ValueError:
            if self._left == 0 or len(text) - start > MAX_RELAXED_CHARS:
                raise
            self._left -= 1
            value, end = self._strict.raw_decode(_TOKEN.sub(_mended, text[start:]))
            return value, start + end


def unescaped(text: str) -> str:
    """Return the object in a text that is a JSON string, with or without its quotation marks."""
    if not re.match(r'"\s*\{|\{(?:\s|\\n)*\\"', text):
        return text
    try:
        inner = json.loads(text if text.startswith('"') else f'"{text}"', strict=False)
    except ValueError:
        return text
    return inner.strip() if isinstance(inner, str) else text


def _mended(token: re.Match[str]) -> str:
    """Return a token as JSON has it, with as many characters."""
    found = token[0]
    if token["word"]:
        return _PYTHON[found]
    if token["comment"] or token["comma"]:
        return re.sub(r"[^\n]", " ", found)
    if token["single"]:
        found = '"' + found[1:-1].replace('"', "'").replace("\\'", " '") + '"'
    return _BAD_ESCAPE.sub(lambda slip: _LOOK_ALIKE + slip[0][1:], found)
