"""`oyer demo`: the main job on sample rollouts, with everything embedded."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from oyer.cli.output import console, notes, print_json
from oyer.cli.rollout_lines import reward_lines
from oyer.cli.scoring import Summary, batches, score_all
from oyer.demo.judge_server import judge_process
from oyer.demo.samples import sample_rollouts
from oyer.manager import InvalidInput, RewardBatch, RewardManager, Rollout

_GROUPS_SHOWN = 3

_LATENCY_S = 0.3
"""How long the demo judge thinks, so that overlap shows."""


def demo(
    base_url: Annotated[
        str | None, typer.Option("--base-url", help="A real OpenAI-compatible endpoint.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="The real judge's model.")] = None,
    api_key_env: Annotated[
        str | None, typer.Option("--api-key-env", help="Variable that holds the real judge's key.")
    ] = None,
    rollouts: Annotated[
        int, typer.Option("--rollouts", min=4, help="How many sample rollouts to score.")
    ] = 512,
    store: Annotated[Path, typer.Option("--store", help="SQLite file of the record.")] = Path(
        "oyer-demo.db"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score sample rollouts with an embedded backend, and show where the record is.

    Four policies' answers to grade-school-math questions are judged by a built-in rule-based
    judge behind a real HTTP endpoint; with --base-url and --model a real one judges.
    """
    if (base_url is None) != (model is None):
        raise InvalidInput("--base-url and --model go together; give both or neither")
    rows = [Rollout(**row) for row in sample_rollouts()[:rollouts]]
    started = time.monotonic()
    with _endpoint(base_url, api_key_env) as endpoint:
        config = _config(endpoint, model or "demo-judge", store)
        if not as_json:
            notes.print("starting Redis, the record and the workers …")
        with RewardManager.local(config) as manager:
            began = time.monotonic()
            summary = Summary()
            results = []
            for part, batch in score_all(manager, batches(rows, 256), run="demo", quiet=as_json):
                summary.add(batch)
                results.append((part, batch))
            summary.seconds = time.monotonic() - began
    if as_json:
        print_json(_report(results, summary, store, time.monotonic() - started))
        return
    console.print(_groups_table(*results[0]))
    _print_summary(summary, time.monotonic() - started)
    _print_sql(store, results[0][1].id)


@contextlib.contextmanager
def _endpoint(base_url: str | None, api_key_env: str | None) -> Iterator[dict[str, Any]]:
    if base_url is not None:
        yield {"base_url": base_url, "api_key_env": api_key_env}
        return
    with judge_process("--latency-s", str(_LATENCY_S)) as url:
        yield {"base_url": url}


def _config(endpoint: dict[str, Any], model: str, store: Path) -> dict[str, Any]:
    judge = {"name": "quality", "endpoint": "demo", "model": model, "rubric": "reasoning_en"}
    return {
        "endpoints": {"demo": {**endpoint, "max_in_flight": 64}},
        "judges": [{**judge, "weight": 0.1}],
        "length": {"method": "median_band"},
        "store": {"url": f"sqlite:///{store}"},
    }


def _groups_table(rows: list[Rollout], batch: RewardBatch) -> Table:
    table = Table(title="The first groups: base + judge + length = reward", title_justify="left")
    for name in ("group", "response", "status", "base", "judge score", "judge", "length", "reward"):
        table.add_column(
            name, justify="left" if name in ("group", "response", "status") else "right"
        )
    groups = list(dict.fromkeys(row.group_id for row in rows))[:_GROUPS_SHOWN]
    previous = None
    for row, line in zip(rows, reward_lines(rows, batch), strict=True):
        if row.group_id not in groups:
            break
        if previous not in (None, row.group_id):
            table.add_section()
        terms = line["terms"]
        table.add_row(
            str(row.group_id),
            _short(row.response),
            line["status"],
            *(
                _shown(value)
                for value in (
                    terms["base_score"],
                    line["judge_score"],
                    terms["judge"],
                    terms["length_penalty"],
                    line["reward"],
                )
            ),
        )
        previous = row.group_id
    return table


def _print_summary(summary: Summary, total_s: float) -> None:
    table = Table(title="Summary", show_header=False, title_justify="left")
    rate = summary.rollouts / summary.seconds
    table.add_row(
        "rollouts", f"{summary.rollouts} in {summary.seconds:.1f} s, {rate:.0f} per second"
    )
    table.add_row("with start and stop", f"{total_s:.1f} s")
    table.add_row("judge calls", f"{summary.calls}, {summary.tokens} tokens")
    table.add_row("cost", f"${summary.cost_usd:.4f}")
    for status, count in sorted(summary.statuses.items()):
        table.add_row(status, str(count))
    console.print(table, highlight=False)


def _print_sql(store: Path, batch_id: str) -> None:
    query = (
        "SELECT group_id, base_score, judge, score, reward, reply FROM judge_history"
        f" WHERE batch_id = '{batch_id}' LIMIT 5"
    )
    console.print("Every score is on record; look at it with SQL:", highlight=False)
    command = f'oyer db sql --url sqlite:///{store} "{query}"'
    console.print(f"  {command}", highlight=False, soft_wrap=True, markup=False)


def _report(
    results: list[tuple[list[Rollout], RewardBatch]], summary: Summary, store: Path, total_s: float
) -> dict[str, Any]:
    return {
        "rollouts": summary.rollouts,
        "seconds": round(summary.seconds, 3),
        "total_seconds": round(total_s, 3),
        "statuses": dict(summary.statuses),
        "calls": summary.calls,
        "tokens": summary.tokens,
        "cost_usd": summary.cost_usd,
        "store": str(store),
        "batches": [batch.id for _, batch in results],
    }


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 40 else line[:39] + "…"


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
