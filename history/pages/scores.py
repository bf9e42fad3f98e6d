"""The page of one score: the reward written out, each judge's reply, and where it came from."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from oyer.history.pages import verdicts
from oyer.history.pages.groups import place_of
from oyer.history.pages.judges import (
    PAIRS,
    joint_score,
    judge_name,
    scales_of,
    scores_rollouts,
    splits_criteria,
)
from oyer.history.pages.sums import reward_sum
from oyer.history.recorded_requests import shown
from oyer.history.words import marked
from oyer.models.batch import Batch, Run
from oyer.models.judgement import Judgement
from oyer.models.queries import judgements_of
from oyer.models.requests import judgements_by_hash, texts_of
from oyer.models.reward import Reward
from oyer.models.rollout import Rollout
from oyer.models.rows import StoredJudgement

ELSEWHERE = 20
"""Most rollouts with the same response that a page lists."""


def score_page(conn: Connection, batch_id: str, index: int) -> dict[str, Any] | None:
    """Explain one rollout's reward; None if it is not on record."""
    place = place_of(conn, batch_id)
    if place is None:
        return None
    key = {"submitted_at": place["submitted_at"], "batch_id": batch_id, "rollout_index": index}
    rollout = conn.execute(select(Rollout.__table__).filter_by(**key)).mappings().one_or_none()
    if rollout is None:
        return None
    reward = conn.execute(select(Reward.__table__).filter_by(**key)).mappings().one_or_none()
    texts = texts_of(
        conn, [rollout["prompt_hash"], rollout["response_hash"], rollout["reference_hash"]]
    )
    judgements = judgements_of(conn, batch_id, [index])
    samples = Counter(one["judge"] for one in judgements)
    terms = reward["terms"] if reward else {}
    return {
        **place,
        "index": index,
        "rollout": rollout,
        "prompt": messages_of(texts.get(rollout["prompt_hash"])),
        "response": messages_of(texts.get(rollout["response_hash"])),
        "reference": texts.get(rollout["reference_hash"]),
        "reward": reward,
        "sum": reward_sum(terms, reward["reward"] if reward else None, place["plan"]),
        "judgements": [
            {
                **_judgement(conn, one, place["plan"]),
                "samples": samples[one["judge"]],
                "joint": _joint(one, judgements, place["plan"], terms),
            }
            for one in judgements
        ],
        "elsewhere": _elsewhere(conn, rollout["response_hash"], batch_id, index),
        "verdicts": verdicts.of_rollout(conn, batch_id, index),
        "neighbours": _neighbours(conn, place, index),
    }


def _joint(
    judgement: StoredJudgement,
    judgements: Sequence[StoredJudgement],
    plan: Mapping[str, Any],
    terms: Mapping[str, float | None],
) -> float | None:
    """Return the score of a judge's samples together; None except for its last judgement."""
    judge = judgement["judge"]
    own = [one for one in judgements if one["judge"] == judge]
    if own[-1] is not judgement or not scores_rollouts(judge):
        return None
    return joint_score([(one["sample"], one["score"]) for one in own], plan, judge, terms)


def messages_of(text: str | None) -> list[dict[str, Any]]:
    """Return a recorded text as messages with `role` and `text`; a plain text is one without role."""
    if text is None:
        return []
    if text.startswith("[{"):
        try:
            messages = json.loads(text)
        except ValueError:
            messages = None
        if isinstance(messages, list) and all(
            isinstance(m, dict) and "role" in m for m in messages
        ):
            return [_message(one) for one in messages]
    return [{"role": None, "text": text}]


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    parts = []
    if message.get("reasoning_content"):
        parts.append(str(message["reasoning_content"]))
    if content is not None:
        parts.append(content if isinstance(content, str) else _json(content))
    if message.get("tool_calls"):
        parts.append(_json(message["tool_calls"]))
    return {"role": str(message["role"]), "text": "\n\n".join(parts)}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def _judgement(
    conn: Connection, judgement: StoredJudgement, plan: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a judgement with its criteria, its reply marked, its requests, and where it was paid."""
    name = judge_name(judgement["judge"])
    found = {
        **judgement,
        **shown(conn, judgement),
        "criteria": judgement.get("criteria", ()),
        "name": name,
        "compares": judgement["judge"].endswith(PAIRS),
        "splits_criteria": splits_criteria(plan, judgement["judge"]),
        "of_fallback": "/fallback" in judgement["judge"],
        "pieces": marked(judgement.get("reply") or "", judgement.get("parsed_span")),
        "scale": scales_of(plan).get(name),
        "paid_at": None,
    }
    if judgement["source"] in ("cache", "record", "joined") and judgement.get("request_hash"):
        paid = judgements_by_hash(conn, str(judgement["request_hash"]), 1)
        if paid and paid[0]["source"] == "called":
            found["paid_at"] = paid[0]["batch_id"], paid[0]["rollout_index"]
    return found


def _elsewhere(
    conn: Connection, response_hash: str, batch_id: str, index: int
) -> Sequence[Mapping[str, Any]]:
    """Return other rollouts with the same response."""
    query = (
        select(
            Rollout.batch_id, Rollout.rollout_index, Run.name.label("run"), Batch.step,
            Reward.reward, Reward.status,
        )
        .join_from(Rollout, Batch, Batch.id == Rollout.batch_id)
        .join(Run)
        .outerjoin(
            Reward,
            (Reward.submitted_at == Rollout.submitted_at)
            & (Reward.batch_id == Rollout.batch_id)
            & (Reward.rollout_index == Rollout.rollout_index),
        )
        .where(Rollout.response_hash == response_hash)
        .limit(ELSEWHERE + 1)
    )  # fmt: skip
    rows = [dict(row) for row in conn.execute(query).mappings()]
    return [row for row in rows if (row["batch_id"], row["rollout_index"]) != (batch_id, index)]


def _neighbours(conn: Connection, place: Mapping[str, Any], index: int) -> dict[str, int | None]:
    """Return the rollouts before and after this one in its batch, for the keys j and k."""
    indices = select(Rollout.rollout_index).where(
        Rollout.submitted_at == place["submitted_at"],
        Rollout.batch_id == place["batch_id"],
        Rollout.rollout_index.in_([index - 1, index + 1]),
    )
    found = set(conn.scalars(indices))
    return {
        "previous": index - 1 if index - 1 in found else None,
        "next": index + 1 if index + 1 in found else None,
    }


def judgement_of(
    conn: Connection, batch_id: str, index: int, judge: str
) -> Mapping[str, Any] | None:
    """Return the first sample of a judge for a rollout; None if it is not on record."""
    place = place_of(conn, batch_id)
    if place is None:
        return None
    query = select(Judgement.__table__).where(
        Judgement.submitted_at == place["submitted_at"],
        Judgement.batch_id == batch_id,
        Judgement.rollout_index == index,
        Judgement.judge == judge,
    )
    row = conn.execute(query.order_by(Judgement.sample).limit(1)).mappings().first()
    return None if row is None else dict(row)
