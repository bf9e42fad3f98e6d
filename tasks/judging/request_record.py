"""Writes a request's parameters for the record, and rebuilds a request from the record; pure.

The record stores a rollout's texts and a judge's rubric once. With a request's parameters they
give its messages and its body as sent; the request's hash confirms that they are the same.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Field, InstanceOf, ValidationError

from oyer.config import rubric as rubrics
from oyer.config.criteria.criterion import Criterion
from oyer.config.explaining import explain
from oyer.models.base import clean_text
from oyer.models.rows import Turn, Turns
from oyer.protocol.content import turn_states
from oyer.protocol.rollout import Message, Rollout
from oyer.tasks.judging.criteria.wording import with_criteria
from oyer.tasks.judging.group_judges.members import render_group, shown_of
from oyer.tasks.judging.request_key import request_key
from oyer.tasks.judging.requests import JudgeRequest
from oyer.tasks.judging.views import ShownRollout, ViewSettings, render_request

_SEEDS = range(-(2**63), 2**63)
"""The range of the record's column."""


class KeyFields(BaseModel):
    """Arguments of `request_key`, without the messages and the sample."""

    endpoint: str
    model: str
    sampling: dict[str, Any]
    rubric_hash: str


class ShownGroup(BaseModel):
    """What a group judge compared."""

    mode: str
    responses: list[Annotated[list[int], Field(min_length=1)]]
    """For each response shown, in order, the indices of the rollouts that have it."""


class Parameters(BaseModel):
    """The parameters of a request on record, as `parameters_text` writes them."""

    key: KeyFields
    scale: tuple[float, float]
    view: ViewSettings = ViewSettings()
    criteria: list[Criterion] = []
    metadata: dict[str, InstanceOf[str]] = {}
    """`InstanceOf`, because pydantic refuses the lone surrogates that a text may hold."""
    group: ShownGroup | None = None
    sample: int | None = None
    """The number in the request's key, if it is not the judgement's."""
    body: dict[str, Any] | None = None
    """The body as sent, without messages and seed; None if nothing was sent."""


def parameters_text(job: JudgeRequest, sent: Mapping[str, Any] | None) -> str:
    """Return the JSON that, with a rollout and a rubric, gives a request again.

    Args:
        sent: the body as sent, without its messages; None if nothing was sent.
    """
    kept: dict[str, Any] = {"key": job.key_fields, "scale": job.judge.scale}
    # Left out if default, so that equal parameters of earlier releases stay one text.
    if changed := ViewSettings.of(job.judge).changed:
        kept["view"] = changed
    if job.criteria:
        kept["criteria"] = [one.model_dump(exclude_defaults=True) for one in job.criteria]
    if job.metadata:
        kept["metadata"] = job.metadata
    if job.responses:
        kept["group"] = {"mode": job.judge.mode, "responses": job.responses}
    if job.sample >= job.judge.samples:
        kept["sample"] = job.sample % job.judge.samples
    if sent is not None:
        # The seed has a column: it differs by request, and requests share the rest of this text.
        own = seed_of(sent) is not None
        kept["body"] = {k: v for k, v in sent.items() if not (own and k == "seed")}
    return json.dumps(kept)


def read_parameters(text: str) -> Parameters | str:
    """Read what `parameters_text` wrote, here or in another release; else return what is wrong."""
    try:
        return Parameters.model_validate(json.loads(text))
    except ValidationError as error:
        return explain(error, Parameters)
    except ValueError as error:
        return f"is not JSON: {error}"


def seed_of(sent: Mapping[str, Any]) -> int | None:
    """Return the seed of a body; None if the record's column cannot hold it."""
    seed = sent.get("seed")
    whole = isinstance(seed, int) and not isinstance(seed, bool)
    return seed if whole and seed in _SEEDS else None


def turns_of(first: Sequence[Message], messages: Sequence[Message]) -> Turns | None:
    """Return how a re-ask's messages differ from the first request's; None if they are the same."""
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
    """Return messages as ASCII JSON, which any database stores."""
    return json.dumps(list(messages))


def changed_on_record(rollout: Rollout) -> bool:
    """Return whether the record's copy of a rollout's texts gives other messages than the rollout.

    The record replaces characters that no database stores.
    """
    try:
        texts = [*map(_text, (rollout.prompt, rollout.response, rollout.tools or ""))]
    except ValueError:
        return True  # a non-finite number is null on record
    return any(clean_text(text) != text for text in [*texts, rollout.reference or ""])


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text.replace("\\u0000", "\0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """The recorded data of a judgement's request."""

    request_hash: str
    sample: int
    parameters: Parameters
    messages: str | None
    """The messages, if they are on record themselves (see `changed_on_record`)."""
    rubric: str | None
    prompt: str | None
    """Text, or chat messages as JSON."""
    response: str | None
    """Text, or messages as JSON."""
    reference: str | None
    tools: str | None = None
    """Tool definitions as JSON."""
    turn: int | None = None
    """The last turn of the response that was shown, from 0; None if all of it was."""
    responses: Sequence[str | None] = ()
    """Of a group judge: the responses in the order shown, as `response`."""


def first_messages(kept: Kept) -> list[Message] | None:
    """Rebuild the messages of a judgement's first request; None if they do not match its hash."""
    parameters = kept.parameters
    fields = parameters.key.model_dump()
    sample = kept.sample if parameters.sample is None else parameters.sample
    for messages in _candidates(kept):
        key = request_key(**fields, messages=messages, sample=sample)
        if key == kept.request_hash:
            return messages
    return None


def body_of(
    kept: Mapping[str, Any],
    messages: Sequence[Message],
    seed: int | None,
) -> dict[str, Any]:
    """Rebuild the body of a request as sent; `kept` is that of its `Parameters`."""
    sent = dict(kept)
    model = {"model": sent.pop("model")} if "model" in sent else {}
    body = {**model, "messages": list(messages), **sent}
    if seed is not None:
        body["seed"] = seed
    # The client sends a question mark for a lone surrogate.
    wire = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
    return dict(json.loads(wire))


def turned(first: Sequence[Message], turns: Turns | None) -> list[Message]:
    """Rebuild a re-ask's messages from those of the first request."""
    if turns is None:
        return list(first)
    return [*first[: turns["kept"]], *map(dict, turns["added"])]


def _candidates(kept: Kept) -> Iterator[list[Message]]:
    if kept.messages is not None:
        yield json.loads(kept.messages)
        return
    if kept.rubric is None or kept.prompt is None or kept.response is None:
        return
    parameters = kept.parameters
    tools = None if kept.tools is None else json.loads(kept.tools)
    if parameters.group is not None:
        yield from _group_candidates(kept, parameters.group, tools)
        return
    rubric = rubrics.parse(kept.rubric)
    criteria = parameters.criteria
    for prompt, whole in itertools.product(_readings(kept.prompt), _readings(kept.response)):
        states = turn_states(whole)
        if kept.turn is not None and kept.turn >= len(states):
            continue  # a text is one turn
        shown = ShownRollout(
            prompt=prompt,
            response=whole if kept.turn is None else states[kept.turn],
            reference=kept.reference,
            tools=tools,
            metadata=parameters.metadata,
        )
        rendered = render_request(rubric, shown, scale=parameters.scale, settings=parameters.view)
        if rendered.error is None:
            messages = rendered.messages
            yield with_criteria(messages, criteria, rubric.language) if criteria else messages


def _group_candidates(kept: Kept, group: ShownGroup, tools: Any) -> Iterator[list[Message]]:
    """Yield readings of a group judge's request: all responses as text, or each as messages if it is."""
    if kept.rubric is None or kept.prompt is None or None in kept.responses:
        return
    parameters = kept.parameters
    readings = [list(_readings(body)) for body in kept.responses if body is not None]
    for prompt, k in itertools.product(_readings(kept.prompt), (0, -1)):
        shown = [shown_of(some[k], parameters.view) for some in readings]
        context = ShownRollout(prompt=prompt, response="", reference=kept.reference, tools=tools)
        yield render_group(
            rubrics.parse(kept.rubric),
            context,
            shown,
            scale=parameters.scale,
            pairs=group.mode == "pairs",
            settings=parameters.view,
            metadata=parameters.metadata,
        )


def _readings(body: str) -> Iterator[str | list[Message]]:
    """Yield both readings of a recorded text: chat messages, and text that looks like them."""
    if body.startswith("["):
        try:
            prompt = json.loads(body)
        except ValueError:
            prompt = None
        if prompt and all(isinstance(message, dict) for message in prompt):
            yield prompt
    yield body
