"""The URL of a WebSocket (RFC 6455 section 3): text in, where to connect and what to ask for out. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from twisted_ws.client.errors import InvalidURL, quoted

__all__ = ["Address", "asciiHost", "isIP", "parseURL"]

_PORTS = {"ws": 80, "wss": 443}
_UNSAFE = re.compile(r"[\x00-\x20\x7f\ud800-\udfff]")  # surrogates: bytes of a command line that are no UTF-8
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a WebSocket is.

    Attributes:
        isSecure: whether it is a ``wss:`` URL.
        host: a host name in ASCII, lower case; or an IP address without brackets, with its zone if it has one (``fe80::1%eth0``).
        port: 1 to 65535.
        target: path and query, as they go into the request.
    """

    isSecure: bool
    host: str
    port: int
    target: str = field(repr=False)  # its query may hold a token

    @property
    def name(self) -> str:
        """The host as the server knows it: a zone has a meaning on this machine only (RFC 6874 section 1)."""
        return self.host.partition("%")[0]

    @property
    def authority(self) -> str:
        """The value of the Host header: the port is left out where it is the scheme's own."""
        host = f"[{self.name}]" if ":" in self.host else self.host
        return host if self.port == _PORTS["wss" if self.isSecure else "ws"] else f"{host}:{self.port}"

    @property
    def hostAndPort(self) -> str:
        """Host and port, for messages and for a proxy."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        # Without the query, which may hold a token.
        return f"{'wss' if self.isSecure else 'ws'}://{self.authority}{self.target.partition('?')[0]}"


def parseURL(url: str) -> Address:
    """Return the address in a ``ws:`` or ``wss:`` URL.

    A host name outside ASCII goes by its IDNA form; in path and query, what URLs cannot hold is percent-encoded.

    Raises:
        InvalidURL: it cannot be connected to; the text says why, without the query.
        TypeError: `url` is no str.
    """
    if not isinstance(url, str):
        raise TypeError(f"the URL must be a str, not {type(url).__name__}")
    shown = quoted(re.sub(r"//[^/?#]*@", "//", url).partition("?")[0])
    if _UNSAFE.search(url):
        raise InvalidURL(f"{shown} has a space, a control character or one that is no text: percent-encode it")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidURL(f"{shown} is no URL ({error}): write ws://host:port/path") from None
    if parts.scheme not in _PORTS:
        raise InvalidURL(f"{shown} does not begin with ws:// or wss://: write {_asWebSocket(parts.scheme)}://host:port/path")
    if parts.username is not None or parts.password is not None:
        raise InvalidURL(f"{shown} has a user in it, and URLs end up in logs: give credentials=Basic(user, password)")
    if "#" in url:
        raise InvalidURL(f"{shown} has a fragment, which RFC 6455 forbids: leave out what begins with # (or write it as %23)")
    if port == 0:
        raise InvalidURL(f"{shown} has the port 0: give the port that the server listens on")
    address, percent, zone = (parts.hostname or "").partition("%")
    # The percent sign before a zone is encoded (RFC 6874 section 2), but many write it as it is.
    host = asciiHost(f"{address}%{unquote(zone.removeprefix('25') or zone)}" if percent else address)
    if host is None:
        raise InvalidURL(f"{shown} has no usable host name: write {parts.scheme}://host:port/path")
    # What is encoded already stays as it is.
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + (
        "?" + quote(parts.query, safe="/?%:@!$&'()*+,;=~") if parts.query else ""
    )
    return Address(parts.scheme == "wss", host, port or _PORTS[parts.scheme], target)


def _asWebSocket(scheme: str) -> str:
    return "wss" if scheme == "https" else "ws"


def isIP(host: str) -> bool:
    """Say whether `host` is an IP address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def asciiHost(host: str) -> str | None:
    """Return a host name in ASCII and lower case, or an IP address as it is; None for what can be neither."""
    if isIP(host):
        return host if host.isascii() else None  # the zone of an IPv6 address may be anything
    try:
        name = host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return None
    labels = name.removesuffix(".").split(".")
    return name if len(name) <= 254 and all(map(_LABEL.match, labels)) else None
