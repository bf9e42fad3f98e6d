"""A record for the page: batches with judgements, attempts, rewards and totals per step."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import Engine

from oyer.models import queries, writes
from oyer.protocol.batch_result import BatchResult, number_groups
from oyer.tasks.rewards.totals import Total, totals_of
from tests.support.record_rows import (
    make_attempt,
    make_batch,
    make_judgement,
    make_reward,
    make_rollout,
)

JUDGES = ("quality", "safety")
FIRST = datetime(2026, 3, 1, 10, tzinfo=UTC)

PLAN = {
    "judges": [
        {"name": "quality", "weight": 0.1, "scale": [0, 10], "model": "judge-7b"},
        {"name": "safety", "weight": 1.0, "scale": [0, 1], "model": "judge-7b"},
    ],
    "length": [{"method": "median_band"}],
    "reward": {"gate": "none"},
    "budget": {"usd": 2.0},
}

HOSTILE = (
    "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">",
    "{{ 7 * 7 }} {% for x in y %} ${7*7} </pre></main><h1>out</h1>",
    "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 &lt;b&gt;",
    "NUL\x00and a lone surrogate \ud800 and \x1b[31mred",
    "x" * 1_000_000,
    "' onmouseover='document.title=1' \" autofocus onfocus=\"document.title='taken'",
)
"""Responses that try to leave their place on the page."""


def add_batch(
    engine: Engine,
    responses: Sequence[str],
    *,
    scores: Sequence[Mapping[str, float | None]],
    group_size: int = 4,
    group_ids: Sequence[str] | None = None,
    ended: bool = True,
    judgement: Mapping[str, Any] | None = None,
    **batch: Any,
) -> str:
    """Record a batch; its rewards are base 1 + 0.1 quality + safety - length.

    Args:
        scores: each rollout's score by judge, `[N]`; None: the judge timed out.
        judgement: further columns of each judgement.
    """
    count = len(responses)
    ids = list(group_ids or [f"g{i // group_size}" for i in range(count)])
    row = make_batch(**{"run": "first", "step": 0, "size": count, "plan": PLAN, **batch})
    result = _result(row["id"], scores, ids)
    with engine.begin() as conn:
        key = writes.ensure_run_and_batch(conn, row)
        writes.record_chunk(
            conn,
            key,
            rollouts=[
                make_rollout(
                    i, prompt=f"What is {ids[i]}?", response=text, group_id=ids[i],
                    response_tokens=20 + 3 * i,
                )
                for i, text in enumerate(responses)
            ],
            judgements=[
                make_judgement(i, **{**_judged(judge, i, value, row["id"]), **(judgement or {})})
                for i, given in enumerate(scores)
                for judge, value in given.items()
            ],
            attempts=[
                make_attempt(i, judge=judge, **_attempted(value))
                for i, given in enumerate(scores)
                for judge, value in given.items()
            ],
        )  # fmt: skip
        if ended:
            _end(conn, key, row, result)
    return row["id"]


def _judged(judge: str, index: int, score: float | None, batch_id: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "judge": judge,
        "score": score,
        "request_hash": f"{abs(hash((batch_id, index, judge))):064x}"[-64:],
        "started_at": FIRST,
        "finished_at": FIRST,
    }
    if score is None:
        return found | {
            "status": "timeout", "reply": None, "error": "no reply within 60 s",
            "parsed_span": None, "parsed_layer": None,
        }  # fmt: skip
    span = f"Final score: {score:g}"
    return found | {"reply": f"A sound answer. {span}", "parsed_span": span}


def _attempted(score: float | None) -> dict[str, Any]:
    if score is not None:
        return {}
    return {"http_status": 504, "error_class": "timeout", "error": "gateway timeout"}


def _result(batch_id: str, scores: Sequence[Mapping[str, float | None]], ids: list[str]) -> Any:
    def column(judge: str) -> Any:
        values = [given.get(judge) for given in scores]
        return np.array([math.nan if v is None else v for v in values], dtype=np.float32)

    quality, safety = column("quality"), column("safety")
    length = -0.01 * np.arange(len(ids), dtype=np.float32)
    base = np.ones(len(ids), dtype=np.float32)
    judge_terms = {"judge:quality": 0.1 * quality, "judge:safety": safety}
    unshaped = base + 0.1 * quality + safety
    return BatchResult(
        batch_id=batch_id,
        rewards=unshaped + length,
        unshaped_rewards=unshaped,
        judge_scores=quality,
        mask=np.isfinite(unshaped),
        statuses=["scored" if math.isfinite(value) else "timeout" for value in unshaped],
        terms={"base_score": base, "judge": sum(judge_terms.values()), **judge_terms, "length_penalty": length},
        usage={"calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost_usd": 0.0},
        first_errors={},
        scores={"quality": quality, "safety": safety},
        groups=number_groups(ids),
    )  # fmt: skip


def _end(conn: Any, key: Any, row: Any, result: BatchResult) -> None:
    recorded = result.recorded
    rewards = [
        make_reward(
            i,
            reward=_known(result.rewards[i]),
            unshaped_reward=_known(result.unshaped_rewards[i]),
            judge_score=_known(result.judge_scores[i]),
            status=result.statuses[i],
            trainable=bool(result.mask[i]),
            terms={name: _known(values[i]) for name, values in recorded.items()},
        )
        for i in range(len(result.rewards))
    ]
    finished_at = key.submitted_at + timedelta(seconds=7)
    usage = queries.usage_of(conn, row["id"])
    writes.record_rewards(conn, key, rewards)
    totals = totals_of(
        result,
        requests=usage["calls"],
        cost_usd=usage["cost_usd"],
        judge_ms=Total(*queries.latency_of(conn, row["id"])),
        duration=finished_at - key.submitted_at,
        preliminary=bool(row.get("preliminary")),
    )
    writes.add_to_totals(conn, row["id"], totals)
    writes.finish_batch(
        conn, row["id"], status="finished", finished_at=finished_at, counts=result.counts,
        usage=usage,
    )  # fmt: skip


def _known(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def fill(engine: Engine) -> dict[str, str]:
    """Record two steps, a batch under way and a hostile one; returns the batch ids by name."""
    plain = [f"The answer is {i}, because {i} = {i}." for i in range(8)]
    # The last two responses are equal.
    plain[7] = plain[6]
    scores: list[dict[str, float | None]] = [
        {"quality": float(i + 1), "safety": (i % 3) / 2} for i in range(8)
    ]
    scores[3] = {"quality": None, "safety": 1.0}
    hours = [FIRST + timedelta(hours=n) for n in range(6)]
    return {
        "first": add_batch(engine, plain, scores=scores, submitted_at=hours[0]),
        "second": add_batch(engine, plain, scores=scores[::-1], step=1, submitted_at=hours[1]),
        "hostile": add_batch(
            engine, HOSTILE, scores=[{"quality": 5.0, "safety": 1.0}] * len(HOSTILE),
            group_ids=["<b>g</b>'\"&"] * len(HOSTILE), run="<i>run</i>/x", step=0,
            submitted_at=hours[2], judgement={"reply": f"{HOSTILE[0]} Final score: 5"},
        ),
        "open": add_batch(
            engine, plain[:4], scores=[{"quality": 5.0}] * 4, step=2, submitted_at=hours[3],
            ended=False,
        ),
    }  # fmt: skip
