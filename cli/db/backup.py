"""`oyer db backup`: copies an SQLite record consistently while workers write."""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from oyer.cli.support import options
from oyer.cli.support.output import console, print_json
from oyer.protocol.errors import InvalidConfig, InvalidInput


def backup(
    file: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")],
    config: options.Config = None,
    url: options.RecordUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Copy an SQLite record into one compact, consistent file while workers write to it.

    The copy is checked (`PRAGMA integrity_check`) and appears once it is complete. A plain copy of
    the file lacks the changes in its `-wal`. For PostgreSQL, the command prints the `pg_dump` to
    use.

    Example: `oyer db backup oyer-2026-01-31.db`
    """
    from oyer.cli.support.database import existing, explained
    from oyer.models.engine import client_url, copy_sqlite, redacted_url

    url = options.record_url(config, url)
    with existing(url) as engine:
        if engine.dialect.name != "sqlite":
            dump = f"pg_dump --format=custom --file={quote(str(file))} {quote(client_url(url))}"
            raise InvalidConfig(
                f"{redacted_url(url)}: `oyer db backup` copies SQLite only; use `{dump}`, and bring it"
                f" back by `pg_restore --dbname=NEW_DATABASE {quote(str(file))}`"
            )
        if file.exists():
            raise InvalidInput(f"{file}: exists; name a file that does not")
        if not file.parent.is_dir():
            raise InvalidInput(f"{file}: its folder does not exist; create it, or name another one")
        with explained(url):
            try:
                copy_sqlite(engine, file)
            except OSError as error:
                raise InvalidInput(f"{file}: {error}") from error
    size_bytes = file.stat().st_size
    if as_json:
        print_json({"file": str(file), "bytes": size_bytes})
    else:
        console.print(f"wrote {file}, {size_bytes / 1e6:.1f} MB", highlight=False, soft_wrap=True)
