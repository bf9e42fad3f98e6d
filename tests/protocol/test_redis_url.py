"""Each form of `broker.url`, as redis-py, kombu and Celery read it."""

from typing import Any

import kombu
import pytest

from oyer.protocol.redis_client import open_client
from oyer.protocol.redis_url import SentinelUrl, celery_url, socket_url
from oyer.tasks.app import make_app
from oyer.tasks.worker.result_backend import PollRedis, PollSentinel

SENTINELS = "redis+sentinel://us%40er:p%2Fw%40d@a:1,[::1]:2,c/my-primary/3?sentinel_password=s%26p"


def test_every_part_of_a_sentinel_url_is_read() -> None:
    assert SentinelUrl.of(SENTINELS) == SentinelUrl(
        hosts=(("a", 1), ("::1", 2), ("c", 26_379)),
        primary="my-primary",
        db=3,
        username="us@er",
        password="p/w@d",
        sentinel_password="s&p",
    )
    assert SentinelUrl.of("redis+sentinel://a/m") == SentinelUrl((("a", 26_379),), "m")
    assert SentinelUrl.of("redis://a:1/0") is None


def test_kombu_reads_the_sentinels_and_the_login_of_the_primary() -> None:
    url, options = celery_url(SENTINELS)
    connection = kombu.Connection(url)
    assert connection.alt == [
        "sentinel://us%40er:p%2Fw%40d@a:1/3",
        "sentinel://us%40er:p%2Fw%40d@[::1]:2/3",
        "sentinel://us%40er:p%2Fw%40d@c:26379/3",
    ]
    assert (connection.userid, connection.password) == ("us@er", "p/w@d")
    assert options == {"master_name": "my-primary", "sentinel_kwargs": {"password": "s&p"}}


def test_results_are_read_through_the_sentinels_too() -> None:
    backend: Any = make_app(SENTINELS).backend
    hosts = [(host["host"], host["port"]) for host in backend.connparams["hosts"]]
    assert hosts == [("a", 1), ("::1", 2), ("c", 26_379)]
    assert backend.connparams["db"] == 3
    assert isinstance(backend, PollSentinel)


@pytest.mark.parametrize(
    ("written", "taken"),
    [
        ("unix:///run/redis.sock", "unix:///run/redis.sock?db=0"),
        ("unix://u:p%40@/run/redis.sock?db=2", "unix://u:p%40@/run/redis.sock?db=2"),
        ("redis+socket:///run/redis.sock?virtual_host=1", "unix:///run/redis.sock?db=1"),
    ],
)
def test_the_forms_of_a_socket_are_one(written: str, taken: str) -> None:
    assert socket_url(written) == taken


def test_every_client_of_a_socket_uses_its_path_password_and_database() -> None:
    url = "unix://u:p%40@/run/redis.sock?db=2"
    client = open_client(url, socket_timeout=1.0, socket_connect_timeout=1.0, socket_keepalive=True)
    app = make_app(url)
    backend: Any = app.backend
    assert celery_url(url) == ("socket://u:p%40@/run/redis.sock?virtual_host=2", {})
    for options in (client.connection_pool.connection_kwargs, backend.connparams):
        assert options["path"] == "/run/redis.sock"
        assert (options["username"], options["password"], options["db"]) == ("u", "p@", 2)
    assert type(backend) is PollRedis


@pytest.mark.parametrize("url", ["redis://:p@h:6379/0", "rediss://h:1/0?ssl_cert_reqs=required"])
def test_other_urls_stay_as_they_are(url: str) -> None:
    assert celery_url(url) == (url, {})


@pytest.mark.parametrize("hosts", ["a:x", "a:99999", "a:0", "[::1", "a,"])
def test_a_sentinel_that_cannot_be_read_is_refused_with_the_form(hosts: str) -> None:
    with pytest.raises(ValueError, match=r"^must name the host and port of each sentinel: redis\+"):
        SentinelUrl.of(f"redis+sentinel://{hosts}/m/0")


@pytest.mark.parametrize(
    "url",
    [
        *("unix://", "unix:///", "unix://host/a.sock"),
        *("unix:///a.sock?db=1&db=2", "unix:///a.sock?db=x", "unix:///a.sock?db=", "unix:///a?x=1"),
    ],
)
def test_a_socket_that_cannot_be_read_is_refused_with_the_form(url: str) -> None:
    with pytest.raises(ValueError, match=r"^must name a socket by its absolute path, as unix:///"):
        socket_url(url)
