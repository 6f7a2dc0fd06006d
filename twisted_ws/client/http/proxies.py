"""Which proxy a connection goes through, as the user or the environment says. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment

from twisted_ws.client.errors import InvalidURL
from twisted_ws.client.http.address import Address, asciiHost

__all__ = ["Proxy", "parseProxy", "proxyFor"]

_PORTS = {"http": 80, "socks5": 1080, "socks5h": 1080}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that makes connections for us.

    Attributes:
        isSocks: SOCKS 5 (RFC 1928); else HTTP, asked by CONNECT.
        host: name in ASCII, or IP address.
        port: 1 to 65535.
        user: "" without one.
        password: "" without one.
    """

    isSocks: bool
    host: str
    port: int
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def hostAndPort(self) -> str:
        """Host and port, for messages."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def proxyFor(address: Address, proxy: bool | str, environment: Mapping[str, str] | None = None) -> Proxy | None:
    """Return the proxy for a connection, None for none.

    Args:
        address: where the connection goes.
        proxy: the URL of the proxy; True: what the environment says; False: none.
        environment: proxies by scheme as `urllib.request.getproxies_environment` gives them; None: those of this process.

    Raises:
        InvalidURL: the URL of the proxy cannot be used.
        TypeError: `proxy` is neither str nor bool.
    """
    if isinstance(proxy, str):
        return parseProxy(proxy, "proxy")
    if not isinstance(proxy, bool):
        raise TypeError(f"proxy is a URL, True or False, not {type(proxy).__name__}")
    if not proxy:
        return None
    found = getproxies_environment() if environment is None else environment
    scheme = "https" if address.isSecure else "http"
    for name in (scheme, "all"):
        if found.get(name):
            return None if _isExempt(address, found.get("no", "")) else parseProxy(found[name], f"{name.upper()}_PROXY")
    return None


def parseProxy(url: str, source: str) -> Proxy:
    """Return the proxy that a URL names.

    Args:
        url: ``http://user:password@host:port`` or ``socks5://...``; without a scheme, HTTP.
        source: where the URL comes from, for the error; the URL itself may have a password.

    Raises:
        InvalidURL: no proxy can be made of it.
    """
    try:
        url.encode()  # of the environment, it may be no text
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError:
        raise InvalidURL(f"the URL in {source} cannot be read: write http://host:port or socks5://host:port") from None
    if parts.scheme not in _PORTS:
        raise InvalidURL(f"{source} names a proxy of a kind that is not spoken: write http://host:port or socks5://host:port")
    host = asciiHost(parts.hostname or "")
    if host is None or port == 0:
        raise InvalidURL(f"the URL in {source} has no usable host and port: write http://host:port or socks5://host:port")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if len(user.encode()) > 255 or len(password.encode()) > 255:
        raise InvalidURL(f"user and password in {source} are longer than 255 bytes")
    return Proxy(parts.scheme != "http", host, port or _PORTS[parts.scheme], user, password)


def _isExempt(address: Address, exempt: str) -> bool:
    """Say whether NO_PROXY has the address: as a name (or one above it), an IP address or a network, with or without a port."""
    for entry in (each.strip().lower() for each in exempt.split(",")):
        if entry == "*":
            return True
        if entry and (_matches(entry, address.host) or _matchesWithPort(entry, address)):
            return True
    return False


def _matchesWithPort(entry: str, address: Address) -> bool:
    host, colon, port = entry.rpartition(":")
    return bool(colon) and port == str(address.port) and _matches(host, address.host)


def _matches(entry: str, host: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        name = entry.removeprefix("*").removeprefix(".")
        return bool(name) and (host == name or host.endswith("." + name))
