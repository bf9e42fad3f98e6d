"""Finds the proxy of a URL in environment variables; pure."""

import ipaddress
import re
from collections.abc import Mapping
from typing import NamedTuple

import httpx2

_PORTS = {"http": 80, "https": 443}
_ENTRY = re.compile(
    r"\[(?P<six>[^\]]+)\](?P<range>/\d+)?(?::(?P<port6>\d+))?|(?P<name>[^:]+):(?P<port>\d+)"
)
"""An entry in brackets or with a port; a bare IPv6 address does not match."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class _Entry(NamedTuple):
    host: str
    """A host name, an address or a range, in lower case."""
    port: int | None


def proxy_for(url: httpx2.URL, environ: Mapping[str, str]) -> str | None:
    """Return the proxy of `url` in `environ`; lower-case variables win, as with curl."""
    proxies = {
        name.lower().removesuffix("_proxy"): value.strip()
        for name, value in sorted(environ.items())
        if name.lower().endswith("_proxy")
    }
    if _bypassed(url, proxies.get("no", "")):
        return None
    return proxies.get(url.scheme) or proxies.get("all") or None


def _bypassed(url: httpx2.URL, no_proxy: str) -> bool:
    """Whether `NO_PROXY` names the URL's host.

    Entries are separated by commas or spaces: `*`, a host name (with its subdomains, with or
    without a leading dot or `*.`), an address, or a range such as `10.0.0.0/8`, as in curl 7.86 and
    later; each also with a port, as in requests.
    """
    host = url.host.lower().rstrip(".")
    port = url.port or _PORTS.get(url.scheme)
    address = _address(host)
    for text in re.split(r"[\s,]+", no_proxy.lower()):
        if text == "*":
            return True
        entry = _entry(text)
        if entry.port in (None, port) and _covers(entry.host, host, address):
            return True
    return False


def _entry(text: str) -> _Entry:
    found = _ENTRY.fullmatch(text)
    if found is None:
        return _Entry(text, None)
    port = found["port6"] or found["port"]
    host = found["name"] or found["six"] + (found["range"] or "")
    return _Entry(host, int(port) if port else None)


def _covers(entry: str, host: str, address: Address | None) -> bool:
    if address is not None:
        try:
            network = ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
        return address in network
    name = entry.removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _address(host: str) -> Address | None:
    """Return the IP address that `host` is, IPv4-mapped IPv6 as IPv4; None for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
