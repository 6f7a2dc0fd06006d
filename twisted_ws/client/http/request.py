"""The head of a request: what the user wants in it, checked, and its bytes (RFC 9112). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from twisted_ws.client.http.address import Address
from twisted_ws.client.http.credentials import Credentials, SubscriptionToken
from twisted_ws.upgrade import checkHeaders, isToken

# What has a token for channels.
TOKEN_HEADER = "Channel-Token"
# Written by the handshake itself.
_OURS = frozenset({"upgrade", "connection", "transfer-encoding", "content-length"})
_COOKIE_VALUE = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*\Z")


def headerPairs(
    headers: Mapping[str, str] | Iterable[tuple[str, str]] | None,
    cookies: Mapping[str, str] | None,
    credentials: Credentials | None,
    subscriptionToken: SubscriptionToken | None = None,
) -> tuple[tuple[str, str], ...]:
    """Return the headers that the user wants in a handshake.

    Raises:
        ValueError: a header or cookie cannot be written, or belongs to the handshake; the text does not show its value.
        TypeError: the credentials are of another class.
    """
    pairs: list[tuple[str, str]] = []
    for name, value in headers.items() if isinstance(headers, Mapping) else headers or ():
        pairs += checkHeaders({name: value})
        if name.lower() in _OURS or name.lower().startswith("sec-websocket-"):
            raise ValueError(f"the handshake writes the header {name} itself: leave it out (see subProtocols and compression)")
    names = [name.lower() for name, _ in pairs]
    if names.count("host") > 1:
        raise ValueError("the header Host may be given only once")
    if cookies:
        if "cookie" in names:
            raise ValueError("cookies are given twice: as cookies, and as the header Cookie")
        for name, value in cookies.items():
            if not isToken(name) or not isinstance(value, str) or not _COOKIE_VALUE.match(value):
                raise ValueError(f"the cookie {name!r} has characters that RFC 6265 does not allow: encode its value")
        pairs.append(("Cookie", "; ".join(f"{name}={value}" for name, value in cookies.items())))
    if credentials is not None:
        if not isinstance(credentials, Credentials):
            raise TypeError(f"credentials must be Basic(user, password) or Bearer(token), not {type(credentials).__name__}")
        if "authorization" in names:
            raise ValueError("credentials are given twice: as credentials, and as the header Authorization")
        if not credentials.canRenew:  # otherwise each attempt has one of its own
            pairs.append(("Authorization", credentials.header()))
    if subscriptionToken is not None:
        if TOKEN_HEADER.lower() in names:
            raise ValueError(f"the subscription token is given twice: as subscriptionToken, and as the header {TOKEN_HEADER}")
        if not subscriptionToken.canRenew:
            pairs.append((TOKEN_HEADER, subscriptionToken.header()))
    return tuple(pairs)


def requestHead(method: str, address: Address, own: Iterable[tuple[str, str]], headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """Return the head of a request: its own headers, then the user's, of which a Host replaces the address's."""
    host = next((value for name, value in headers if name.lower() == "host"), address.authority)
    lines = [f"{method} {address.target} HTTP/1.1", f"Host: {host}", *[f"{name}: {value}" for name, value in own]]
    lines += [f"{name}: {value}" for name, value in headers if name.lower() != "host"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
