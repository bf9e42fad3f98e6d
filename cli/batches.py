"""`oyer batches list|show|resume|cancel`: what was submitted, what became of it, and what to do."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from oyer.cli import options
from oyer.cli.output import console, print_json
from oyer.tasks.errors import BatchCancelled, InvalidInput

if TYPE_CHECKING:
    from oyer.models.rows import BatchState
    from oyer.tasks.config import RewardConfig

app = typer.Typer(no_args_is_help=True, help="The batches on record: look, resume, cancel.")

BatchId = Annotated[str, typer.Argument(help="As `oyer batches list` prints it.")]

_UNDER_WAY = "submitted"
"""The status on record of a batch that has not ended."""


@app.command("list")
def list_(
    config: options.Config = None,
    run: Annotated[str | None, typer.Option("--run", help="Of this run only.")] = None,
    status: Annotated[
        str | None, typer.Option("--status", help="submitted, finished, cancelled or failed.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The latest so many.")] = 50,
    as_json: options.AsJson = False,
) -> None:
    """List the latest batches, newest first.

    Example: `oyer batches list --run exp-7 --status submitted`
    """
    from rich.markup import escape
    from rich.table import Table

    from oyer.models import history

    found = _read(
        _settings(config),
        lambda conn: history.list_batches(conn, run=run, status=status, limit=limit),
    )
    if as_json:
        for state in found:
            print_json(_plain(state))
        return
    table = Table("batch", "run", "step", "status", "rollouts", "judgements", "sent", "submitted")
    for state in found:
        table.add_row(
            state["id"],
            escape(state["run"]),
            "" if state["step"] is None else str(state["step"]),
            state["status"],
            str(state["size"]),
            _counted(state),
            str(state["submissions"]),
            f"{state['submitted_at']:%Y-%m-%d %H:%M:%S}",
        )
    console.print(table, highlight=False)


@app.command("show")
def show(batch_id: BatchId, config: options.Config = None, as_json: options.AsJson = False) -> None:
    """Print what is on record of one batch: its judgements by status, workers, calls and cost.

    Example: `oyer batches show 6f1c… --json`
    """
    from rich.markup import escape

    from oyer.models import history

    settings = _settings(config)
    state = _state(settings, batch_id)
    judgements = _read(settings, lambda conn: history.judgements_of(conn, batch_id))
    usage = state["usage"] or _read(settings, lambda conn: dict(history.usage_of(conn, batch_id)))
    errors: dict[str, str] = {}
    for row in judgements:
        if row.get("error"):
            errors.setdefault(row["status"], str(row.get("error")))
    workers = sorted({str(row.get("worker")) for row in judgements})
    shown = {**_plain(state), "usage": usage, "workers": workers, "first_errors": errors}
    if as_json:
        print_json(shown)
        return
    for name, value in shown.items():
        if name != "plan":
            console.print(f"[bold]{name:<13}[/] {escape(str(value))}", highlight=False)


@app.command("resume")
def resume(
    batch_id: BatchId,
    config: options.Config = None,
    timeout_s: Annotated[
        float | None, typer.Option("--timeout-s", min=0, help="Longest wait for the rewards.")
    ] = None,
) -> None:
    """Submit a batch again under its id, and wait for its rewards; what is on record is not repeated.

    It needs the batch's payloads in Redis, where they stay for `broker.result_expires_s`, or for an
    hour once its trainer has given it up; or all of its rewards on record.

    Example: `oyer batches resume 6f1c…`
    """
    from oyer.manager import RewardFuture
    from oyer.manager.backend import backend
    from oyer.tasks.config import RewardRules

    settings = _settings(config)
    broker = (_broker(settings), settings.broker.result_expires_s)
    source = backend(*broker)
    # Before its first chunk was judged, Redis alone knows a batch.
    verdicts = source.verdicts(batch_id)
    if verdicts is None:
        state = _state(settings, batch_id)
        verdicts = state["size"] * len(state["plan"]["judges"])
    source.send_again(batch_id)
    batch = RewardFuture(
        batch_id=batch_id,
        verdicts=verdicts,
        # Whatever is missing is for the trainer to judge, whose failure policy it is.
        rules=RewardRules(),
        broker=broker,
        stall_timeout_s=settings.stall_s,
    ).result(timeout_s)
    console.print(
        f"batch {batch_id}: {int(batch.mask.sum())} of {len(batch)} rollouts have a reward",
        highlight=False,
    )


@app.command("cancel")
def cancel(batch_id: BatchId, config: options.Config = None) -> None:
    """Begin no further call for a batch, and put its end on record.

    Example: `oyer batches cancel 6f1c…`
    """
    from datetime import UTC, datetime

    from oyer.cli.store import explained
    from oyer.manager.backend import backend
    from oyer.models import history, record
    from oyer.models.store import open_engine

    settings = _settings(config)
    state = _state(settings, batch_id)
    if state["status"] != _UNDER_WAY:
        raise BatchCancelled(f"batch {batch_id} has ended already: {state['status']}")
    backend(_broker(settings), settings.broker.result_expires_s).cancel(batch_id)
    with explained(settings.store.url):
        engine = open_engine(settings.store.url)
        with engine.begin() as conn:
            record.finish_batch(
                conn,
                batch_id,
                status="cancelled",
                finished_at=datetime.now(UTC),
                counts=state["counts"],
                usage=history.usage_of(conn, batch_id),
            )
        engine.dispose()
    console.print(f"batch {batch_id}: cancelled", highlight=False)


def _settings(config: options.Config) -> "RewardConfig":
    from oyer.tasks.settings import load_config

    return load_config(config)


def _broker(settings: "RewardConfig") -> str:
    from oyer.manager.local import running_broker

    return settings.broker.url or running_broker()


def _state(settings: "RewardConfig", batch_id: str) -> "BatchState":
    from oyer.models import history

    state: BatchState | None = _read(settings, lambda conn: history.batch(conn, batch_id))
    if state is None:
        raise InvalidInput(
            f"batch {batch_id}: is not on record in store.url; `oyer batches list` has those that are"
        )
    return state


def _read(settings: "RewardConfig", query: Any) -> Any:
    """Run a query on the record."""
    from oyer.cli.store import explained
    from oyer.models.store import open_engine, reading

    with explained(settings.store.url):
        engine = open_engine(settings.store.url)
        try:
            with reading(engine) as conn:
                return query(conn)
        finally:
            engine.dispose()


def _counted(state: "BatchState") -> str:
    return ", ".join(f"{n} {status}" for status, n in sorted(state["counts"].items()))


def _plain(state: "BatchState") -> dict[str, Any]:
    times = {name: state[name] for name in ("submitted_at", "finished_at")}
    return {**state, **{name: at and at.isoformat() for name, at in times.items()}}
