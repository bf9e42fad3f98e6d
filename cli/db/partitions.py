"""`oyer db partitions`: creates and drops the monthly partitions of a PostgreSQL record."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oyer.cli.db.selection import DryRun, KeepRun, Yes, age_of, check_runs
from oyer.cli.support import options
from oyer.cli.support.output import console, notes, print_json, print_table
from oyer.protocol.errors import InvalidConfig, InvalidInput

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from oyer.models.partitions.catalog import Partition
    from oyer.models.partitions.drop import Expired

Ahead = Annotated[
    int,
    typer.Option(
        "--ahead", min=1, max=24, help="Months to create partitions for, after the current one."
    ),
]
DropOlderThan = Annotated[
    str | None,
    typer.Option(
        "--drop-older-than",
        help="Drop the months that ended longer ago than this: 90d, 12w or 36h.",
    ),
]


def partitions(
    ahead: Ahead = 3,
    drop_older_than: DropOlderThan = None,
    keep_run: KeepRun = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    config: options.Config = None,
    url: options.RecordUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Partition a PostgreSQL record by month: create the coming partitions, drop the oldest.

    Run it as the owner of the record, once a month or more often, e.g. by cron with --yes. Queries
    and workers stay as they are. The first run makes the tables partitioned; the rows so far become
    one partition, which is not copied, but read once while writers wait.

    Dropping a month returns the space of its rows to the disk; its texts are deleted in short
    transactions, as by `oyer db prune`. A month with an unfinished batch or a run to keep is not
    dropped; prune it instead.

    Example: `oyer db partitions --drop-older-than 26w --keep-run baseline --yes`
    """
    from oyer import migrations
    from oyer.cli.support.database import existing
    from oyer.models.engine import redacted_url

    before = _before(drop_older_than, keep_run)
    url = options.record_url(config, url)
    with existing(url) as engine:
        if engine.dialect.name != "postgresql":
            raise InvalidConfig(
                f"{redacted_url(url)}: SQLite has no partitions; delete old batches by"
                " `oyer db prune --older-than 90d`"
            )
        if migrations.current_of(engine) != migrations.head():
            raise InvalidConfig(f"{redacted_url(url)}: is not up to date; run `oyer db upgrade`")
        with engine.connect() as conn:
            check_runs(conn, keep_run or [])
        done = _run(engine, ahead, before, tuple(keep_run or ()), dry_run=dry_run, yes=yes)
        _report(engine, done, dry_run=dry_run, as_json=as_json)


def _before(drop_older_than: str | None, keep_run: list[str] | None) -> datetime | None:
    """Return the time that months must end before to be dropped; None to drop nothing."""
    if drop_older_than is not None:
        return datetime.now(UTC) - age_of("--drop-older-than", drop_older_than)
    if keep_run:
        raise InvalidInput("--keep-run: keeps runs from being dropped; add --drop-older-than 26w")
    return None


def _run(
    engine: "Engine",
    ahead: int,
    before: datetime | None,
    keep_runs: tuple[str, ...],
    *,
    dry_run: bool,
    yes: bool,
) -> dict[str, list[str]]:
    """Create and drop; returns the names of what was or would be dropped, and of what was created."""
    from oyer.models.partitions.catalog import unpartitioned
    from oyer.models.partitions.create import create_partitions
    from oyer.models.partitions.drop import complete_drop, drop_partitions, expired

    with engine.connect() as conn:
        plain = unpartitioned(conn)
        groups = expired(conn, before, keep_runs) if before is not None and not plain else []
    _print_kept(groups)
    names = [name for group in groups if group.droppable for name in group.names]
    if plain:
        notes.print(f"not partitioned yet: {', '.join(plain)}", highlight=False)
    if dry_run:
        return {"created": [], "dropped": names}
    if not yes and (plain or names):
        typer.confirm(_question(plain, groups), abort=True, err=True)
    created = create_partitions(engine, ahead)
    drops = complete_drop(engine) if before is None else drop_partitions(engine, before, keep_runs)
    return {"created": created, "dropped": [name for name in drops if name]}


def _print_kept(groups: "list[Expired]") -> None:
    for group in groups:
        if not group.droppable:
            notes.print(
                f"the partitions that end {group.end:%Y-%m-%d} are kept:"
                f" {group.not_ended} batches have not ended, {group.kept} are of runs to keep;"
                " `oyer db prune` deletes the others",
                highlight=False,
                soft_wrap=True,
            )


def _question(plain: list[str], groups: "list[Expired]") -> str:
    what = []
    if plain:
        what.append("make the tables partitioned, while writers wait")
    gone = [group for group in groups if group.droppable]
    if gone:
        batches = sum(group.batches for group in gone)
        rollouts = sum(group.rollouts for group in gone)
        what.append(f"drop {len(gone)} months with {batches} batches and {rollouts} rollouts")
    return f"{' and '.join(what)}?"


def _report(engine: "Engine", done: dict[str, list[str]], *, dry_run: bool, as_json: bool) -> None:
    from oyer.models.partitions.catalog import partitions as present

    with engine.connect() as conn:
        found = present(conn)
    if as_json:
        print_json({**done, "partitions": [_row(one) for one in found]})
        return
    would = "would drop" if dry_run else "dropped"
    for label, names in (("created", done["created"]), (would, done["dropped"])):
        if names:
            console.print(f"{label} {', '.join(names)}", highlight=False, soft_wrap=True)
    if found:
        _print_months(found)


def _print_months(found: "list[Partition]") -> None:
    """Print the size of each month, over all tables."""
    from rich.table import Table

    table = Table("from", "to", "partitions", "MB")
    for end in dict.fromkeys(one.end for one in found):
        same = [one for one in found if one.end == end]
        row = _row(same[0])
        first = "all other times" if end is None else row["from"] or "the beginning"
        size_mb = sum(one.size_bytes for one in same) / 1e6
        table.add_row(first, row["to"] or "", str(len(same)), f"{size_mb:.1f}")
    print_table(table)


def _row(one: "Partition") -> dict[str, Any]:
    return {
        "name": one.name,
        "from": None if one.start is None else f"{one.start:%Y-%m-%d}",
        "to": None if one.end is None else f"{one.end:%Y-%m-%d}",
        "bytes": one.size_bytes,
    }
