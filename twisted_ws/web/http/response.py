"""The parts that all responses share: the bytes of a head, and JSON as content."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec
from twisted.web.http import datetimeToString

if TYPE_CHECKING:
    from twisted.web.http_headers import Headers


def jsonBody(value: object) -> bytes:
    """Return one line of JSON."""
    return msgspec.json.encode(value) + b"\n"


def _now() -> bytes:
    """Return the time in the form of the Date header."""
    return _date(int(time.time()))


@lru_cache(1)
def _date(second: int) -> bytes:
    date: bytes = datetimeToString(second)
    return date


# The head of an answer without extra headers: the same as in general, but faster.
_TEXT = (
    b"%b %d %b\r\nDate: %b\r\nContent-Length: %d\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n%b"
)


def responseHead(version: bytes, code: int, reason: bytes, said: dict[str, str], length: int | None, closes: bool) -> bytes:
    """Return the head of a response and its empty line, with the headers that every response has.

    Args:
        version: "HTTP/1.1" or "HTTP/1.0".
        code: the status.
        reason: its phrase.
        said: its own headers, by names in their usual spelling.
        length: the size of its body, which is text unless it says otherwise; None if it has no body, or one of unknown size.
        closes: whether the connection ends after this response.
    """
    end = b"Connection: close\r\n\r\n" if closes else b"\r\n"
    if length and not said:
        return _TEXT % (version, code, reason, _now(), length, end)
    said.setdefault("Date", _now().decode("ascii"))
    if length is not None:
        said["Content-Length"] = str(length)
    if length:
        said.setdefault("Content-Type", "text/plain; charset=utf-8")
    said["X-Content-Type-Options"] = "nosniff"
    said.setdefault("Cache-Control", "no-store")
    lines = "".join([f"{name}: {value}\r\n" for name, value in said.items()])
    return b"%b %d %b\r\n%b%b" % (version, code, reason, lines.encode("latin-1"), end)


def flat(headers: Headers) -> dict[str, str]:
    """Return headers in twisted.web's form as `responseHead` takes them: a header with several values has several lines."""
    said = {}
    for name, values in headers.getAllRawHeaders():
        text = name.decode("latin-1")
        if values:
            said[text] = f"\r\n{text}: ".join([value.decode("latin-1") for value in values])
    said.pop("Server", None)
    return said
