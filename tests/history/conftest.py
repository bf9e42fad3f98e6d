"""A filled record and the page on it, on both databases."""

import re
from collections.abc import Iterator
from html import unescape

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from oyer.history.app import create_app
from oyer.models.engine import open_engine
from tests.support.page_record import fill

SITE = "http://localhost"


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    opened = open_engine(store_url)
    yield opened
    opened.dispose()


@pytest.fixture
def batches(engine: Engine) -> dict[str, str]:
    """Fill the record; batch ids by name."""
    return fill(engine)


@pytest.fixture
def client(engine: Engine) -> TestClient:
    """Return a client of the page, which raises what the page does not answer."""
    return TestClient(create_app(engine), base_url=SITE)


def links(text: str) -> list[str]:
    """Return the addresses of a page's links within this site."""
    found = [unescape(address) for address in re.findall(r'href="([^"]+)"', text)]
    return [address for address in found if address.startswith("/")]
