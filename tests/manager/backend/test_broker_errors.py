"""A broker that refuses or cannot be reached, and a backend in a forked process."""

import os
from collections.abc import Callable

import pytest
import redis

from oyer.manager.backend.connection import Backend, backend
from oyer.protocol.errors import BackendUnavailable
from tests.manager.backend.test_connection import prepared
from tests.support import services


def test_an_unreachable_broker_is_named_without_its_password() -> None:
    away = Backend(f"redis://user:hunter2@127.0.0.1:{services.free_port()}/0", 600)
    calls: dict[str, Callable[[], object]] = {
        "submit": lambda: away.submit(prepared()),
        "resubmit": lambda: away.resubmit("b", "gone"),
        "cancel": lambda: away.cancel("b", "by the trainer"),
        "judged": lambda: away.judged("b"),
        "states": lambda: away.states(["b"]),
        "results": lambda: away.results(["b"]),
    }
    for name, call in calls.items():
        with pytest.raises(BackendUnavailable, match=r"cannot be reached .*`oyer up`") as caught:
            call()
        assert "hunter2" not in str(caught.value), name


def test_a_password_with_an_at_sign_is_not_shown() -> None:
    away = Backend(f"redis://:hunter%402@127.0.0.1:{services.free_port()}/0", 600)
    with pytest.raises(BackendUnavailable, match=r"broker 127\.0\.0\.1:\d+/0 cannot") as caught:
        away.judged("b")
    assert "hunter" not in str(caught.value)


def test_a_forked_process_has_its_own_connections(redis_url: str) -> None:
    mine = backend(redis_url, 600)
    assert backend(redis_url, 600) is mine
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, b"own" if backend(redis_url, 600) is not mine else b"shared")
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 10) == b"own"
    os.close(read)
    os.close(write)


def test_a_refused_password_has_another_error_than_an_unreachable_server(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, single_connection_client=True) as client:
        client.config_set("requirepass", "right-pw")
        try:
            with pytest.raises(BackendUnavailable) as raised:
                backend(redis_url.replace("://", "://:wrong-pw@"), 600).waiting(1)
        finally:
            client.config_set("requirepass", "")
    assert "refuses the user or password of broker.url" in str(raised.value)
    assert "wrong-pw" not in str(raised.value)
