"""`oyer batches list|show|resume|cancel`: lists, inspects, resumes and cancels batches."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from oyer.cli.support import options
from oyer.cli.support.batch_ledger import QUEUED, UNFINISHED, BatchLedger
from oyer.cli.support.output import console, counted, notes, print_json
from oyer.protocol.errors import BatchCancelled, BatchFailed, BatchLost

if TYPE_CHECKING:
    from oyer.models.rows import StoredBatch

app = typer.Typer(
    no_args_is_help=True,
    help="List, inspect, resume and cancel batches.\n\n"
    "A batch is on record once a worker has started on it; until then it is `queued`, and is in"
    " Redis only.",
)

BatchId = Annotated[str, typer.Argument(help="The batch's id, or its first characters.")]


@app.command("list")
def list_(
    config: options.Config = None,
    run: Annotated[str | None, typer.Option("--run", help="Only batches of this run.")] = None,
    status: Annotated[
        Literal["queued", "submitted", "finished", "cancelled", "failed"] | None,
        typer.Option("--status", help="Only batches with this status."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Number of batches to list.")] = 50,
    as_json: options.AsJson = False,
) -> None:
    """List the latest batches, newest first; `--json` prints one object per batch.

    Example: `oyer batches list --run exp-7 --status submitted`
    """
    from oyer.cli.views import batch_tables
    from oyer.models import queries

    ledger = _ledger(config)
    found: list[StoredBatch] = []
    if status in (None, QUEUED):
        found += [state for state in ledger.queued(limit) if run in (None, state["run"])]
    if status != QUEUED:
        found += ledger.read(
            lambda conn: queries.list_batches(conn, run=run, status=status, limit=limit)
        )
    found.sort(key=lambda state: state["submitted_at"], reverse=True)
    if as_json:
        for state in found[:limit]:
            print_json(batch_tables.plain(state))
    elif not found:
        notes.print("no such batch is queued or on record", highlight=False)
    else:
        batch_tables.print_overview(found[:limit])


@app.command("show")
def show(batch_id: BatchId, config: options.Config = None, as_json: options.AsJson = False) -> None:
    """Print one batch: its submissions, the workers that judged it, and its cost.

    Exit code 1 if it is neither on record nor queued on the broker.

    Example: `oyer batches show 6f1c2a7e --json`
    """
    from oyer.cli.views import batch_tables
    from oyer.models import queries

    ledger = _ledger(config)
    batch_id = ledger.whole_id(batch_id)
    shown = {
        **ledger.batch(batch_id),
        "sent": ledger.submissions(batch_id),
        "work": ledger.read(lambda conn: queries.work_of(conn, batch_id)),
        "first_errors": ledger.read(lambda conn: queries.first_errors_of(conn, batch_id)),
    }
    if shown["usage"] is None:
        shown["usage"] = ledger.read(lambda conn: queries.usage_of(conn, batch_id))
    if as_json:
        print_json(batch_tables.plain(shown))
    else:
        batch_tables.show(shown)


@app.command("resume")
def resume(
    batch_id: BatchId,
    config: options.Config = None,
    timeout_s: Annotated[
        float | None,
        typer.Option("--timeout-s", min=0, help="Maximum wait for the rewards, in seconds."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Resubmit a batch under its id and wait for its rewards; recorded judgements are reused.

    The batch's payloads must still be in Redis: they are kept for `broker.result_expires_s`, or for
    an hour after its trainer abandoned it. Its deadline starts again. If the batch has finished,
    its rewards are read and nothing is submitted. Exit code 1 if the batch is unknown, cancelled or
    lost, or has no rewards in time.

    Example: `oyer batches resume 6f1c2a7e --timeout-s 600`
    """
    from oyer.models import queries

    ledger = _ledger(config)
    batch_id = ledger.whole_id(batch_id)
    state = ledger.batch(batch_id)
    if state["status"] == "cancelled":
        raise BatchCancelled(
            f"{_ended(state)}; submit its rollouts again: judgements on record are not paid for again"
        )
    rewards = ledger.read(lambda conn: queries.rewards_of(conn, batch_id))
    finished = len(rewards) == state["size"]
    if finished:
        mask = [row["trainable"] for row in rewards]
    else:
        mask = _resubmit(ledger, state, timeout_s)
    if as_json:
        counts = {"rollouts": len(mask), "rewards": sum(mask)}
        print_json({"id": batch_id, "sent": not finished, **counts})
        return
    console.print(
        f"batch {batch_id}: {sum(mask)} of {len(mask)} rollouts have a reward"
        + ("; it had finished, and nothing was sent" if finished else ""),
        highlight=False,
        soft_wrap=True,
    )


@app.command("cancel")
def cancel(
    batch_id: BatchId, config: options.Config = None, as_json: options.AsJson = False
) -> None:
    """Cancel a batch: start no further judge call for it, and record that it ended.

    Exit code 1 if the batch is unknown or has ended.

    Example: `oyer batches cancel 6f1c2a7e`
    """
    ledger = _ledger(config)
    batch_id = ledger.whole_id(batch_id)
    state = ledger.batch(batch_id)
    if state["status"] not in UNFINISHED:
        raise BatchCancelled(_ended(state))
    ledger.cancel(batch_id)
    if as_json:
        print_json({"id": batch_id, "status": "cancelled"})
    else:
        console.print(f"batch {batch_id}: cancelled", highlight=False)


def _resubmit(ledger: BatchLedger, state: "StoredBatch", timeout_s: float | None) -> list[bool]:
    """Resubmit a batch and wait for it; returns the mask of rollouts with a reward."""
    from oyer.config.reward import RewardRules
    from oyer.manager import RewardFuture

    batch_id = state["id"]
    if not ledger.broker.resume(batch_id, "oyer batches resume"):
        raise BatchLost(
            f"batch {batch_id}: its payloads are no longer in Redis, and it has not ended;"
            f" submit its rollouts again; {counted(sum(state['counts'].values()), 'judgement')} on record"
            " will not be paid for again"
        )
    if state["status"] == "failed":
        ledger.reopen(batch_id)
    future = RewardFuture(
        batch_id=batch_id,
        verdicts=state["size"] * len(state["plan"]["judges"]),
        # The failure policy for missing rewards is the trainer's.
        rules=RewardRules(),
        broker=ledger.broker_key,
        stall_timeout_s=ledger.stall_s,
    )
    try:
        return [bool(trainable) for trainable in future.result(timeout_s).mask]
    except TimeoutError as error:
        raise BatchFailed(f"{error}; it continues: `oyer batches show {batch_id}`") from None


def _ended(state: "StoredBatch") -> str:
    """Return how and when a batch ended."""
    why = f": {state['ending']}" if state["ending"] else ""
    when = f" at {state['finished_at']:%Y-%m-%d %H:%M:%S} UTC" if state["finished_at"] else ""
    return f"batch {state['id']}: has ended already, {state['status']}{when}{why}"


def _ledger(config: options.Config) -> BatchLedger:
    from oyer.config.loading import load_config

    return BatchLedger(load_config(config))
