"""The address that `oyer serve`, `oyer view` and `oyer metrics` print is the one that they answer at."""

import contextlib
import socket

import pytest

from oyer.cli.serving.listening import address_of, listen
from oyer.protocol.errors import InvalidInput


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        pytest.param(
            "::1",
            "[::1]",
            marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine"),
        ),
    ],
)
def test_the_address_is_a_url_of_the_bound_port(host: str, shown: str) -> None:
    with contextlib.closing(listen(host, 0)) as listener:
        assert address_of(listener) == f"http://{shown}:{listener.getsockname()[1]}"


def test_an_address_that_cannot_be_bound_is_named() -> None:
    with (
        contextlib.closing(listen("127.0.0.1", 0)) as listener,
        pytest.raises(InvalidInput, match=r"--host 127\.0\.0\.1 --port \d+: .*; choose another"),
    ):
        listen("127.0.0.1", listener.getsockname()[1])
