"""The client's half of the opening handshake (RFC 6455 section 4.1): what to ask, and what the answer means. Pure."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable

import msgspec

from twisted_ws.client.errors import BadHandshake, HandshakeRefused, Redirected, quoted
from twisted_ws.client.http.request import requestHead
from twisted_ws.client.http.response import Response, retryAfter
from twisted_ws.client.options import Options
from twisted_ws.logs import printable
from twisted_ws.upgrade import isToken
from twisted_ws.wire.door.handshake import Extension, acceptFor, parseExtensions


def checkSubProtocols(subProtocols: Iterable[str]) -> tuple[str, ...]:
    """Return the subprotocols to offer, in order of preference.

    Raises:
        ValueError: one is not a token, or is repeated.
        TypeError: `subProtocols` is a str, not a list of them.
    """
    if isinstance(subProtocols, str):
        raise TypeError(f"subProtocols must be a list of names: [{subProtocols!r}]")
    names = tuple(subProtocols)
    for name in names:
        if not isinstance(name, str) or not isToken(name):
            raise ValueError(f"{name!r} cannot name a subprotocol: use letters, digits and any of !#$%&'*+-.^_`|~")
    if len(set(names)) != len(names):
        raise ValueError("a subprotocol is repeated")
    return names


def newKey() -> str:
    """Return a new Sec-WebSocket-Key: 16 random bytes in base64."""
    return base64.b64encode(os.urandom(16)).decode()


def handshakeRequest(options: Options, key: str, extensions: str) -> bytes:
    """Return the GET that opens a WebSocket.

    Args:
        options: the address, subprotocols and headers are used.
        key: from `newKey`.
        extensions: the value of Sec-WebSocket-Extensions, "" for none.
    """
    headers = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", "13"),
    ]
    if options.subProtocols:
        headers.append(("Sec-WebSocket-Protocol", ", ".join(options.subProtocols)))
    if extensions:
        headers.append(("Sec-WebSocket-Extensions", extensions))
    return requestHead("GET", options.address, headers, options.headers)


def judge(response: Response, key: str, offered: tuple[str, ...]) -> tuple[str | None, tuple[Extension, ...]]:
    """Return the subprotocol that the server chose, and the extensions; for a response with status 101.

    Raises:
        BadHandshake: it does not answer this request.
    """
    headers = response.headers
    if headers.get("upgrade", "").lower() != "websocket":
        raise BadHandshake("the server's 101 does not switch to WebSocket: its Upgrade header is not websocket")
    if "upgrade" not in (token.strip(" \t").lower() for token in headers.get("connection", "").split(",")):
        raise BadHandshake("the server's 101 lacks Connection: Upgrade")
    if headers.getAll("sec-websocket-accept") != [acceptFor(key).decode()]:
        raise BadHandshake("the server's Sec-WebSocket-Accept does not match our key: it may come from a cache")
    chosen = headers.getAll("sec-websocket-protocol")
    if len(chosen) > 1 or not set(chosen) <= set(offered):
        wanted = ", ".join(offered) or "none"
        raise BadHandshake(f"the server chose the subprotocol {quoted(', '.join(chosen))}; offered: {wanted}")
    extensions = parseExtensions(headers.getAll("sec-websocket-extensions"))
    if extensions is None:
        raise BadHandshake("the server's Sec-WebSocket-Extensions is malformed")
    return (chosen[0] if chosen else None), extensions


def refusal(response: Response, body: bytes) -> HandshakeRefused:
    """Return the error for a response whose status is not 101."""
    status, headers = response.status, response.headers
    seconds = retryAfter(headers)
    if 300 <= status < 400:
        location = headers.get("location", "")
        where = f"to {quoted(location, 200)}; connect there if you trust it" if location else "without saying where"
        message = f"the server redirects ({status}) {where}: redirects are not followed"
        return Redirected(message, status, headers, body, seconds)
    said = printable(_sentence(body).strip().partition("\n")[0].strip().removesuffix("."), 100)
    message = f"the server refused the handshake with {status}{f' ({said})' if said else ''}: {_mend(status, said)}"
    return HandshakeRefused(message, status, headers, body, seconds)


class _Problem(msgspec.Struct):
    """The JSON body of an error of this server."""

    message: str


def _sentence(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_Problem).message
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body.decode("utf-8", "replace")


def _mend(status: int, said: str) -> str:
    if status == 401:
        return "give credentials that it accepts"
    if status == 403:
        return "it does not allow this client, or its Origin"
    if status == 404:
        return "check the path of the URL and the port"
    if status == 400 and ("TLS" in said or "HTTPS" in said):  # what this server, and nginx, answer on a TLS port
        return "use wss://"
    if status == 421:
        return "check the host in the URL; the log of a twisted_ws server names the option that allows it"
    if status in (400, 405, 426, 505):
        return "check that the URL is a WebSocket's"
    if status < 300:
        return "this is a web page, not a WebSocket: check the URL"
    return "try again later" if status in (408, 425, 429) or status >= 500 else "the body says more"
