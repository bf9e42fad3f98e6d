"""Separates the response from a query, i.e. from the decoded tokens of a prompt and its response.

OpenRLHF decodes with special tokens, and cuts a long prompt on the left.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from celery.utils.log import get_logger

from oyer.config.reward import RewardConfig
from oyer.protocol.errors import InvalidConfig, InvalidRollout

log = get_logger(__name__)

_COMMON_MARKS = (
    r"<\|[^<>|]+\|>",  # ChatML, Llama 3, Phi, gpt-oss, Command R
    r"<｜[^<>｜]+｜>",  # DeepSeek
    r"\[\|[^\[\]|]+\|\]",  # EXAONE
    r"</s>",
    r"<(?:eos|eot|eod|end_of_turn|end_of_utterance|endoftext|turn\||im_end|pad|PAD)>",
    r"\[(?:EOS|PAD)\]",
    r"\[e~\[",  # MiniMax
)
"""End marks of common models, for queries of an unknown tokenizer."""

_FILES = ("tokenizer_config.json", "special_tokens_map.json", "tokenizer.json")

_MIN_OVERLAP_CHARS = 8
"""Shortest rest of a cut prompt that is recognised, in characters other than white space."""

_BAD_START = re.compile("[\ufffd\\s]+")
"""What a cut inside a character decodes to."""


class QueryText:
    """Removes prompts and end marks."""

    def __init__(self, marks: Sequence[str] | None = None) -> None:
        """Take the texts of the tokenizer's special tokens; None: those of common models."""
        patterns = _COMMON_MARKS if marks is None else [re.escape(mark) for mark in marks]
        self._mark = "|".join(patterns) or r"(?!)"
        # Without `\Z`: a search for a run at the end takes quadratic time in runs elsewhere.
        self._run = re.compile(rf"(?:\s|{self._mark})+")
        self._start = re.compile(rf"(?:\ufffd|\s|{self._mark})+")

    @classmethod
    def of(cls, config: RewardConfig, tokenizer: str | None = None) -> "QueryText":
        """Use the special tokens of `tokenizer`, else of the configured one if it can be read.

        Raises:
            InvalidConfig: `tokenizer` cannot be read.
        """
        if tokenizer is not None:
            return cls(special_tokens(tokenizer))
        if config.tokenizer is not None:
            try:
                return cls(special_tokens(config.tokenizer))
            except InvalidConfig as error:
                log.info("the end marks of common models are used: %s", error)
        return cls()

    def response(self, query: str, prompt: str) -> tuple[str, bool]:
        """Return the response without end marks, and whether it had one.

        Raises:
            InvalidRollout: neither the prompt nor its end is at the start of the query.
        """
        rest = self._without_prompt(query, prompt)
        runs = [*self._run.finditer(rest)]
        if not runs or runs[-1].end() < len(rest):
            return rest, False
        marks = re.findall(self._mark, runs[-1][0])
        return rest[: runs[-1].start()], any("pad" not in mark.lower() for mark in marks)

    def _without_prompt(self, query: str, prompt: str) -> str:
        if not prompt:
            return query
        _, found, rest = query.partition(prompt)
        if found:
            return rest
        # Tokenizers may decode white space differently.
        text, places = _squeezed(query)
        looked_for, _ = _squeezed(prompt)
        start = text.find(looked_for)
        end = start + len(looked_for) if start >= 0 else self._end_of_cut(query, looked_for)
        if end is None or not looked_for:
            raise InvalidRollout(
                "rollouts[0].query: does not start with the prompt or with its end, so the response"
                " is unknown; send the prompt as it is in the query, or leave `prompts` out"
            )
        return query[places[end - 1] + 1 :].lstrip()

    def _end_of_cut(self, query: str, prompt: str) -> int | None:
        """Return where the longest end of the prompt ends that the query starts with."""
        lead = self._start.match(query)
        skipped = {0, 0 if lead is None else lead.end(), _bad_start(query)}
        for start in sorted(skipped):
            text, _ = _squeezed(query[start:])
            probe = text[:_MIN_OVERLAP_CHARS]
            at = prompt.find(probe) if len(probe) == _MIN_OVERLAP_CHARS else -1
            while at >= 0:
                if text.startswith(prompt[at:]):
                    return len(_squeezed(query[:start])[0]) + len(prompt) - at
                at = prompt.find(probe, at + 1)
        return None


def special_tokens(tokenizer: str) -> list[str]:
    """Return the special tokens of a Hugging Face tokenizer, longest first.

    Args:
        tokenizer: a folder, or a name in the Hugging Face cache or hub.

    Raises:
        InvalidConfig: its files cannot be read.
    """
    found: set[str] = set()
    for name in _FILES:
        path = _file(tokenizer, name)
        if path is not None:
            found.update(_tokens_in(json.loads(path.read_text("utf-8"))))
    if not found:
        raise InvalidConfig(
            f"tokenizer: {tokenizer!r} has no {' or '.join(_FILES)} with special tokens on this host;"
            " give a folder"
        )
    return sorted(found, key=lambda one: (-len(one), one))


def _file(tokenizer: str, name: str) -> Path | None:
    folder = Path(tokenizer).expanduser()
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(tokenizer, name))
    except Exception as error:  # noqa: BLE001 - the hub raises errors of several libraries
        log.debug("%s of %s cannot be read: %s", name, tokenizer, error)
        return None


def _tokens_in(content: Any) -> Iterable[str]:
    """Return the special tokens in the content of one of `_FILES`."""
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        if key.endswith(("_token", "special_tokens")):
            for one in value if isinstance(value, list) else [value]:
                text = one.get("content") if isinstance(one, dict) else one
                if isinstance(text, str) and text:
                    yield text
    added = content.get("added_tokens") or content.get("added_tokens_decoder") or ()
    for one in added.values() if isinstance(added, dict) else added:
        if one.get("special"):
            yield one["content"]


def _bad_start(query: str) -> int:
    found = _BAD_START.match(query)
    return 0 if found is None else found.end()


def _squeezed(text: str) -> tuple[str, list[int]]:
    """Return a text without white space, and the place of each of its characters."""
    places = [i for i, char in enumerate(text) if not char.isspace()]
    return "".join(text[i] for i in places), places


def response_of(query: str, prompt: str) -> str:
    """Return a query's response, without the prompt and the end marks of common models.

    Raises:
        InvalidRollout: the query does not hold the prompt.
    """
    return QueryText().response(query, prompt)[0]
