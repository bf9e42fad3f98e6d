"""What the record keeps of a request, and the request made of it again; pure.

The record holds a rollout's texts and the judge's rubric once. With the parameters of the request
they give its messages and its body as sent; the request's hash says whether they are the same.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oyer.config import rubric as rubrics
from oyer.models.base import clean_text
from oyer.models.rows import Turn, Turns
from oyer.protocol.rollout import Message, Rollout
from oyer.tasks.coordination.reply_cache import request_key
from oyer.tasks.judging.requests import JudgeRequest

_SEEDS = range(-(2**63), 2**63)
"""What the record's column holds."""


def parameters_text(job: JudgeRequest, sent: Mapping[str, Any] | None) -> str:
    """Write what makes a request of a rollout and a rubric, as the record keeps it.

    Args:
        sent: the body as sent, without its messages; None where nothing was sent.
    """
    kept: dict[str, Any] = {"key": job.keyed, "scale": job.judge.scale}
    if sent is not None:
        # A seed differs by request: within this text, which requests share, it would be the only
        # part that does.
        own = seed_of(sent) is not None
        kept["body"] = {k: v for k, v in sent.items() if not (own and k == "seed")}
    return json.dumps(kept)


def seed_of(sent: Mapping[str, Any]) -> int | None:
    """Return the seed of a body, unless the record's column cannot hold it."""
    seed = sent.get("seed")
    whole = isinstance(seed, int) and not isinstance(seed, bool)
    return seed if whole and seed in _SEEDS else None


def turns_of(first: Sequence[Message], messages: Sequence[Message]) -> Turns | None:
    """Say how a re-ask's messages follow from the first request's; None where they are the same."""
    if messages is first or not messages:
        return None
    kept = 0
    while kept < min(len(first), len(messages)) and first[kept] == messages[kept]:
        kept += 1
    if kept == len(first) == len(messages):
        return None
    added: list[Turn] = [
        {"role": str(message["role"]), "content": str(message["content"])}
        for message in messages[kept:]
    ]
    return {"kept": kept, "added": added}


def messages_text(messages: Sequence[Message]) -> str:
    """Write messages in characters that any database stores."""
    return json.dumps(list(messages))


def changed_on_record(rollout: Rollout) -> bool:
    """Whether the rollout's texts on record make other messages than the rollout itself.

    The record replaces characters that no database stores.
    """
    texts = [rollout.response, rollout.reference or ""]
    if isinstance(rollout.prompt, str):
        texts.append(rollout.prompt)
    else:
        try:
            prompt = json.dumps(rollout.prompt, ensure_ascii=False, allow_nan=False)
        except ValueError:
            return True  # a number that is not finite is null on record
        texts.append(prompt.replace("\\u0000", "\0"))
    return any(clean_text(text) != text for text in texts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What is on record of a judgement's request."""

    request_hash: str
    sample: int
    parameters: Mapping[str, Any]
    messages: str | None
    """The messages, where they are on record themselves."""
    rubric: str | None
    prompt: str | None
    """As on record: text, or chat messages as JSON."""
    response: str | None
    reference: str | None


def first_messages(kept: Kept) -> list[Message] | None:
    """Make the messages of a judgement's first request again; None where its hash is another's."""
    for messages in _candidates(kept):
        key = request_key(**kept.parameters["key"], messages=messages, sample=kept.sample)
        if key == kept.request_hash:
            return messages
    return None


def body_of(
    parameters: Mapping[str, Any],
    messages: Sequence[Message],
    seed: int | None,
) -> dict[str, Any]:
    """Make the body of a request again, as it went over the wire."""
    sent = dict(parameters["body"])
    model = {"model": sent.pop("model")} if "model" in sent else {}
    body = {**model, "messages": list(messages), **sent}
    if seed is not None:
        body["seed"] = seed
    # A lone surrogate has no UTF-8: the client sends a question mark.
    wire = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
    return dict(json.loads(wire))


def turned(first: Sequence[Message], turns: Turns | None) -> list[Message]:
    """Make a re-ask's messages of the first request's."""
    if turns is None:
        return list(first)
    return [*first[: turns["kept"]], *map(dict, turns["added"])]


def _candidates(kept: Kept) -> Iterator[list[Message]]:
    if kept.messages is not None:
        yield json.loads(kept.messages)
        return
    if kept.rubric is None or kept.prompt is None or kept.response is None:
        return
    low, high = kept.parameters["scale"]
    for prompt in _prompts(kept.prompt):
        yield [
            *rubrics.render(
                rubrics.parse(kept.rubric),
                prompt=prompt,
                response=kept.response,
                reference=kept.reference,
                scale=(low, high),
            )
        ]


def _prompts(body: str) -> Iterator[str | list[Message]]:
    """Read a prompt on record both ways: it may be chat messages, or text that looks like them."""
    if body.startswith("["):
        try:
            prompt = json.loads(body)
        except ValueError:
            prompt = None
        if prompt and all(isinstance(message, dict) for message in prompt):
            yield prompt
    yield body
