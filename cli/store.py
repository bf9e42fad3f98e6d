"""The record as the commands open it: what a database driver raises becomes one line and a fix."""

import contextlib
from collections.abc import Iterator

from oyer.tasks.errors import InvalidConfig


@contextlib.contextmanager
def explained(url: str) -> Iterator[None]:
    """Run a block that uses the record at `url`.

    Raises:
        InvalidConfig: the URL is wrong, or the database refuses; the message holds its reason.
    """
    from alembic.util import CommandError
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    from oyer.models.store import redacted_url

    try:
        yield
    except DBAPIError as error:
        raise InvalidConfig(f"{redacted_url(url)}: {_line(error.orig)}") from error
    except (SQLAlchemyError, CommandError, OSError) as error:
        raise InvalidConfig(f"{redacted_url(url)}: {_line(error)}; is store.url right?") from error
    except ValueError as error:
        # The URL itself is wrong, and the message names store.url and a right one.
        raise InvalidConfig(str(error)) from error


def _line(error: BaseException | None) -> str:
    return " ".join(str(error).split())
