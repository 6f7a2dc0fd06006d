"""The server's half of the opening handshake (RFC 6455 section 4.1): a response head in, what it means out. Pure."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from twisted_ws.client.errors import BadHandshake, HandshakeRefused, Redirected, quoted
from twisted_ws.logs import printable
from twisted_ws.upgrade import Headers, isToken
from twisted_ws.wire.door.handshake import Extension, parseExtensions

__all__ = ["Response", "acceptFor", "bodyOf", "checkStart", "judge", "parseResponse", "refusal"]

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: (.*))?\Z", re.DOTALL)
_FOREVER = 1e9  # seconds: nobody waits longer, however many digits are sent
_CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to the handshake.

    Attributes:
        status: the HTTP status; 101 for a connection that is open.
        headers: names in any case.
    """

    status: int
    headers: Headers


def checkStart(data: bytes) -> None:
    """Look at the beginning of an answer, which may be all that ever comes.

    Raises:
        BadHandshake: it is no HTTP: some servers of other protocols speak first, and then wait.
    """
    if data[:5] != b"HTTP/"[: len(data)]:
        raise _notHTTP(data.partition(b"\r\n")[0])


def _notHTTP(line: bytes) -> BadHandshake:
    return BadHandshake(f"the server does not speak HTTP/1.1: its answer begins with {quoted(line, 60)}; check the port")


def parseResponse(data: bytes, maxHeaders: int) -> Response:
    """Return the response head in `data`, which ends with its empty line.

    Raises:
        BadHandshake: it is no response head of HTTP/1.1.
    """
    line, *lines = data[:-4].split(b"\r\n")
    match = _STATUS.match(line)
    if match is None or _CONTROLS.search(line):
        raise _notHTTP(line)
    if len(lines) > maxHeaders:
        raise BadHandshake(f"the server's answer has more than {maxHeaders} headers")
    return Response(int(match[1]), Headers(tuple(map(_header, lines))))


def _header(line: bytes) -> tuple[str, str]:
    name, colon, value = line.decode("latin-1").partition(":")
    if not colon or not isToken(name) or _CONTROLS.search(line):
        raise BadHandshake(f"the server's answer has a malformed header: {quoted(line, 60)}")
    return name.lower(), value.strip(" \t")


def acceptFor(key: str) -> str:
    """Return the Sec-WebSocket-Accept that answers a key."""
    return base64.b64encode(hashlib.sha1((key + _GUID).encode(), usedforsecurity=False).digest()).decode()


def judge(response: Response, key: str, offered: tuple[str, ...]) -> tuple[str | None, tuple[Extension, ...]]:
    """Return the subprotocol that the server chose, and the extensions; for a response with status 101.

    Raises:
        BadHandshake: it is no answer to this request.
    """
    headers = response.headers
    if headers.get("upgrade", "").lower() != "websocket":
        raise BadHandshake("the server's 101 does not switch to WebSocket: its Upgrade header is not websocket")
    if "upgrade" not in (token.strip(" \t").lower() for token in headers.get("connection", "").split(",")):
        raise BadHandshake("the server's 101 lacks Connection: Upgrade")
    if headers.getAll("sec-websocket-accept") != [acceptFor(key)]:
        raise BadHandshake("the server's Sec-WebSocket-Accept does not answer our key: a cache or a program that is no WebSocket")
    chosen = headers.getAll("sec-websocket-protocol")
    if len(chosen) > 1 or not set(chosen) <= set(offered):
        wanted = ", ".join(offered) or "none"
        raise BadHandshake(f"the server chose the subprotocol {quoted(', '.join(chosen))}; offered: {wanted}")
    extensions = parseExtensions(headers.getAll("sec-websocket-extensions"))
    if extensions is None:
        raise BadHandshake("the server's Sec-WebSocket-Extensions is malformed")
    return (chosen[0] if chosen else None), extensions


def refusal(response: Response, body: bytes, now: datetime | None = None) -> HandshakeRefused:
    """Return the error for a response with another status than 101."""
    status, headers = response.status, response.headers
    retryAfter = _retryAfter(headers.get("retry-after"), now or datetime.now(UTC))
    if 300 <= status < 400:
        location = headers.get("location", "")
        where = f"to {quoted(location, 200)}; connect there if you trust it" if location else "without saying where"
        return Redirected(
            f"the server redirects ({status}) {where}: redirects are not followed", status, headers, body, retryAfter
        )
    said = printable(body.decode("utf-8", "replace").strip().partition("\n")[0].strip(), 100)
    message = f"the server refused the handshake with {status}{f' ({said})' if said else ''}: {_mend(status, said)}"
    return HandshakeRefused(message, status, headers, body, retryAfter)


def _mend(status: int, said: str) -> str:
    if status == 401:
        return "give credentials that it takes"
    if status == 403:
        return "it does not let this client, or its Origin, in"
    if status == 404:
        return "check the path of the URL, and the port"
    if status == 400 and ("TLS" in said or "HTTPS" in said):  # as this server, or nginx, answers on a port for TLS
        return "use wss://"
    if status == 421:
        return "check the host in the URL; the log of a twisted_ws server names the option that lets it in"
    if status in (400, 405, 426, 505):
        return "check that the URL is that of a WebSocket"
    if status < 300:
        return "this is a web page, not a WebSocket: check the URL"
    return "try again later" if status in (408, 425, 429) or status >= 500 else "the body says more"


def _retryAfter(value: str | None, now: datetime) -> float | None:
    """Return the seconds in a Retry-After header (RFC 9110 section 10.2.3), None for none that can be read."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return min(float(value), _FOREVER)
    try:
        when = parsedate_to_datetime(value)
        seconds = ((when if when.tzinfo else when.replace(tzinfo=UTC)) - now).total_seconds()
    except (ValueError, OverflowError):
        return None
    return max(seconds, 0.0)


def bodyOf(response: Response, data: bytes) -> tuple[bytes, bool]:
    """Return what `data` (the bytes after the head) holds of the body, and whether that is all of it."""
    headers = response.headers
    if response.status in (204, 304):
        return b"", True
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return _chunked(data)
    length = headers.get("content-length", "")
    if length.isascii() and length.isdigit() and len(length) < 20:
        return data[: int(length)], len(data) >= int(length)
    return data, False


def _chunked(data: bytes) -> tuple[bytes, bool]:
    body, position = b"", 0
    while (match := _CHUNK.match(data, position)) is not None:
        size = int(match[1], 16)
        if size == 0:
            return body, True
        body += data[match.end() : match.end() + size]
        position = match.end() + size + 2
    return body, False
