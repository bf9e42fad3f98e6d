"""A second host: a network namespace behind a link that a test cuts."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Host:
    """Another host as this one reaches it."""

    name: str
    """Of its network namespace."""
    link: str
    """This host's end of the link."""
    address: str
    """Address at which the other host reaches this one."""

    @property
    def through(self) -> list[str]:
        """Command prefix that runs a command on the host."""
        return ["ip", "netns", "exec", self.name]

    @contextlib.contextmanager
    def cut_off(self) -> Iterator[None]:
        """Cut the link until the block ends; neither side gets an error."""
        _ip("link", "set", self.link, "down")
        try:
            yield
        finally:
            _ip("link", "set", self.link, "up")


@contextlib.contextmanager
def second_host(number: int = 0) -> Iterator[Host]:
    """Make another host; skip the test where this user or machine cannot.

    Args:
        number: 0 to 3; tells the hosts of one process apart.
    """
    if shutil.which("ip") is None:
        pytest.skip("a second host needs the command `ip` (iproute2)")
    pid = os.getpid()
    name = f"oyer-{pid}-{number}"
    ours, theirs = f"oyer{pid}{'aceg'[number]}"[-15:], f"oyer{pid}{'bdfh'[number]}"[-15:]
    # Of the addresses that are for tests between networks (RFC 2544), a pair for this process.
    net = f"198.{18 + number % 2}.{(pid // 64 + 128 * (number // 2)) % 256}"
    place = pid % 64 * 4
    try:
        _ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"a second host needs the right to make one: {error.stderr.strip()}")
    try:
        _ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name)
        _ip("address", "add", f"{net}.{place + 1}/30", "dev", ours)
        _ip("link", "set", ours, "up")
        _ip("-n", name, "address", "add", f"{net}.{place + 2}/30", "dev", theirs)
        _ip("-n", name, "link", "set", theirs, "up")
        _ip("-n", name, "link", "set", "lo", "up")
        yield Host(name, ours, f"{net}.{place + 1}")
    finally:
        # Its end of the link goes with it, and the other end with that.
        _ip("netns", "delete", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
