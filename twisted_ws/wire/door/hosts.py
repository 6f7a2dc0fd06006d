"""Whether a request is for this server, by its Host header, if that matters (see `AllowedHosts`)."""

from __future__ import annotations

import socket
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from twisted_ws.wire.door.head import RequestHead
from twisted_ws.wire.door.origins import AllowedHosts
from twisted_ws.wire.door.proxies import TrustedProxies
from twisted_ws.wire.loop.transports import isOnLoopback, peerOf

MISDIRECTED = "This server does not answer for this host."


def isMisdirected(head: RequestHead, transport: Any, hosts: AllowedHosts, proxies: TrustedProxies) -> bool:
    """Return whether to refuse a request with 421 (RFC 9110 section 15.5.20): on a loopback address, for a foreign name.

    A trusted proxy may have been asked under its own name. Only the header that it adds identifies it: a proxy on this
    machine has the same address as every browser on it.

    Args:
        head: the request.
        transport: the connection.
        hosts: the names that are answered.
        proxies: the trusted proxies.
    """
    if hosts.allows(head.host) or not isOnLoopback(transport):
        return False
    return not ("x-forwarded-for" in head.values and proxies.trusts(peerOf(transport.getPeer())[0]))


def remedy(head: RequestHead, transport: Any) -> str:
    """Return the option that would make the server answer a request that `isMisdirected`."""
    allow = AllowedHosts.hint(head.host)
    if "x-forwarded-for" not in head.values:
        return allow
    return f"if that is your proxy: --trusted-proxy {peerOf(transport.getPeer())[0]}; else {allow}"


@lru_cache(1)
def machineNames(table: str = "/etc/hosts") -> frozenset[str]:
    """Return this machine's names: its own, and those in `table` for it and for loopback addresses. No name server is asked."""
    own = socket.gethostname()
    names = {own}
    try:
        lines = Path(table).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset(names)
    for line in lines:
        address, *found = line.partition("#")[0].split() or [""]
        if own in found or _isLoopback(address):
            names.update(found)
    return frozenset(names)


def _isLoopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
