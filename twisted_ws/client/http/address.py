"""The URL of a WebSocket (RFC 6455 section 3), taken apart. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from twisted_ws.client.errors import InvalidURL, quoted

_PORTS = {"ws": 80, "wss": 443}
_UNSAFE = re.compile(r"[\x00-\x20\x7f\ud800-\udfff]")  # surrogates: bytes of a command line that are not UTF-8
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
    target: str = field(repr=False)  # its query may contain a token

    @property
    def name(self) -> str:
        """The host as the server knows it: a zone means something on this machine only (RFC 6874 section 1)."""
        return self.host.partition("%")[0]

    @property
    def authority(self) -> str:
        """The value of the Host header, without the port if it is the scheme's default."""
        host = f"[{self.name}]" if ":" in self.host else self.host
        return host if self.port == _PORTS["wss" if self.isSecure else "ws"] else f"{host}:{self.port}"

    @property
    def hostAndPort(self) -> str:
        """Host and port, for messages and for a proxy."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        # Without the query, which may contain a token.
        return f"{'wss' if self.isSecure else 'ws'}://{self.authority}{self.target.partition('?')[0]}"


def parseURL(url: str) -> Address:
    """Return the address in a ``ws:`` or ``wss:`` URL.

    A host name outside ASCII becomes its IDNA form; in path and query, characters not allowed in URLs are percent-encoded.

    Raises:
        InvalidURL: no WebSocket can be at this URL; the text says why, without the query.
        TypeError: `url` is not a str.
    """
    if not isinstance(url, str):
        raise TypeError(f"the URL must be a str, not {type(url).__name__}")
    shown = quoted(re.sub(r"//[^/?#]*@", "//", url).partition("?")[0])
    if _UNSAFE.search(url):
        raise InvalidURL(f"{shown} has a space, a control character or invalid text: percent-encode it")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidURL(f"{shown} is not a URL ({error}): write ws://host:port/path") from None
    if parts.scheme not in _PORTS:
        raise InvalidURL(f"{shown} does not begin with ws:// or wss://: write {_asWebSocket(parts.scheme)}://host:port/path")
    if parts.username is not None or parts.password is not None:
        raise InvalidURL(f"{shown} has a user in it, and URLs end up in logs: give credentials=Basic(user, password)")
    if "#" in url:
        raise InvalidURL(f"{shown} has a fragment, which RFC 6455 forbids: leave out everything from # on (or write # as %23)")
    if port == 0:
        raise InvalidURL(f"{shown} has port 0: give the port that the server listens on")
    address, percent, zone = (parts.hostname or "").partition("%")
    # The percent sign before a zone should be encoded (RFC 6874 section 2), but often is not.
    host = asciiHost(f"{address}%{unquote(zone.removeprefix('25') or zone)}" if percent else address)
    if host is None:
        raise InvalidURL(f"{shown} has no usable host name: write {parts.scheme}://host:port/path")
    # What is encoded already stays unchanged.
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + (
        "?" + quote(parts.query, safe="/?%:@!$&'()*+,;=~") if parts.query else ""
    )
    return Address(parts.scheme == "wss", host, port or _PORTS[parts.scheme], target)


def _asWebSocket(scheme: str) -> str:
    return "wss" if scheme == "https" else "ws"


def isIP(host: str) -> bool:
    """Return whether `host` is an IP address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def asciiHost(host: str) -> str | None:
    """Return a host name in ASCII and lower case, or an IP address unchanged; None if `host` is neither."""
    if isIP(host):
        return host if host.isascii() else None  # the zone of an IPv6 address may be anything
    try:
        name = host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return None
    labels = name.removesuffix(".").split(".")
    return name if len(name) <= 254 and all(map(_LABEL.match, labels)) else None
