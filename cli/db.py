"""`oyer db upgrade|current|sql`: the record's schema, and what it holds."""

from typing import Annotated

import typer

from oyer.cli import options
from oyer.cli.output import console, print_json

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
    console.print(table, highlight=False)


_CELL_CHARACTERS = 200
"""Longest text in a table's cell; `--json` prints all of it."""


def _read(url: str, query: str) -> tuple[list[str], list[tuple[object, ...]]]:
    """Run one statement in a transaction that the database itself keeps from writing."""
    from oyer.cli.store import explained
    from oyer.models.store import open_engine, reading

    with explained(url):
        engine = open_engine(url)
        try:
            with reading(engine) as conn:
                # Without parameters, so that % and : mean what they mean to the database.
                conn = conn.execution_options(postgresql_readonly=True, no_parameters=True)
                if engine.dialect.name == "sqlite":
                    conn.exec_driver_sql("PRAGMA query_only = ON")
                result = conn.exec_driver_sql(query)
                return list(result.keys()), [tuple(row) for row in result]
        finally:
            engine.dispose()


def _configured(config: options.Config) -> str:
    from oyer.tasks.settings import load_config

    return load_config(config).store.url


def _plain(value: object) -> object:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
