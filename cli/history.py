"""`oyer history request`: prints a judge request as sent, and the result of each attempt."""

from typing import TYPE_CHECKING, Annotated

import typer

from oyer.cli.support import options
from oyer.cli.support.output import print_json
from oyer.protocol.errors import InvalidInput

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from oyer.models.rows import StoredJudgement

app = typer.Typer(
    no_args_is_help=True,
    help="Recorded requests to the judges, and their replies.",
)

_MOST = 1000
"""Maximum number of judgements that one ID may match."""

_SHORTEST_HASH = 8
"""Minimum length of the beginning of a request hash."""

RequestId = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="BATCH/ROLLOUT: a batch's id or its beginning, and a rollout's index in it. Or a"
        " `request_hash`, or its beginning.",
    ),
]


JudgeName = Annotated[str | None, typer.Option("--judge", help="Only judgements of this judge.")]
Sample = Annotated[
    int | None, typer.Option("--sample", min=0, help="Only this sample; the first is 0.")
]


@app.command("request")
def request(
    request_id: RequestId,
    judge: JudgeName = None,
    sample: Sample = None,
    config: options.Config = None,
    as_json: options.AsJson = False,
) -> None:
    """Print each request of a judgement as it was sent, and the reply or error of every attempt.

    The messages are rebuilt from the recorded rubric and rollout, and compared with the
    judgement's `request_hash`. `--json` prints one object per judgement; `attempts` holds the
    request bodies. Exit code 1 if there is no such judgement, or if a request cannot be rebuilt: an
    older release did not record it, or its hash differs.

    Example: `oyer history request 6f1c/12 --judge quality`
    """
    from oyer.cli.support.batch_ledger import BatchLedger
    from oyer.cli.views import history_tables
    from oyer.config.loading import load_config
    from oyer.history.recorded_requests import shown

    rows = BatchLedger(load_config(config)).read(
        lambda conn: [shown(conn, row) for row in _selected(conn, request_id, judge, sample)]
    )
    for row in rows:
        if as_json:
            print_json(history_tables.plain(row))
        else:
            history_tables.show(row)
    if any(row["problem"] for row in rows):
        raise typer.Exit(1)


def _selected(
    conn: "Connection", request_id: str, judge: str | None, sample: int | None
) -> "list[StoredJudgement]":
    """Find the judgements that match an ID and the options.

    Raises:
        InvalidInput: there is none.
    """
    found = [
        row
        for row in _named(conn, request_id)
        if judge in (None, row["judge"]) and sample in (None, row["sample"])
    ]
    if not found:
        wanted = [f"judge {judge!r}" if judge else "", "" if sample is None else f"{sample=}"]
        of = " and ".join(filter(None, wanted))
        raise InvalidInput(
            f"{request_id}: is not judged on record{of and f' by {of}'};"
            " give BATCH/ROLLOUT, e.g. 6f1c/12, or a request_hash of judge_history"
        )
    return found


def _named(conn: "Connection", request_id: str) -> "list[StoredJudgement]":
    """Find the judgements that match an ID."""
    from oyer.models import queries, requests

    batch, slash, index = request_id.partition("/")
    if not slash:
        if len(batch) < _SHORTEST_HASH or not set(batch) <= set("0123456789abcdef"):
            raise InvalidInput(
                f"{request_id}: is no BATCH/ROLLOUT such as 6f1c/12, and no request_hash, of which"
                f" {_SHORTEST_HASH} hexadecimal characters are needed"
            )
        return requests.judgements_by_hash(conn, batch, _MOST)
    if not (index.isascii() and index.isdigit()):
        raise InvalidInput(f"{request_id}: after the slash comes a rollout's index, e.g. 6f1c/12")
    ids = requests.batch_ids(conn, batch, 3) if batch else []
    if len(ids) > 1:
        raise InvalidInput(f"{request_id}: several batches begin so ({', '.join(ids)}); give more")
    return queries.judgements_of(conn, ids[0], [int(index)]) if ids else []
