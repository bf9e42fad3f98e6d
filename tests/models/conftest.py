"""An engine on a migrated record, on both databases."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from oyer.models.engine import open_engine


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    opened = open_engine(store_url)
    yield opened
    opened.dispose()
