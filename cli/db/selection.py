"""Options and checks of the commands that delete old batches: `prune` and `partitions`."""

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from oyer.protocol.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

KeepRun = Annotated[
    list[str] | None, typer.Option("--keep-run", help="Keep this run; may be repeated.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be done, and change nothing.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def check_runs(conn: "Connection", names: "Sequence[str]") -> None:
    """Check that runs are on record.

    Raises:
        InvalidInput: one is not.
    """
    from oyer.models.pruning.prune import unknown_runs

    unknown = unknown_runs(conn, names)
    if unknown:
        raise InvalidInput(f"run {unknown[0]!r}: is not on record; `oyer batches list`")


def age_of(option: str, text: str) -> timedelta:
    """Return the age that an option gives, such as 90d, 12w or 36h.

    Raises:
        InvalidInput: it is not an age.
    """
    match = re.fullmatch(r"(\d{1,5})([hdw])", text.strip())
    if match is None:
        raise InvalidInput(f"{option} {text!r}: is not an age; write 90d, 12w or 36h")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
