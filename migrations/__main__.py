"""`python -m oyer.migrations upgrade|current|downgrade|check [--url URL]`."""

import argparse
import os
import sys

from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from oyer import migrations
from oyer.models.engine import redacted_url

URL_VARIABLE = "OYER_STORE__URL"
"""The environment variable with the default of `--url`."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; on failure, print the reason to stderr and return 1."""
    args = _parser().parse_args(argv)
    if not args.url:
        print(f"no record named: give --url or set {URL_VARIABLE}", file=sys.stderr)
        return 1
    try:
        if args.command == "upgrade":
            migrations.upgrade(args.url, args.revision)
        elif args.command == "downgrade":
            migrations.downgrade(args.url, args.revision)
        elif args.command == "check":
            migrations.check(args.url)
        revision = migrations.current(args.url) or "empty"
        print(f"{redacted_url(args.url)}: {revision} (newest is {migrations.head()})")
    except (CommandError, SQLAlchemyError, ValueError, OSError) as error:
        print(f"{args.command} failed: {_reason(error)}", file=sys.stderr)
        return 1
    return 0


def _reason(error: Exception) -> str:
    """Return the driver's message if no statement failed, e.g. for a refused connection."""
    if isinstance(error, DBAPIError) and error.statement is None:
        return str(error.orig).strip()
    return str(error)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--url", default=os.environ.get(URL_VARIABLE), help=f"default: ${URL_VARIABLE}"
    )
    parser = argparse.ArgumentParser(prog="python -m oyer.migrations")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("upgrade", parents=[common], help="upgrade the schema")
    up.add_argument("revision", nargs="?", default="head")
    down = commands.add_parser("downgrade", parents=[common], help="downgrade the schema")
    down.add_argument("revision", help="e.g. 0001, -1 or base")
    commands.add_parser("current", parents=[common], help="print the record's revision")
    commands.add_parser("check", parents=[common], help="compare the record with the models")
    return parser


if __name__ == "__main__":
    sys.exit(main())
