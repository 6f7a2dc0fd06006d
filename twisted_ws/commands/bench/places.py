"""Whether a server may be put under load: one on this machine, or one whose owner says so. Pure."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit


def isHere(url: str) -> bool:
    """Return whether a URL leads to a loopback address by its letters, so that nobody has to be asked where a name leads."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    if host == "localhost":
        return True
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
