"""`oyer db upgrade|current|sql|roles`: the record's schema, what it holds, and who may do what."""

from typing import TYPE_CHECKING, Annotated

import typer

from oyer.cli import options
from oyer.cli.output import console, print_json, print_table
from oyer.tasks.errors import InvalidConfig, InvalidInput

if TYPE_CHECKING:
    from sqlalchemy import Connection

app = typer.Typer(no_args_is_help=True, help="Create, upgrade and read the record.")

Url = Annotated[str | None, typer.Option("--url", help="The record, instead of store.url.")]


@app.command("upgrade")
def upgrade(
    config: options.Config = None, url: Url = None, as_json: options.AsJson = False
) -> None:
    """Bring the record to this release's schema; safe to run from several hosts at once.

    Example: `oyer db upgrade --url postgresql://oyer@db/oyer`
    """
    from oyer import migrations
    from oyer.cli.store import explained

    url = url or _configured(config)
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
    config: options.Config = None, url: Url = None, as_json: options.AsJson = False
) -> None:
    """Print the record's revision and this release's; exit 1 where they differ.

    Example: `oyer db current --config oyer.yaml`
    """
    from oyer import migrations
    from oyer.cli.store import explained

    url = url or _configured(config)
    with explained(url):
        now, head = migrations.current(url), migrations.head()
    if as_json:
        print_json({"current": now, "head": head})
    else:
        console.print(f"{now or 'empty'} (this release: {head})")
    if now != head:
        raise typer.Exit(1)


@app.command("sql")
def sql(
    query: Annotated[str, typer.Argument(help="One statement that reads; none can write.")],
    config: options.Config = None,
    url: Url = None,
    as_json: options.AsJson = False,
) -> None:
    """Read the record with SQL; `--json` prints one object per row.

    Example: `oyer db sql "SELECT judge, status, count(*) FROM judge_history GROUP BY 1, 2"`
    """
    url = url or _configured(config)
    columns, rows = _read(url, query)
    if as_json:
        for row in rows:
            print_json(dict(zip(columns, map(_plain, row), strict=True)))
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(*columns)
    for row in rows:
        table.add_row(*(escape(str(value)[:_CELL_CHARACTERS]) for value in row))
    print_table(table)


@app.command("roles")
def roles(
    worker: Annotated[
        list[str] | None, typer.Option("--worker", help="A role for workers; may be repeated.")
    ] = None,
    analyst: Annotated[
        list[str] | None, typer.Option("--analyst", help="A role that only reads.")
    ] = None,
    config: options.Config = None,
    url: Url = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the SQL, and connect to nothing.")
    ] = False,
) -> None:
    """Grant roles of PostgreSQL no more than they need, as the owner of the record.

    A worker adds to the record and reads it; an analyst reads it. Neither can delete, nor change
    the schema: `oyer db upgrade` stays the owner's. Run it again after an upgrade. The roles must
    exist: `CREATE ROLE oyer_worker LOGIN PASSWORD '…'`.

    Example: `oyer db roles --worker oyer_worker --analyst oyer_analyst --url postgresql://owner@db/oyer`
    """
    from oyer.cli.store import explained
    from oyer.migrations import roles as granted

    if not worker and not analyst:
        raise InvalidInput("name the roles: --worker NAME, --analyst NAME, or both")
    if dry_run:
        for statement in granted.statements(worker or [], analyst or []):
            typer.echo(f"{statement};")
        return
    url = url or _configured(config)
    with explained(url):
        granted.apply(url, worker or [], analyst or [])
    names = [f"{name} (worker)" for name in worker or []]
    names += [f"{name} (analyst)" for name in analyst or []]
    console.print(f"granted: {', '.join(names)}", highlight=False, markup=False, soft_wrap=True)


_CELL_CHARACTERS = 200
"""Longest text in a table's cell; `--json` prints all of it."""


def _read(url: str, query: str) -> tuple[list[str], list[tuple[object, ...]]]:
    """Run one statement in a transaction that the database itself keeps from writing."""
    from oyer.cli.store import existing
    from oyer.models.store import reading

    with existing(url) as engine, reading(engine) as conn:
        # Without parameters, so that % and : mean what they mean to the database.
        conn = conn.execution_options(postgresql_readonly=True, no_parameters=True)
        if engine.dialect.name == "postgresql":
            return _read_prepared(conn, query)
        conn.exec_driver_sql("PRAGMA query_only = ON")
        result = conn.exec_driver_sql(query)
        return list(result.keys()), [tuple(row) for row in result]


def _read_prepared(conn: "Connection", query: str) -> tuple[list[str], list[tuple[object, ...]]]:
    """Run a query in such a way that PostgreSQL takes no second one behind a semicolon.

    `COMMIT; DELETE …` would leave the transaction that only reads.
    """
    import psycopg

    driver = conn.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    try:
        cursor = driver.execute(query.encode(), prepare=True)
        columns = [column.name for column in cursor.description or ()]
        return columns, cursor.fetchall() if columns else []
    except psycopg.Error as error:
        raise InvalidConfig(f"the query is refused: {' '.join(str(error).split())}") from error


def _configured(config: options.Config) -> str:
    from oyer.tasks.settings import load_config

    return load_config(config).store.url


def _plain(value: object) -> object:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
