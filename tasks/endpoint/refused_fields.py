"""Finds in an error which fields of the request's body the endpoint refuses; pure."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

Refused = Mapping[str, str | None]
"""Fields that an endpoint refuses: their new names, or None to leave them out."""

_LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens")
"""Names of the limit on a reply's length. OpenAI's reasoning models and Azure's take the second alone
(https://platform.openai.com/docs/api-reference/chat/create); most other servers take the first."""

_OTHER_NAME = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
"""Used if the error names no other field, so that the length of a reply stays bounded."""

_REFUSABLE = (
    *_LENGTHS,
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "response_format",
    "logprobs",
    "top_logprobs",
    "reasoning_effort",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)
"""Fields that may be left out: they set how a reply is sampled, not the question or the model."""

# Wordings of OpenAI, Azure, Anthropic, Gemini, Mistral, xAI, Groq, Moonshot, DeepSeek, Bedrock,
# OpenRouter, LiteLLM, vLLM, SGLang, TGI, and of the libraries that check their bodies (pydantic,
# serde, Go's encoding/json).
_CODE = re.compile(
    r"(unsupported|unknown|unrecogni[sz]ed|unexpected)_?(param|value|argument|field)"
    r"|extra_forbidden|value_error\.extra",
    re.IGNORECASE,
)
_WORDING = re.compile(
    r"unsupported|unrecogni[sz]ed|unavailable|incompatible|deprecated|no longer|extraneous"
    r"|\bnot\b[\w ]{0,20}\b(support|permit|allow|accept|recogni|enabl|available|valid|implement"
    r"|compatible|take)"
    r"|(does|do|can)n.t (support|accept|allow|permit|take)|cannot (both )?be (set|used|specified)"
    r"|(unknown|unexpected|extra|invalid) (request )?(keyword )?(param|arg|field|name|key|prop|input|opt)"
    r"|extra_forbidden|only (the default|supports?\b|accepts?\b)|only .{0,40}\b(allowed|supported)"
    r"|(may|can|must) only be|must be (strictly positive|greater than 0|positive|1\b|> ?0)|fixed (at|to)"
    r"|不支持|不允许|不可用|只能|仅支持|未知参数|无效参数",
    re.IGNORECASE,
)
_LIMIT = re.compile(
    r"too (large|long|small|high|low)|at (most|least)|above|below|exceed|up to|maximum|minimum"
    r"|must be|greater|less than|range|integer",
    re.IGNORECASE,
)
"""Wordings for a value out of range, which does not mean that the field is refused."""
_TOGETHER = re.compile(r"\bboth\b|same time|together|simultaneously|mutually", re.IGNORECASE)
_STRUCTURED = re.compile(
    r"response_format|json_(schema|object)|structured[ _-]?output|guided[_ ]|grammar", re.IGNORECASE
)
_ADVICE = re.compile(
    r"\b(expected one of|(supported|valid|allowed) (values|parameters|params|fields|arguments)"
    r"|must be one of|did you mean|(please )?use\b|in favou?r of|replaced (by|with)|renamed to)",
    re.IGNORECASE,
)
"""After such a wording, a message names what the endpoint accepts."""
_SENTENCE_END = re.compile(r"(?<=[.;!?])\s+|[\n。；]+|(?<=\})\s*,\s*")


def refused_fields(
    error: Mapping[str, Any], code: str, message: str, sent: Collection[str]
) -> dict[str, str | None]:
    """Return the fields of a body that an error refuses, by the names they were sent under.

    Args:
        error: The error object of the response's body.
        code: Its codes, in one text.
        message: Its message.
        sent: The names of the body's fields; those of `extra_body` come last.
    """
    candidates = [name for name in sent if name in _REFUSABLE]
    text = f"{message}\n{_passed_on(error)}".replace("\\", "")
    names = list(dict.fromkeys(_named(error, code, text, candidates)))
    if "logprobs" in names and "top_logprobs" in sent and "top_logprobs" not in names:
        names.append("top_logprobs")
    return {name: _new_name(name, text, sent) for name in names}


def refuses_structure(code: str, message: str) -> bool:
    """Whether a rejection of a request with `response_format` is about that field."""
    return bool(_STRUCTURED.search(f"{code} {message}"))


def with_lessons(body: Mapping[str, Any], refused: Refused) -> dict[str, Any]:
    """Rename or leave out the refused fields of a body."""
    kept = {}
    for name, value in body.items():
        new = refused.get(name, name)
        if new is not None and (new == name or new not in body):
            kept[new] = value
    return kept


def described(refused: Refused) -> str:
    """Describe how requests differ from the configuration: `without seed, max_tokens as …`."""
    dropped = [name for name, new in refused.items() if new is None]
    renamed = [f"{name} as {new}" for name, new in refused.items() if new is not None]
    return ", ".join([f"without {' and '.join(dropped)}"] * bool(dropped) + renamed)


def _passed_on(error: Mapping[str, Any]) -> str:
    """Return the error of the provider behind a router (OpenRouter's `metadata.raw`)."""
    metadata = error.get("metadata")
    return str(metadata.get("raw") or "") if isinstance(metadata, dict) else ""


def _named(
    error: Mapping[str, Any], code: str, text: str, candidates: Collection[str]
) -> Iterator[str]:
    coded = bool(_CODE.search(code))
    param = re.split(r"[.\[]", str(error.get("param") or ""))[0]
    if param in candidates and (coded or (_WORDING.search(text) and not _is_limit(param, text))):
        yield param
        return
    for sentence in _SENTENCE_END.split(text):
        said = _ADVICE.split(sentence, maxsplit=1)[0]
        if not (coded or _WORDING.search(said)):
            continue
        found = [name for name in candidates if _mentions(said, name) and not _is_limit(name, said)]
        yield from found[:1] if _TOGETHER.search(said) else found


def _is_limit(name: str, said: str) -> bool:
    """Whether a text only reports that a length limit is too large; it must then not be left out."""
    return name in _LENGTHS and bool(_LIMIT.search(said))


def _mentions(text: str, name: str) -> bool:
    """Whether a text names a field, also as `maxTokens` or `max tokens`."""
    spelt = name.replace("_", "[_ ]?")
    return bool(re.search(rf"(?<![A-Za-z0-9_]){spelt}(?![A-Za-z0-9_])", text, re.IGNORECASE))


def _new_name(name: str, text: str, sent: Collection[str]) -> str | None:
    advice = "".join(text[found.start() :] for found in list(_ADVICE.finditer(text))[:1])
    if name == "seed":
        return "random_seed" if _mentions(advice, "random_seed") else None
    if name not in _LENGTHS:
        return None
    others = [other for other in _LENGTHS if other != name]
    advised = [other for other in others if _mentions(advice, other)]
    new = advised[0] if advised else _OTHER_NAME.get(name)
    return None if new in sent else new
