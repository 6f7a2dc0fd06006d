"""The proxy for a connection, by the user's choice or the environment. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment

from twisted_ws.client.errors import InvalidURL
from twisted_ws.client.http.address import Address, asciiHost

_PORTS = {"http": 80, "socks5": 1080, "socks5h": 1080}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that connects to servers on the client's behalf.

    Attributes:
        isSocks: True for SOCKS 5 (RFC 1928), False for HTTP CONNECT.
        host: a name in ASCII, or an IP address.
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
        proxy: the URL of the proxy; True: the environment's; False: none.
        environment: proxies by scheme, as from `urllib.request.getproxies_environment`; None: those of this process.

    Raises:
        InvalidURL: the URL of the proxy cannot be used.
        TypeError: `proxy` is neither a str nor a bool.
    """
    if isinstance(proxy, str):
        return parseProxy(proxy, "proxy")
    if not isinstance(proxy, bool):
        raise TypeError(f"proxy must be a URL, True or False, not {type(proxy).__name__}")
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
        source: where the URL comes from, for the error; the URL itself may contain a password.

    Raises:
        InvalidURL: the URL cannot be used.
    """
    try:
        url.encode()  # from the environment, it may be invalid text
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError:
        raise InvalidURL(f"the URL in {source} is malformed: write http://host:port or socks5://host:port") from None
    if parts.scheme not in _PORTS:
        raise InvalidURL(f"{source} names an unsupported kind of proxy: write http://host:port or socks5://host:port")
    host = asciiHost(parts.hostname or "")
    if host is None or port == 0:
        raise InvalidURL(f"the URL in {source} has no valid host and port: write http://host:port or socks5://host:port")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if len(user.encode()) > 255 or len(password.encode()) > 255:
        raise InvalidURL(f"the user or the password in {source} is longer than 255 bytes")
    return Proxy(parts.scheme != "http", host, port or _PORTS[parts.scheme], user, password)


def _isExempt(address: Address, exempt: str) -> bool:
    """Return whether NO_PROXY lists the address: by name or parent domain, IP address or network, with or without a port."""
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
