"""The response to a request (RFC 9112): bytes in, status, headers and body out. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from twisted_ws.client.errors import BadHandshake, quoted
from twisted_ws.upgrade import Headers, isToken

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: (.*))?\Z", re.DOTALL)
_FOREVER = 1e9  # seconds: no one waits longer, however many digits are sent
_CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")


@dataclass(frozen=True, slots=True)
class Response:
    """The head of a response.

    Attributes:
        status: the HTTP status; 101 once a WebSocket is open.
        headers: names in any case.
    """

    status: int
    headers: Headers


def checkStart(data: bytes) -> None:
    """Check the beginning of a response, which may be all that ever comes.

    Raises:
        BadHandshake: it is not HTTP: servers of some other protocols speak first, and then wait.
    """
    if data[:5] != b"HTTP/"[: len(data)]:
        raise _notHTTP(data.partition(b"\r\n")[0])


def _notHTTP(line: bytes) -> BadHandshake:
    return BadHandshake(f"the server does not speak HTTP/1.1: its answer begins with {quoted(line, 60)}; check the port")


def parseResponse(data: bytes, maxHeaders: int) -> Response:
    """Return the response head in `data`, which ends with its empty line.

    Raises:
        BadHandshake: it is not a response head of HTTP/1.1.
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


def retryAfter(headers: Headers, now: datetime | None = None) -> float | None:
    """Return the seconds that Retry-After asks for (RFC 9110 section 10.2.3); None if it is missing or malformed."""
    value = headers.get("retry-after")
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return min(float(value), _FOREVER)
    try:
        when = parsedate_to_datetime(value)
        seconds = ((when if when.tzinfo else when.replace(tzinfo=UTC)) - (now or datetime.now(UTC))).total_seconds()
    except (ValueError, OverflowError):
        return None
    return max(seconds, 0.0)


def bodyOf(response: Response, data: bytes) -> tuple[bytes, bool]:
    """Return the part of the body in `data` (the bytes after the head), and whether that is all of it."""
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
