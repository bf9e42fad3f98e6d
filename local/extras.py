"""Checks that the packages of an optional extra are installed.

`pip install oyer` installs what a trainer loads. Workers, servers and embedded backends need more.
"""

from importlib.util import find_spec

from oyer.protocol.errors import MissingExtra

WORKER_PACKAGES = (
    "alembic",
    "array_api_compat",
    "gevent",
    "geventhttpclient",
    "httpx2",
    "openai",
    "psycopg",
    "sqlalchemy",
)
"""Modules of the extra `worker`; a test compares them with pyproject.toml."""


def require(what: str, extra: str, *modules: str) -> None:
    """Check that modules are installed, without loading them.

    Args:
        what: the command or function that needs them, e.g. "`oyer view`".
        extra: the extra that installs them.

    Raises:
        MissingExtra: names the first module that is missing, and the extra.
    """
    for module in modules:
        if find_spec(module) is None:
            raise missing(what, module, extra)


def missing(what: str, module: str, extra: str) -> MissingExtra:
    """Return the error for a module that is not installed."""
    return MissingExtra(f"{what} needs {module}: pip install 'oyer[{extra}]'")


def of_worker(error: ModuleNotFoundError) -> str | None:
    """Return the module of the extra `worker` whose import failed; None for any other module."""
    module = (error.name or "").partition(".")[0]
    return module if module in WORKER_PACKAGES else None
