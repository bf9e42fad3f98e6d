"""The command lines of worker processes, and the GPUs that they see."""

import sys

import pytest

from oyer.local.worker_commands import cores, device_environment, worker_argv
from oyer.protocol import names
from oyer.protocol.errors import InvalidInput
from oyer.tasks.worker.pools import DEFAULT_CONCURRENCY, POOLS


def option(argv: list[str], name: str) -> str:
    return argv[argv.index(name) + 1]


@pytest.mark.parametrize("kind", names.QUEUES)
def test_a_worker_serves_its_queue_with_its_pool(kind: str) -> None:
    argv = worker_argv(kind, name=f"{kind}-1")
    assert argv[:4] == [sys.executable, "-P", "-m", "oyer.tasks"]
    assert option(argv, "-A") == "oyer.tasks"
    assert option(argv, "-Q") == kind
    assert option(argv[argv.index("worker") :], "-P") == POOLS[kind]
    assert option(argv, "-c") == str(DEFAULT_CONCURRENCY[kind])
    assert option(argv, "-n") == f"{kind}-1@%h"


def test_judge_workers_use_gevent_and_length_workers_use_solo() -> None:
    assert (POOLS["judge"], POOLS["length"]) == ("gevent", "solo")


def test_a_solo_worker_prefetches_one_message() -> None:
    assert option(worker_argv("length", name="n"), "--prefetch-multiplier") == "1"
    assert "--prefetch-multiplier" not in worker_argv("judge", name="n")


def test_concurrency_and_log_level_are_passed_on() -> None:
    argv = worker_argv("judge", name="n", concurrency=7, loglevel="INFO")
    assert (option(argv, "-c"), option(argv, "--loglevel")) == ("7", "INFO")


def test_an_unknown_kind_and_no_concurrency_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"'gpu': is one of judge, length, combine"):
        worker_argv("gpu", name="n")
    with pytest.raises(InvalidInput, match=r"--concurrency 0: is at least 1"):
        worker_argv("judge", name="n", concurrency=0)


@pytest.mark.parametrize(
    ("device", "visible", "seen"),
    [
        (None, None, None),
        (None, "2,3", "2,3"),
        ("cpu", None, ""),
        ("cpu", "0,1", ""),
        ("cuda:0", None, "0"),
        ("cuda:3", None, "3"),
        ("cuda:0", "2,3", "2"),
        ("cuda:1", "2,3", "3"),
        ("cuda:1", "GPU-aa,GPU-bb", "GPU-bb"),
    ],
)
def test_a_device_is_one_of_those_that_are_visible(
    device: str | None, visible: str | None, seen: str | None
) -> None:
    environ = {"PATH": "/bin"} | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    chosen = device_environment(device, environ)
    assert chosen.get("CUDA_VISIBLE_DEVICES") == seen
    assert chosen["PATH"] == "/bin"
    assert environ.get("CUDA_VISIBLE_DEVICES") == visible


@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:", "cuda:x", "cuda:-1", "", "cuda:0,1"])
def test_an_invalid_device_is_refused(device: str) -> None:
    with pytest.raises(InvalidInput, match=r"is `cpu` or `cuda:N`"):
        device_environment(device, {})


@pytest.mark.parametrize(("visible", "count"), [("2,3", 2), ("", 0)])
def test_a_device_that_is_hidden_is_refused(visible: str, count: int) -> None:
    with pytest.raises(InvalidInput, match=rf"shows {count} device\(s\)"):
        device_environment("cuda:2", {"CUDA_VISIBLE_DEVICES": visible})


def test_there_is_at_least_one_core() -> None:
    assert cores() >= 1
