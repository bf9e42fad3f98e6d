"""`oyer db upgrade|current`: the record's schema."""

from typing import Annotated

import typer

from rich.markup import escape
from rich.table import Table

from oyer import migrations
from oyer.cli.output import console, print_json
from oyer.tasks.errors import InvalidInput
from oyer.tasks.settings import load_config

app = typer.Typer(no_args_is_help=True, help="Create, upgrade or look at the record's schema.")

Config = Annotated[str | None, typer.Option("--config", help="Configuration file (store.url).")]
Url = Annotated[str | None, typer.Option("--url", help="The store, instead of store.url.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("upgrade")
def upgrade(config: Config = None, url: Url = None, as_json: AsJson = False) -> None:
    """Bring the record to this release's schema; safe to run from several hosts at once."""
    url = url or load_config(config).store.url
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
def current(config: Config = None, url: Url = None, as_json: AsJson = False) -> None:
    """Print the record's schema revision, and this release's; exit 1 where they differ."""
    url = url or load_config(config).store.url
    now, head = migrations.current(url), migrations.head()
    if as_json:
        print_json({"current": now, "head": head})
    else:
        console.print(f"{now or 'empty'} (this release: {head})")
    if now != head:
        raise typer.Exit(1)


@app.command("sql")
def sql(
    query: Annotated[str, typer.Argument(help="One SELECT; the record is not changed.")],
    config: Config = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Read the record with SQL, e.g. `oyer db sql "SELECT * FROM judge_history LIMIT 5"`."""
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    from oyer.models.store import open_engine, reading

    engine = open_engine(url or load_config(config).store.url)
    try:
        with reading(engine) as conn:
            result = conn.execute(text(query))
            columns = list(result.keys())
            rows = [list(row) for row in result]
    except SQLAlchemyError as error:
        raise InvalidInput(f"the query failed: {error}") from error
    finally:
        engine.dispose()
    if as_json:
        for row in rows:
            print_json({name: _plain(value) for name, value in zip(columns, row, strict=True)})
        return
    table = Table(*columns)
    for row in rows:
        table.add_row(*(escape(str(value))[:200] for value in row))
    console.print(table, highlight=False)


def _plain(value: object) -> object:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
