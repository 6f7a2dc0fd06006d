"""Which web pages may connect (RFC 6454, RFC 6455 section 10.2), and by which names of this server. Pure.

Browsers send cookies along with a WebSocket handshake from any page, and only the Origin tells whose page it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from socket import inet_aton
from typing import TYPE_CHECKING

import idna

if TYPE_CHECKING:
    from twisted_ws.wire.door.head import RequestHead

_DEFAULT_PORTS = {"http": 80, "https": 443}
# Programs name the server's own URL where a browser names its page's: ws4py does, with its scheme.
_AS_HTTP = {"ws": "http", "wss": "https"}
_isHost = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?|\[[0-9a-f:.]+\]").fullmatch
# The same few are in every request; and others must not fill the memory.
_KNOWN = 64
# The origins of pages that have no host.
_WITHOUT_HOST = ("null", "file://")


def parseOrigin(text: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port of ``scheme://host[:port]``, in lower case; None for anything else, such as "null".

    Without a port, it is the scheme's own, or -1 for a scheme without one. The scheme ws becomes http, and wss https.
    """
    scheme, mark, rest = text.lower().partition("://")
    if not mark or not scheme or not scheme.replace("-", "").replace("+", "").replace(".", "").isalnum() or not scheme.isascii():
        return None
    scheme = _AS_HTTP.get(scheme, scheme)
    hostPort = parseHost(rest, _DEFAULT_PORTS.get(scheme, -1))
    return None if hostPort is None or rest.endswith(":") else (scheme, *hostPort)


def parseHost(text: str, defaultPort: int) -> tuple[str, int] | None:
    """Return host and port of ``host[:port]``, the host in lower case; None if it is malformed."""
    text = text.lower()
    if text.startswith("["):
        host, bracket, port = text.partition("]")
        if not bracket or (port and not port.startswith(":")):
            return None
        host, port = host + "]", port[1:]
    else:
        host, _, port = text.partition(":")
    if not host or any(c in host for c in "/?#@\\ "):
        return None
    if not port:
        return host, defaultPort  # also after a colon (RFC 3986 section 3.2.3)
    return (host, int(port)) if port.isascii() and port.isdigit() and len(port) <= 5 else None


@dataclass(frozen=True, slots=True)
class _Pattern:
    """A host in ASCII; with `wildcard`, every host that ends with ``.host``."""

    host: str
    wildcard: bool

    def matches(self, host: str) -> bool:
        """Return whether `host`, in lower case, matches."""
        return host.endswith("." + self.host) if self.wildcard else host == self.host


def _patternOf(host: str) -> _Pattern | None:
    """Return the pattern of ``host`` or ``*.host``, in any script; None for anything else."""
    wildcard = host.startswith("*.")
    name = host[2:] if wildcard else host
    try:
        # As browsers do (UTS 46).
        name = name.lower() if name.isascii() else idna.encode(name, uts46=True).decode("ascii")
    except UnicodeError:
        return None
    return _Pattern(name.removesuffix("."), wildcard) if _isHost(name) else None


def _originOf(text: str) -> tuple[str, _Pattern, int] | None:
    """Return scheme, host and port of an allowed origin; None if it is malformed."""
    parsed = parseOrigin(text)
    pattern = None if parsed is None else _patternOf(parsed[1])
    return None if parsed is None or pattern is None else (parsed[0], pattern, parsed[2])


class AllowedOrigins:
    """The origins that may connect, besides the page's own host.

    Each is ``scheme://host[:port]``, compared as a whole (without a port, the scheme's own), ``scheme://*.host[:port]`` for every
    host below (the ``*`` is a whole first label), ``null`` or ``file://`` for pages without an origin, or ``*`` for all.

    Raises:
        ValueError: one has another form; the text names it.
    """

    __slots__ = ("_any", "_literal", "_patterns", "allows")

    allows: Callable[[str, str, bool], bool]

    def __init__(self, origins: Iterable[str] = ()) -> None:
        self._any = False
        self._literal: set[str] = set()
        self._patterns: list[tuple[str, _Pattern, int]] = []
        for origin in origins:
            if origin == "*":
                self._any = True
                continue
            if origin.lower() in _WITHOUT_HOST:
                self._literal.add(origin.lower())
                continue
            pattern = _originOf(origin)
            if pattern is None:
                raise ValueError(f"{origin!r} is not an origin: write scheme://host[:port], scheme://*.host, null or *")
            self._patterns.append(pattern)
        self.allows = lru_cache(_KNOWN)(self._allows)

    def _allows(self, origin: str, host: str, isSecure: bool) -> bool:
        """Return whether a page of `origin` may connect to this server, when the Host header is `host`.

        The page's own host is allowed, with the same port. A page that came over https may connect if TLS ends in front of this
        server; one that came over http may not connect over TLS, because anybody on the network could have written it.
        """
        if self._any or origin.lower() in self._literal:
            return True
        parsed = parseOrigin(origin)
        if parsed is None:
            return False
        scheme, name, port = parsed
        if (
            scheme in ("http", "https")
            and not (scheme == "http" and isSecure)
            and parseHost(host, _DEFAULT_PORTS[scheme]) == (name, port)
        ):
            return True
        return any(scheme == s and port == p and pattern.matches(name) for s, pattern, p in self._patterns)

    @staticmethod
    def hint(origin: str) -> str:
        """Return the option with which the operator would allow `origin`; "" if there is none."""
        isTaken = origin.isascii() and "*" not in origin and (origin.lower() in _WITHOUT_HOST or _originOf(origin) is not None)
        return f"to allow it: --allowed-origin {origin}" if isTaken else ""


class AllowedHosts:
    """The names by which a server may be addressed on a loopback address.

    The owner of a name can make it resolve to 127.0.0.1 as soon as a page of it is loaded (DNS rebinding): for the visitor's
    browser, the server there is then the page's own. Only that name in Host gives it away. This does not work with an IP address,
    a name without a dot, a name under ``localhost`` (RFC 6761 section 6.3), or this machine's own names.

    Args:
        hosts: more names: ``app.example``, ``*.app.example`` for every name below it, ``*`` for all; the port does not matter.
        origins: those of `AllowedOrigins`: their hosts are names of this server, too.
        own: this machine's names.

    Raises:
        ValueError: one of `hosts` has another form; the text names it.
    """

    __slots__ = ("_any", "_patterns", "allows")

    allows: Callable[[str], bool]

    def __init__(self, hosts: Iterable[str] = (), origins: Iterable[str] = (), own: Iterable[str] = ()) -> None:
        hosts = tuple(hosts)
        self._any = "*" in hosts
        self._patterns = [_Pattern(name.lower().removesuffix("."), False) for name in own]
        self._patterns += [found[1] for found in map(_originOf, origins) if found is not None]
        for host in hosts:
            parsed = parseHost(host, 0)
            pattern = None if parsed is None else _patternOf(parsed[0])
            if host != "*" and pattern is None:
                raise ValueError(f"{host!r} is not a host name: write app.example, *.app.example or *")
            if pattern is not None:
                self._patterns.append(pattern)
        self.allows = lru_cache(_KNOWN)(self._allows)

    def _allows(self, host: str) -> bool:
        """Return whether a request with the Host header `host` is for this server ("": without one, so not from a browser)."""
        parsed = parseHost(host, 0)
        if self._any or not host:
            return True
        if parsed is None:
            return False
        name = parsed[0].removesuffix(".")
        if "." not in name or name.endswith(".localhost") or any(pattern.matches(name) for pattern in self._patterns):
            return True
        try:
            inet_aton(name)  # accepts every way of writing an IPv4 address
        except OSError:
            return name.startswith("[")
        return True

    @staticmethod
    def hint(host: str) -> str:
        """Return the option with which the operator would have requests for `host` answered."""
        parsed = parseHost(host, 0)
        isTaken = parsed is not None and "*" not in host and _patternOf(parsed[0]) is not None
        return f"to answer it: --allowed-host {parsed[0]}" if parsed is not None and isTaken else "see --allowed-host"


def isFromElsewhere(head: RequestHead) -> bool:
    """Return whether a browser sent a request for a page of another site, and not to visit this site (W3C, Fetch Metadata).

    When a page loads something as a script or an image, browsers send no Origin, but they do send the server's cookies.
    """
    values = head.values
    if "cross-site" not in values.get("sec-fetch-site", ()):
        return False
    isVisit = values.get("sec-fetch-mode") == ["navigate"] and values.get("sec-fetch-dest") == ["document"]
    return not (isVisit and head.method in ("GET", "HEAD"))
