"""Reads a judgement from the record, and rebuilds its requests."""

from typing import TYPE_CHECKING, Any

from oyer.models import queries, requests
from oyer.models.rollout import with_images
from oyer.tasks.judging.request_record import (
    Kept,
    Parameters,
    body_of,
    first_messages,
    read_parameters,
    turned,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

    from oyer.models.rows import StoredAttempt, StoredJudgement
    from oyer.protocol.rollout import Message

NOT_KEPT = "the release that recorded this judgement did not keep its request (before 0003)"
NOT_MADE = "no request was made for it"

_JUDGEMENT = (
    "batch_id",
    "rollout_index",
    "judge",
    "sample",
    "turn",
    "status",
    "score",
    "source",
    "model",
    "endpoint",
    "request_hash",
    "reply",
    "reasoning",
    "error",
)
_ATTEMPT = (
    "id",
    "number",
    "started_at",
    "url_index",
    "http_status",
    "error_class",
    "error",
    "latency_ms",
    "retry_wait_s",
    "hedge",
)


def shown(conn: "Connection", judgement: "StoredJudgement") -> dict[str, Any]:
    """Return a judgement and its attempts, each with the body of its request.

    `problem` is the reason that the request cannot be rebuilt, `note` the reason that there is none;
    otherwise both are None.
    """
    attempts = requests.attempts_of(conn, judgement)
    texts = requests.texts_of(conn, _hashes(judgement, attempts))
    row: dict[str, Any] = {name: dict(judgement).get(name) for name in _JUDGEMENT}
    messages, problem, note = _messages(conn, judgement, texts)
    if messages is not None and not attempts:
        note = _answered_elsewhere(conn, judgement)
    parameters = [_parameters_of(one, judgement, texts) for one in attempts]
    unreadable = [one for one in parameters if isinstance(one, str)]
    if problem is None and unreadable:
        problem = _why_unreadable(conn, judgement, unreadable[0])
    return {
        **row,
        "problem": problem,
        "note": note,
        "messages": messages,
        "attempts": [
            _attempt(one, judgement, _request(one, kept, messages, texts), texts)
            for one, kept in zip(attempts, parameters, strict=True)
        ],
    }


def _messages(
    conn: "Connection", judgement: "StoredJudgement", texts: "Mapping[str | None, str]"
) -> "tuple[list[Message] | None, str | None, str | None]":
    """Rebuild the messages of the first request; otherwise return the problem or the note."""
    request_hash = judgement.get("request_hash")
    if request_hash is None and judgement["status"] == "scored":
        name = judgement["judge"]
        return None, None, f"the requests are those of the group's comparisons, judge {name}/pairs"
    if request_hash is None:
        return None, None, f"{NOT_MADE}: {judgement['status']}"
    parameters = _parameters(judgement.get("parameters_hash"), texts)
    if parameters is None:
        return None, NOT_KEPT, None
    if isinstance(parameters, str):
        return None, _why_unreadable(conn, judgement, parameters), None
    place = judgement["batch_id"], judgement["rollout_index"]
    shown = parameters.group.responses if parameters.group else ()
    responses = [
        requests.rollout_texts(conn, judgement["batch_id"], indices[0]).get("response")
        for indices in shown
    ]
    words, images = requests.rollout_texts(conn, *place), requests.rollout_images(conn, *place)
    messages = first_messages(
        Kept(
            request_hash=request_hash,
            sample=judgement["sample"],
            parameters=parameters,
            messages=with_images(texts.get(judgement.get("messages_hash")), images),
            rubric=requests.rubric_of(conn, judgement.get("rubric_hash")),
            prompt=words.get("prompt"),
            response=words.get("response"),
            reference=words.get("reference"),
            tools=words.get("tools"),
            responses=responses,
            turn=judgement.get("turn"),
        )
    )
    if messages is not None:
        return messages, None, None
    version = _version(conn, judgement)
    return (
        None,
        f"the request rebuilt from the record differs from the one that Oyer {version} sent",
        None,
    )


def _why_unreadable(conn: "Connection", judgement: "StoredJudgement", problem: str) -> str:
    return (
        f"this release cannot read the request's parameters as Oyer {_version(conn, judgement)}"
        f" recorded them: {problem}"
    )


def _version(conn: "Connection", judgement: "StoredJudgement") -> str:
    """Return the release that recorded a judgement."""
    state = queries.batch(conn, judgement["batch_id"])
    return state["oyer_version"] if state else "?"


def _request(
    attempt: "StoredAttempt",
    parameters: "Parameters | str | None",
    messages: "list[Message] | None",
    texts: "Mapping[str | None, str]",
) -> dict[str, Any] | None:
    """Rebuild the body of an attempt; None if the record does not give it."""
    if messages is None or not isinstance(parameters, Parameters) or parameters.body is None:
        return None
    return body_of(parameters.body, turned(messages, _turns(attempt, texts)), attempt["seed"])


def _attempt(
    attempt: "StoredAttempt",
    judgement: "StoredJudgement",
    request: dict[str, Any] | None,
    texts: "Mapping[str | None, str]",
) -> dict[str, Any]:
    scored = judgement["status"] == "scored"
    replied = attempt["error_class"] is None

    def text(name: str) -> str | None:
        digest = dict(attempt).get(f"{name}_hash")
        if isinstance(digest, str):
            return texts.get(digest)
        held = dict(judgement).get(name) if scored and replied else None
        return held if isinstance(held, str) else None

    return {
        **{name: dict(attempt)[name] for name in _ATTEMPT},
        "request": request,
        "reply": text("reply"),
        "reasoning": text("reasoning"),
    }


def _turns(attempt: "StoredAttempt", texts: "Mapping[str | None, str]") -> Any:
    turns = attempt["turns"]
    if turns is None:
        return None
    added = [
        {"role": turn["role"], "content": texts.get(turn["content_hash"], "")}
        for turn in turns["added"]
    ]
    return {"kept": turns["kept"], "added": added}


def _hashes(judgement: "StoredJudgement", attempts: "list[StoredAttempt]") -> "list[str | None]":
    hashes = [judgement.get("parameters_hash"), judgement.get("messages_hash")]
    for attempt in attempts:
        hashes += [attempt["parameters_hash"], attempt["reply_hash"], attempt["reasoning_hash"]]
        hashes += [turn["content_hash"] for turn in (attempt["turns"] or {"added": ()})["added"]]
    return hashes


def _parameters_of(
    attempt: "StoredAttempt", judgement: "StoredJudgement", texts: "Mapping[str | None, str]"
) -> "Parameters | str | None":
    scored = judgement["status"] == "scored"
    digest = attempt["parameters_hash"] or (judgement.get("parameters_hash") if scored else None)
    return _parameters(digest, texts)


def _parameters(digest: str | None, texts: "Mapping[str | None, str]") -> "Parameters | str | None":
    """Return recorded parameters, what is wrong with them, or None if there are none."""
    text = texts.get(digest) if digest is not None else None
    return None if text is None else read_parameters(text)


def _answered_elsewhere(conn: "Connection", judgement: "StoredJudgement") -> str:
    """Return the source of a reply that this judgement reused."""
    source = judgement["source"]
    if source not in ("cache", "record", "joined"):
        return f"{NOT_MADE}: {judgement.get('error') or judgement['status']}"
    first = requests.judgements_by_hash(conn, str(judgement["request_hash"]), 1)
    if first and first[0]["source"] == "called":
        one = first[0]
        return (
            f"not sent for this judgement (source: {source}); the same request was sent for"
            f" {one['batch_id']}/{one['rollout_index']}, judge {one['judge']},"
            f" sample {one['sample']}"
        )
    return f"not sent for this judgement (source: {source}); the original call is not in the record"
