"""`oyer db upgrade|current`: the record's schema."""

from typing import Annotated

import typer

from oyer import migrations
from oyer.cli.output import console, print_json
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
