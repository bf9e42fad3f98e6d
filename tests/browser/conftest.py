"""A real Chromium on a real `oyer view`."""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from oyer import migrations
from oyer.models.engine import open_engine
from tests.support.cli_process import running
from tests.support.page_record import fill

# The ordinary environment checks this folder's types without Selenium.
INSTALL = "needs Debian's packages: apt-get install chromium chromium-driver"

WIDE, PHONE = (1400, 1000), (390, 844)


def open_browser() -> Any:
    """Start Chromium without a window.

    Raises:
        pytest.exit: it is not installed; the message says what to install.
    """
    from selenium import webdriver

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.exit(f"make test-browser {INSTALL}", returncode=1)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--lang=en"):
        options.add_argument(argument)
    if os.getuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium's sandbox refuses root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    browser.set_window_size(*WIDE)
    return browser


def axe_source() -> str:
    """Return axe-core's code."""
    # Importing the package would load Playwright.
    found = importlib.util.find_spec("axe_playwright_python")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).with_name("axe.min.js").read_text()


@pytest.fixture(scope="session")
def started() -> Iterator[Any]:
    """One browser for all tests."""
    browser = open_browser()
    yield browser
    browser.quit()


@pytest.fixture
def browser(started: Any) -> Iterator[Any]:
    """The browser; a test fails if a page logged an error."""
    started.get_log("browser")  # of the test before
    started.delete_all_cookies()
    yield started
    started.set_window_size(*WIDE)
    logged = [entry["message"] for entry in started.get_log("browser")]
    assert logged == []


class Site:
    """A filled record, and the address of the page on it."""

    def __init__(self, engine: Engine, address: str, batches: dict[str, str]) -> None:
        self.engine = engine
        self.address = address.rstrip("/")
        self.batches = batches

    def score(self, name: str, index: int = 0) -> str:
        """Return the address of a score."""
        return f"{self.address}/scores/{self.batches[name]}/{index}"

    def pages(self) -> dict[str, str]:
        """Return one address of each kind of page, by name."""
        return {
            "runs": f"{self.address}/",
            "run": f"{self.address}/runs/1",
            "step": f"{self.address}/runs/1/steps/0",
            "group": f"{self.address}/groups/{self.batches['first']}/5",
            "score": self.score("first", 5),
            "search": f"{self.address}/search?text=answer",
            "review": f"{self.address}/review",
            "blind": f"{self.address}/review?run=1&mode=random&author=Ada",
        }


@pytest.fixture
def site(started: Any, tmp_path: Path) -> Iterator[Site]:
    """Serve a filled record."""
    url = f"sqlite:///{tmp_path / 'record.db'}"
    migrations.upgrade(url)
    engine = open_engine(url)
    batches = fill(engine)
    with running("view", "--url", url, "--port", "0", "--json", cwd=tmp_path) as command:
        command.read_until('"ready"')
        yield Site(engine, command.events()[-1]["url"], batches)
        started.get("about:blank")  # ends the live updates before the server
    engine.dispose()
