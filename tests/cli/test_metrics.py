"""`oyer metrics` serves the metrics of a backend until a signal."""

import json
import signal
import socket
import urllib.request
from pathlib import Path

import pytest
from typer.main import get_command

from oyer import migrations
from oyer.cli import app
from oyer.cli.serving.metrics import PORT
from tests.support import services
from tests.support.cli_process import oyer, running


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return str(answer.read().decode())


def test_metrics_are_served_until_ctrl_c(tmp_path: Path, redis_url: str, sqlite_url: str) -> None:
    migrations.upgrade(sqlite_url)
    changes = {"OYER_BROKER__URL": redis_url, "OYER_STORE__URL": sqlite_url}
    with running("metrics", "--port", "0", "--json", cwd=tmp_path, changes=changes) as command:
        url = json.loads(command.read_until('"ready"'))["url"]
        assert url.startswith("http://127.0.0.1:")
        assert "\noyer_redis_up 1.0\n" in read(url)
        assert read(url.replace("/metrics", "/readyz")) == '{"status":"ok"}'
        command.process.send_signal(signal.SIGINT)
        command.wait()
        assert command.errors() == ""


def test_log_lines_are_json_on_request(tmp_path: Path, sqlite_url: str) -> None:
    changes = {"OYER_BROKER__URL": "redis://127.0.0.1:9/0", "OYER_STORE__URL": sqlite_url}
    arguments = ("metrics", "--port", "0", "--json", "--log-format", "json")
    with running(*arguments, cwd=tmp_path, changes=changes) as command:
        url = json.loads(command.read_until('"ready"'))["url"]
        assert "\noyer_redis_up 0.0\n" in read(url)
        command.process.send_signal(signal.SIGINT)
        command.wait()
        lines = [json.loads(line) for line in command.errors().splitlines()]
    assert {line["logger"] for line in lines} == {"oyer.metrics.collector"}
    assert all({"time", "level", "message"} <= line.keys() for line in lines)
    assert any("Redis could not be read" in line["message"] for line in lines)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--host", "0.0.0.0"), "--token-env"),
        (("--token-env", "NO_SUCH_TOKEN"), "NO_SUCH_TOKEN is not set"),
        (("--url", "mysql://nobody@localhost/none"), "use sqlite or postgresql"),
        ((), "oyer up"),
    ],
    ids=str,
)
def test_what_cannot_be_served_names_the_fix(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    done = oyer("metrics", "--port", "0", *arguments, cwd=tmp_path)
    assert (done.returncode, said in done.stderr) == (1, True), done.stderr


def test_up_serves_metrics_of_its_backend(tmp_path: Path) -> None:
    arguments = ("up", "--judge-processes", "1", "--json", "--metrics", "0")
    with running(*arguments, cwd=tmp_path) as up:
        url = json.loads(up.read_until('"metrics"'))["url"]
        up.read_until('"ready"')
        scraped = read(url)
        assert "\noyer_redis_up 1.0\n" in scraped
        assert '\noyer_workers{role="judge"} 1.0\n' in scraped
        assert read(url.replace("/metrics", "/readyz")) == '{"status":"ok"}'
        up.process.send_signal(signal.SIGINT)
        assert up.wait() == 0
        assert up.errors() == ""


def test_a_port_of_up_that_is_taken_is_named(tmp_path: Path) -> None:
    port = services.free_port()
    with socket.create_server(("127.0.0.1", port)):
        for arguments in ((str(port), "--json"), (str(port),)):
            done = oyer("up", "--metrics", *arguments, cwd=tmp_path)
            assert (done.returncode, done.stdout) == (1, "")
            assert f"--metrics {port}: Address already in use; choose another" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "port"),
    [
        (["--metrics"], PORT),
        (["--metrics", "--json"], PORT),
        (["--metrics", "9123"], 9123),
        (["--metrics=9123"], 9123),
        ([], None),
    ],
    ids=str,
)
def test_the_port_of_up_may_be_left_out(arguments: list[str], port: int | None) -> None:
    command = get_command(app)
    up = command.commands["up"]  # type: ignore[attr-defined]
    assert up.make_context("up", arguments).params["metrics"] == port
