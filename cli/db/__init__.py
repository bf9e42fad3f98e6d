"""`oyer db`: manages the record: schema, roles, SQL, export, backup and pruning."""

from typing import Annotated

import typer

from oyer.cli.db.backup import backup
from oyer.cli.db.export import export
from oyer.cli.db.partitions import partitions
from oyer.cli.db.prune import prune
from oyer.cli.db.sql import sql
from oyer.cli.support import options
from oyer.cli.support.output import console, print_json
from oyer.protocol.errors import InvalidInput

app = typer.Typer(
    no_args_is_help=True, help="Create, upgrade, read, export, prune and back up the record."
)

app.command("sql")(sql)
app.command("prune")(prune)
app.command("partitions")(partitions)
app.command("export")(export)
app.command("backup")(backup)


@app.command("upgrade")
def upgrade(
    config: options.Config = None, url: options.RecordUrl = None, as_json: options.AsJson = False
) -> None:
    """Upgrade the record to this release's schema; safe to run on several hosts at once.

    Example: `oyer db upgrade --url postgresql://oyer@db/oyer`
    """
    from oyer import migrations
    from oyer.cli.support.database import explained

    url = options.record_url(config, url)
    with explained(url):
        before = migrations.current(url)
        migrations.upgrade(url)
        after = migrations.current(url)
    if as_json:
        print_json({"before": before, "after": after})
    elif before == after:
        console.print(f"already at {after}")
    else:
        console.print(f"upgraded from {before or 'empty'} to {after}")


@app.command("current")
def current(
    config: options.Config = None, url: options.RecordUrl = None, as_json: options.AsJson = False
) -> None:
    """Print the revisions of the record and of this release; exit code 1 if they differ.

    Example: `oyer db current --config oyer.yaml`
    """
    from oyer import migrations
    from oyer.cli.support.database import explained

    url = options.record_url(config, url)
    with explained(url):
        now, head = migrations.current(url), migrations.head()
    if as_json:
        print_json({"current": now, "head": head})
    else:
        console.print(f"{now or 'empty'} (this release: {head})")
    if now != head:
        raise typer.Exit(1)


@app.command("roles")
def roles(
    worker: Annotated[
        list[str] | None, typer.Option("--worker", help="A role for workers; may be repeated.")
    ] = None,
    analyst: Annotated[
        list[str] | None, typer.Option("--analyst", help="A role that only reads.")
    ] = None,
    config: options.Config = None,
    url: options.RecordUrl = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the SQL without connecting.")
    ] = False,
) -> None:
    """Grant PostgreSQL roles the least privileges they need; run it as the owner of the record.

    A worker inserts and reads; an analyst reads. Neither can delete rows or change the schema, so
    `oyer db upgrade` still needs the owner. Run it again after an upgrade. Create the roles first:
    `CREATE ROLE oyer_worker LOGIN PASSWORD '…'`.

    Example: `oyer db roles --worker oyer_worker --analyst oyer_analyst --url postgresql://owner@db/oyer`
    """
    from oyer.cli.support.database import explained
    from oyer.migrations import roles as granted

    if not worker and not analyst:
        raise InvalidInput("name the roles: --worker NAME, --analyst NAME, or both")
    if dry_run:
        for statement in granted.statements(worker or [], analyst or []):
            typer.echo(f"{statement};")
        return
    url = options.record_url(config, url)
    with explained(url):
        granted.apply(url, worker or [], analyst or [])
    names = [f"{name} (worker)" for name in worker or []]
    names += [f"{name} (analyst)" for name in analyst or []]
    console.print(f"granted: {', '.join(names)}", highlight=False, markup=False, soft_wrap=True)
