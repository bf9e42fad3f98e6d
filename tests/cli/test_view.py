"""`oyer view`, `oyer demo --view` and `oyer up --view` serve the page until a signal."""

import re
import signal
import urllib.request
from pathlib import Path

import pytest

from oyer import migrations
from tests.support.cli_process import oyer, running


def page(address: str) -> str:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return str(answer.read().decode())


def test_the_page_is_served_until_ctrl_c(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'r.db'}"
    migrations.upgrade(url)
    with running("view", "--url", url, "--port", "0", cwd=tmp_path) as view:
        (address,) = re.findall(r"http://127\.0\.0\.1:\d+/", view.read_until("Ctrl-C"))
        assert "holds no run yet" in page(address)
        view.process.send_signal(signal.SIGINT)
        view.wait()
        assert "Traceback" not in view.errors()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--host", "0.0.0.0"), "--token-env"),
        (("--token-env", "NO_SUCH_TOKEN"), "NO_SUCH_TOKEN is not set"),
        (("--url", "sqlite:///none.db"), "there is no record yet"),
        (("--export", "first", "page.html"), "there is no record yet"),
    ],
    ids=str,
)
def test_what_cannot_be_served_names_the_fix(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    done = oyer("view", "--port", "0", *arguments, cwd=tmp_path)
    assert (done.returncode, said in done.stderr) == (1, True), done.stderr


def test_the_demo_leaves_its_page_running(tmp_path: Path) -> None:
    with running("demo", "--rollouts", "8", "--view", cwd=tmp_path) as demo:
        (address,) = re.findall(r"http://[0-9.:]+/", demo.read_until("The page that explains"))
        assert "<bdi>demo</bdi>" in page(address)
        demo.process.send_signal(signal.SIGINT)
        demo.wait()
        assert "Traceback" not in demo.errors()


def test_the_backend_serves_its_page_beside(tmp_path: Path) -> None:
    with running("up", "--judge-processes", "1", "--json", "--view", cwd=tmp_path) as up:
        up.read_until('"ready"')
        (event,) = [one for one in up.events() if one["event"] == "page"]
        assert "holds no run yet" in page(event["url"])
        family = up.family()
        up.process.send_signal(signal.SIGINT)
        assert up.wait() == 0
        family.wait_gone()
        assert up.errors() == ""
