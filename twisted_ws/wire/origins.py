"""Which web pages may connect: the Origin of a handshake against a list (RFC 6454, RFC 6455 section 10.2). Pure.

Browsers send cookies along with a WebSocket handshake from any page, and only the Origin tells whose page it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["AllowedOrigins", "parseOrigin"]

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def parseOrigin(text: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port of ``scheme://host[:port]``, in lower case; None for anything else, as "null".

    The port is the scheme's own where none is given, and -1 for a scheme without one.
    """
    scheme, mark, rest = text.lower().partition("://")
    if not mark or not scheme or not scheme.replace("-", "").replace("+", "").replace(".", "").isalnum() or not scheme.isascii():
        return None
    hostPort = parseHost(rest, _DEFAULT_PORTS.get(scheme, -1))
    return None if hostPort is None else (scheme, *hostPort)


def parseHost(text: str, defaultPort: int) -> tuple[str, int] | None:
    """Return host and port of ``host[:port]``, the host in lower case; None where it is malformed."""
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
        return (host, defaultPort) if not text.endswith(":") else None
    return (host, int(port)) if port.isascii() and port.isdigit() and len(port) <= 5 else None


@dataclass(frozen=True, slots=True)
class _Pattern:
    """One allowed origin; `wildcard`: any host that ends with ``.host``."""

    scheme: str
    host: str
    port: int
    wildcard: bool


class AllowedOrigins:
    """The origins that may connect, beside the page's own host.

    Each is ``scheme://host[:port]`` compared whole (a port that is left out is the scheme's own), ``scheme://*.host[:port]`` for
    every host below it (the ``*`` is a whole first label), ``null`` or ``file://`` for pages without an origin, or ``*`` for all.

    Raises:
        ValueError: one is in no such form; the text names it.
    """

    __slots__ = ("_any", "_literal", "_patterns")

    def __init__(self, origins: Iterable[str] = ()) -> None:
        self._any = False
        self._literal: set[str] = set()
        self._patterns: list[_Pattern] = []
        for origin in origins:
            if origin == "*":
                self._any = True
                continue
            if origin.lower() in ("null", "file://"):
                self._literal.add(origin.lower())
                continue
            scheme, mark, rest = origin.partition("://")
            wildcard = rest.startswith("*.")
            parsed = parseOrigin(f"{scheme}{mark}{rest[2:] if wildcard else rest}")
            if parsed is None or "*" in parsed[1]:
                raise ValueError(f"{origin!r} is no origin: write scheme://host[:port], scheme://*.host, null or *")
            self._patterns.append(_Pattern(*parsed, wildcard))

    def allows(self, origin: str, host: str, isSecure: bool) -> bool:
        """Say whether a page of `origin` may connect to this server, which it called by the Host header `host`.

        The page's own host is allowed, port for port. A page that came over https may connect where TLS ends in front of
        this server; one that came over http may not connect to TLS, for whoever is on the network could have written it.
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
        return any(
            scheme == p.scheme and port == p.port and (name.endswith("." + p.host) if p.wildcard else name == p.host)
            for p in self._patterns
        )
