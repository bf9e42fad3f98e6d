"""Servers that start once per session (in each xdist worker), and an empty database per test."""

import contextlib
import shutil
import signal
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis
from hypothesis import HealthCheck, settings
from psycopg.conninfo import make_conninfo
from sqlalchemy import make_url

from oyer import migrations
from oyer.protocol.errors import BatchCancelled
from tests.support import services

if TYPE_CHECKING:
    from oyer.demo.judge_server import JudgeServer
    from oyer.manager import RewardManager

_numbers = count()
_redis_databases = count()

REDIS_DATABASES = 1024
"""Databases of the session's Redis."""

# By default, an input fails its test if it takes 200 ms or is drawn slowly, as on a busy machine.
settings.register_profile("oyer", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("oyer")

# A shell lets background jobs ignore Ctrl-C; processes that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let files that share a backend run in one worker."""
    if config.getvalue("dist") != "loadfile":
        return None
    from tests.support.scheduling import BackendScheduling

    return BackendScheduling(config, log)


@pytest.fixture(scope="session")
def redis_service() -> Iterator[str]:
    """URL of the session's Redis."""
    with services.redis_server("--databases", str(REDIS_DATABASES)) as url:
        yield url


@pytest.fixture(scope="session")
def shared_backend(
    tmp_path_factory: pytest.TempPathFactory,
) -> "Iterator[tuple[RewardManager, JudgeServer]]":
    """An embedded backend with workers of every kind and its judge, for modules to share.

    Starting and stopping the workers takes seconds. `tests.support.scripted_backend` has the
    fixtures that give a module its manager.
    """
    from tests.support.scripted_backend import scripted_backend

    folder = tmp_path_factory.mktemp("shared-backend")
    with scripted_backend(folder, length={"method": "median_band"}) as both:
        yield both


@pytest.fixture
def redis_url(redis_service: str) -> str:
    """URL of an empty database of the session's Redis, whose other databases are empty as well.

    It is the test's own: a thread of an earlier test that writes late changes another one.
    """
    server, _, _ = redis_service.rpartition("/")
    _forget_batches(server)
    with redis.Redis.from_url(redis_service) as client:
        client.flushall()
    return f"{server}/{next(_redis_databases) % REDIS_DATABASES}"


def _forget_batches(server: str) -> None:
    """End the futures that earlier tests left: a poller would submit their batches again."""
    for thread in threading.enumerate():
        # A thread that has just ended has no target.
        poller = getattr(getattr(thread, "_target", None), "__self__", None)
        if thread.name != "oyer-poller" or poller is None:
            continue
        if poller._source.url.startswith(f"{server}/"):
            poller.fail_all(BatchCancelled("its test has ended"))


@pytest.fixture(scope="session")
def postgres_service() -> Iterator[str]:
    """URL of the session's PostgreSQL cluster, for databases that outlive a test."""
    with services.postgres_server() as url:
        yield url


@pytest.fixture
def postgres_url(postgres_service: str) -> Iterator[str]:
    """URL of an empty PostgreSQL database for this test only."""
    with _database(postgres_service, "template1") as url:
        yield url


@pytest.fixture(scope="module")
def module_postgres_url(postgres_service: str) -> Iterator[str]:
    """URL of an empty PostgreSQL database for the tests of a module."""
    with _database(postgres_service, "template1") as url:
        yield url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """URL of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'oyer.db'}"


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest) -> str:
    """URL of an empty database: the test runs on SQLite and on PostgreSQL."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a record at the newest revision: the test runs on SQLite and on PostgreSQL."""
    migrated: str = request.getfixturevalue(f"_migrated_{request.param}")
    if request.param == "sqlite":
        url: str = request.getfixturevalue("sqlite_url")
        shutil.copy(migrated.removeprefix("sqlite:///"), url.removeprefix("sqlite:///"))
        yield url
    else:
        with _database(migrated, str(make_url(migrated).database)) as url:
            yield url


@pytest.fixture(scope="session")
def _migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('template') / 'oyer.db'}"
    migrations.upgrade(url)
    return url


@pytest.fixture(scope="session")
def _migrated_postgres(postgres_service: str) -> Iterator[str]:
    with _database(postgres_service, "template1") as url:
        migrations.upgrade(url)
        yield url


@contextlib.contextmanager
def _database(server: str, template: str) -> Iterator[str]:
    """Copy a database of a PostgreSQL server for as long as the block runs."""
    name = f"oyer_{next(_numbers)}"
    maintenance = make_conninfo(server, dbname="postgres")
    with psycopg.connect(maintenance, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        try:
            yield make_url(server).set(database=name).render_as_string(hide_password=False)
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
