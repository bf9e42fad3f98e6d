"""An engine on a migrated record, on both databases."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from oyer import migrations
from oyer.models.engine import open_engine


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    opened = open_engine(store_url)
    yield opened
    opened.dispose()


@pytest.fixture
def postgres_engine(postgres_url: str) -> Iterator[Engine]:
    """An engine on a migrated record in PostgreSQL, for what SQLite has not."""
    migrations.upgrade(postgres_url)
    opened = open_engine(postgres_url)
    yield opened
    opened.dispose()
