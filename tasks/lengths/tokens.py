"""Counts tokens with a Hugging Face tokenizer."""

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from oyer.protocol.errors import InvalidConfig


def count_tokens(texts: Sequence[str], tokenizer: str) -> list[int]:
    """Count each text's tokens, without special tokens.

    Args:
        texts: `[N]` responses.
        tokenizer: a Hugging Face name or a folder.

    Raises:
        InvalidConfig: the tokenizer cannot be loaded on this worker.
    """
    encoded = _load(tokenizer)(list(texts), add_special_tokens=False, return_attention_mask=False)
    return [len(ids) for ids in encoded["input_ids"]]


@lru_cache(maxsize=4)
def _load(name: str) -> Any:
    # A fork after the tokenizer was used would otherwise warn and serialise.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(os.path.expanduser(name))
    except ImportError as error:
        raise InvalidConfig(
            "tokenizer: transformers is not installed on the length worker:"
            " pip install 'oyer[gpu]', or set response_tokens"
        ) from error
    except (OSError, ValueError) as error:
        raise InvalidConfig(
            f"tokenizer: {name!r} cannot be loaded on the length worker ({error}); give a folder"
            " that is there, or set response_tokens"
        ) from error
