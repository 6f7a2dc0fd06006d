"""The opening handshake as a decision (RFC 6455 section 4.2): a checked head in, `Accept` or `Deny` out. Pure."""

from __future__ import annotations

import re
from binascii import b2a_base64
from dataclasses import dataclass, field
from hashlib import sha1

from twisted_ws.upgrade import isToken
from twisted_ws.wire.door.head import RequestHead
from twisted_ws.wire.door.origins import AllowedOrigins

# token [ ";" token [ "=" ( token | quoted-string ) ] ]* - RFC 6455 section 9.1. A quoted value must be a token too once unquoted.
_PARAMETER = re.compile(r'[ \t]*;[ \t]*([!#$%&\'*+\-.^_`|~0-9A-Za-z]+)(?:[ \t]*=[ \t]*("?)([!#$%&\'*+\-.^_`|~0-9A-Za-z]+)\2)?')
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_END = re.compile(r"[ \t]*(?:,[ \t,]*|\Z)")

# 16 bytes in base64.
_isKey = re.compile(r"[A-Za-z0-9+/]{22}==").fullmatch

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3

Extension = tuple[str, dict[str, list[str | bool]]]


def acceptFor(key: str) -> bytes:
    """Return the Sec-WebSocket-Accept that answers a Sec-WebSocket-Key."""
    return b2a_base64(sha1(key.encode() + _GUID, usedforsecurity=False).digest(), newline=False)


@dataclass(slots=True)
class Accept:
    """A handshake that may go on.

    Attributes:
        key: the Sec-WebSocket-Key.
        subProtocols: those that the client offers, in its order.
        extensions: those that the client offers, in its order, each a name and its parameters (True for one without a value).
    """

    key: str
    subProtocols: tuple[str, ...] = ()
    extensions: tuple[Extension, ...] = ()


@dataclass(frozen=True, slots=True)
class Deny:
    """A handshake that is refused.

    Attributes:
        status: the HTTP status.
        message: one fixed sentence for the peer.
        headers: more response headers.
        hint: what the operator's log should say beyond the message; "" for nothing.
    """

    status: int
    message: str
    headers: tuple[tuple[str, str], ...] = ()
    hint: str = field(default="", compare=False)


def isUpgrade(head: RequestHead) -> bool:
    """Return whether the client asks for WebSocket: an Upgrade header that names it."""
    return head.key is not None or head.hasToken("upgrade", "websocket")


def decide(head: RequestHead, origins: AllowedOrigins, isSecure: bool) -> Accept | Deny:
    """Decide on a request for which `isUpgrade` is true, before any code of a service runs.

    Args:
        head: the request.
        origins: the pages that may connect.
        isSecure: whether the client's connection has TLS.
    """
    key = head.key or _keyOf(head)
    if isinstance(key, Deny):
        return key
    values = head.values
    if "origin" in values:  # without one, it is not a browser, so no foreign page
        denied = checkOrigin(head, origins, isSecure)
        if denied is not None:
            return denied
    if "sec-websocket-protocol" not in values and "sec-websocket-extensions" not in values:
        return Accept(key)
    subProtocols = head.tokens("sec-websocket-protocol")
    if not all(map(isToken, subProtocols)) or len(set(subProtocols)) != len(subProtocols):
        return Deny(400, "Sec-WebSocket-Protocol must be a list of different tokens.")
    extensions = parseExtensions(head.getAll("sec-websocket-extensions"))
    if extensions is None:
        return Deny(400, "Sec-WebSocket-Extensions is malformed.")
    return Accept(key, tuple(subProtocols), extensions)


def _keyOf(head: RequestHead) -> str | Deny:
    if head.method != "GET":
        return Deny(405, "A WebSocket handshake is a GET.", (("Allow", "GET"),))
    if head.version < (1, 1):
        return Deny(400, "A WebSocket handshake needs HTTP/1.1.")
    # A body would be read as frames; with both of these, a proxy and we could disagree on where it ends.
    values = head.values
    if "transfer-encoding" in values or set(values.get("content-length", ())) - {"0"}:
        return Deny(400, "A WebSocket handshake has no body.")
    if not head.hasToken("connection", "upgrade"):
        return Deny(400, "The Connection header must say Upgrade.")
    if values.get("sec-websocket-version") != ["13"]:
        return Deny(426, "Only WebSocket version 13 is spoken here.", (("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket")))
    keys = values.get("sec-websocket-key")
    if keys is None or len(keys) != 1 or not _isKey(keys[0]):
        return Deny(400, "Sec-WebSocket-Key must be 16 bytes in base64, once.")
    return keys[0]


def checkOrigin(head: RequestHead, origins: AllowedOrigins, isSecure: bool) -> Deny | None:
    """Return the refusal of a page that may not connect, by its Origin header, which is there; None if it may."""
    found = head.getAll("origin")
    if len(found) > 1:
        return Deny(400, "The Origin header must not be repeated.")
    if not origins.allows(found[0], head.host, isSecure):
        return Deny(403, "Pages of this origin may not connect.", hint=origins.hint(found[0]))
    return None


def parseExtensions(values: list[str]) -> tuple[Extension, ...] | None:
    """Return the extensions in the values of Sec-WebSocket-Extensions; None if they are malformed (RFC 6455 section 9.1).

    Empty elements of the list are ignored, and so is an empty list (RFC 9110 section 5.6.1.2).
    """
    found: list[Extension] = []
    for value in values:
        position = len(value) - len(value.lstrip(" \t,"))
        while position < len(value):
            match = _NAME.match(value, position)
            if match is None:
                return None
            parameters: dict[str, list[str | bool]] = {}
            name, position = match[0].lower(), match.end()
            while (match := _PARAMETER.match(value, position)) is not None:
                key = match[1].lower()
                if key not in parameters:
                    parameters[key] = []
                parameters[key].append(True if match[3] is None else match[3])
                position = match.end()
            found.append((name, parameters))
            match = _END.match(value, position)
            if match is None:
                return None
            position = match.end()
    return tuple(found)
