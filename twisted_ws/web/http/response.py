"""What a response has whatever it answers: the bytes of its head, and JSON as its content."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec
from twisted.web.http import datetimeToString

if TYPE_CHECKING:
    from twisted.web.http_headers import Headers

__all__ = ["flat", "jsonBody", "responseHead"]


def jsonBody(value: object) -> bytes:
    """Return one line of JSON."""
    return msgspec.json.encode(value) + b"\n"


def _now() -> bytes:
    """Return the time as the Date header has it."""
    return _date(int(time.time()))


@lru_cache(1)
def _date(second: int) -> bytes:
    date: bytes = datetimeToString(second)
    return date


# What an answer says that says nothing of its own; the same as of any other.
_TEXT = (
    b"%b %d %b\r\nDate: %b\r\nContent-Length: %d\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n%b"
)


def responseHead(version: bytes, code: int, reason: bytes, said: dict[str, str], length: int | None, closes: bool) -> bytes:
    """Return the head of a response with its empty line: with what each one has to say, and without what none should.

    Args:
        version: "HTTP/1.1" or "HTTP/1.0".
        code: the status.
        reason: its phrase.
        said: what it says of its own, by names in their usual spelling; the rest is added.
        length: bytes of its body, which is text where it says nothing else; None where it has none, or an unknown number.
        closes: whether the connection ends after it.
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
    """Return what `responseHead` takes for headers as twisted.web has them, each with as many lines as it has values."""
    said = {}
    for name, values in headers.getAllRawHeaders():
        text = name.decode("latin-1")
        if values:
            said[text] = f"\r\n{text}: ".join([value.decode("latin-1") for value in values])
    said.pop("Server", None)
    return said
