"""The client's half of the opening handshake (RFC 6455 section 4.1): options in, a GET out. Pure."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable, Mapping

from twisted_ws.client.http.address import Address
from twisted_ws.client.http.credentials import Credentials
from twisted_ws.upgrade import checkHeaders, isToken

__all__ = ["checkSubProtocols", "headerPairs", "newKey", "request"]

# Written by the handshake itself.
_OURS = frozenset({"upgrade", "connection", "transfer-encoding", "content-length"})
_COOKIE_VALUE = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*\Z")


def checkSubProtocols(subProtocols: Iterable[str]) -> tuple[str, ...]:
    """Return the subprotocols to offer, the most wanted first.

    Raises:
        ValueError: one is no token, or is there twice.
        TypeError: it is one str, not a list of them.
    """
    if isinstance(subProtocols, str):
        raise TypeError(f"subProtocols is a list of names: [{subProtocols!r}]")
    names = tuple(subProtocols)
    for name in names:
        if not isinstance(name, str) or not isToken(name):
            raise ValueError(f"{name!r} is no name of a subprotocol (a token: letters, digits, and some punctuation)")
    if len(set(names)) != len(names):
        raise ValueError("a subprotocol is named twice")
    return names


def headerPairs(
    headers: Mapping[str, str] | Iterable[tuple[str, str]] | None,
    cookies: Mapping[str, str] | None,
    credentials: Credentials | None,
) -> tuple[tuple[str, str], ...]:
    """Return the headers that the user wants in the request.

    Raises:
        ValueError: a header or cookie cannot be written, or is the handshake's own; its value is not in the text.
        TypeError: the credentials are of another class.
    """
    pairs: list[tuple[str, str]] = []
    for name, value in headers.items() if isinstance(headers, Mapping) else headers or ():
        pairs += checkHeaders({name: value})
        if name.lower() in _OURS or name.lower().startswith("sec-websocket-"):
            raise ValueError(f"the header {name} is the handshake's own: leave it out (there are subProtocols and compression)")
    names = [name.lower() for name, _ in pairs]
    if names.count("host") > 1:
        raise ValueError("the header Host can be given once only")
    if cookies:
        if "cookie" in names:
            raise ValueError("cookies are given twice: in cookies, and in the header Cookie")
        for name, value in cookies.items():
            if not isToken(name) or not isinstance(value, str) or not _COOKIE_VALUE.match(value):
                raise ValueError(f"the cookie {name!r} cannot be written (RFC 6265): encode its value")
        pairs.append(("Cookie", "; ".join(f"{name}={value}" for name, value in cookies.items())))
    if credentials is not None:
        if not isinstance(credentials, Credentials):
            raise TypeError(f"credentials are Basic(user, password) or Bearer(token), not {type(credentials).__name__}")
        if "authorization" in names:
            raise ValueError("credentials are given twice: in credentials, and in the header Authorization")
        pairs.append(("Authorization", credentials.header()))
    return tuple(pairs)


def newKey() -> str:
    """Return a Sec-WebSocket-Key that was never used: 16 random bytes in base64."""
    return base64.b64encode(os.urandom(16)).decode()


def request(address: Address, key: str, subProtocols: tuple[str, ...], offer: str, headers: tuple[tuple[str, str], ...]) -> bytes:
    """Return the GET that opens a WebSocket.

    Args:
        address: the WebSocket's.
        key: from `newKey`.
        subProtocols: to offer.
        offer: the value of Sec-WebSocket-Extensions, "" for none.
        headers: checked by `headerPairs`; a Host among them replaces the address's.
    """
    host = next((value for name, value in headers if name.lower() == "host"), address.authority)
    pairs = [
        ("Host", host),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", "13"),
    ]
    if subProtocols:
        pairs.append(("Sec-WebSocket-Protocol", ", ".join(subProtocols)))
    if offer:
        pairs.append(("Sec-WebSocket-Extensions", offer))
    pairs += [(name, value) for name, value in headers if name.lower() != "host"]
    lines = [f"GET {address.target} HTTP/1.1", *(f"{name}: {value}" for name, value in pairs), "", ""]
    return "\r\n".join(lines).encode("latin-1")
