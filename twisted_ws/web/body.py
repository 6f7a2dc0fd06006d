"""The body of an HTTP/1.1 request: where it ends, and its bytes (RFC 9112 sections 6 and 7). Pure."""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Protocol

from twisted_ws.limits import Limits
from twisted_ws.web.answers import HttpError
from twisted_ws.wire.head import RequestHead

__all__ = ["Body", "bodyOf", "expectsContinue"]

# The methods whose requests have a body. Another one with a body is a mistake or an attack: who does not expect a body takes it
# for the next request.
_WITH_BODY = frozenset(("POST", "PUT", "PATCH"))
# Beyond these digits no length is meant (and int() refuses 4,300 of them).
_LENGTH_DIGITS = 19
# A chunk size with its extensions, which are read over (RFC 9112 section 7.1.1).
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?")
_CHUNK_LINE = 256
_TRAILER = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


class Body(Protocol):
    """A body on its way in.

    Attributes:
        done: whether all of it was taken.
    """

    done: bool

    def take(self, buffer: bytearray) -> bytes:
        """Remove from the front of `buffer` what belongs to the body, and return its content; the rest stays.

        Raises:
            HttpError: 400 for framing that is malformed, 411 for none, 413 for a body over the limit.
        """


def bodyOf(head: RequestHead, limits: Limits) -> Body | None:
    """Return the body that follows `head`, None for none.

    The rules are stricter than RFC 9112's: no framing passes that two parsers read in two ways.

    Raises:
        HttpError: 400, 413 or 501. The connection cannot be used any further, because the end of the request is unknown or
            too far away.
    """
    lengths, codings = head.getAll("content-length"), head.getAll("transfer-encoding")
    if codings:
        if lengths:
            raise HttpError(400, "Content-Length and Transfer-Encoding exclude each other.")
        if head.version == (1, 0):
            raise HttpError(400, "HTTP/1.0 has no Transfer-Encoding.")
        if [coding.lower() for coding in codings] != ["chunked"]:
            raise HttpError(501, "The only Transfer-Encoding taken is chunked.")
        _wantsBody(head)
        return ChunkedBody(limits)
    if not lengths:
        return UnknownBody() if head.method in _WITH_BODY else None
    # str.isdigit alone takes "²", and int() takes "+5", "5_0" and digits of every script.
    digits = lengths[0]
    if len(lengths) > 1 or not (digits.isascii() and digits.isdigit() and len(digits) <= _LENGTH_DIGITS):
        raise HttpError(400, "The request must have one Content-Length of decimal digits.")
    length = int(digits)
    if not length:
        return None
    _wantsBody(head)
    if length > limits.body:
        raise _tooLarge(limits)
    return LengthBody(length)


def expectsContinue(head: RequestHead) -> bool:
    """Say whether the peer waits for a 100 Continue (RFC 9110 section 10.1.1).

    Raises:
        HttpError: 417 for another expectation.
    """
    expected = [each.lower() for each in head.tokens("expect")]
    if head.version == (1, 0) or not expected:
        return False
    if expected != ["100-continue"]:
        raise HttpError(417, "The only expectation met is 100-continue.")
    return True


def _wantsBody(head: RequestHead) -> None:
    if head.method not in _WITH_BODY:
        raise HttpError(400, "A request with this method has no body.")


def _tooLarge(limits: Limits) -> HttpError:
    return HttpError(413, f"The body is larger than {limits.body} bytes.")


class UnknownBody:
    """A body of which nobody says where it ends. It is refused only when it would be read: a wrong path or method comes first."""

    done = False

    def take(self, buffer: bytearray) -> bytes:
        """See `Body.take`."""
        raise HttpError(411, "The request needs a Content-Length.")


class LengthBody:
    """A body of known length."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = False

    def take(self, buffer: bytearray) -> bytes:
        """See `Body.take`."""
        content = bytes(buffer[: self._left])
        del buffer[: self._left]
        self._left -= len(content)
        self.done = not self._left
        return content


class _State(IntEnum):
    SIZE = 0
    DATA = 1
    END = 2  # the CRLF after a chunk
    TRAILERS = 3


class ChunkedBody:
    """A body in chunks. Its framing (sizes, extensions, trailers) has the same limit as its content."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._state = _State.SIZE
        self._left = 0
        self._content = 0
        self._framing = 0
        self.done = False

    def take(self, buffer: bytearray) -> bytes:
        """See `Body.take`."""
        content = bytearray()
        while not self.done:
            if self._state is _State.DATA:
                piece = buffer[: self._left]
                if not piece:
                    break
                del buffer[: self._left]
                content += piece
                self._left -= len(piece)
                if not self._left:
                    self._state = _State.END
                continue
            if self._state is _State.END and not b"\r\n".startswith(buffer[:2]):
                raise HttpError(400, "A chunk is longer than its size.")
            line = self._line(buffer)
            if line is None:
                break
            self._lineReceived(line)
        return bytes(content)

    def _line(self, buffer: bytearray) -> bytes | None:
        end = buffer.find(b"\r\n", 0, _CHUNK_LINE + 2)
        if end < 0:
            if len(buffer) >= _CHUNK_LINE + 2:
                raise HttpError(400, "A line of the chunked body is too long.")
            return None
        line = bytes(buffer[:end])
        del buffer[: end + 2]
        self._framing += end + 2
        if self._framing > self._limits.body:
            raise _tooLarge(self._limits)
        return line

    def _lineReceived(self, line: bytes) -> None:
        if self._state is _State.SIZE:
            match = _CHUNK_SIZE.fullmatch(line)
            if match is None:
                raise HttpError(400, "A chunk size is malformed.")
            self._left = int(match[1], 16)
            self._content += self._left
            if self._content > self._limits.body:
                raise _tooLarge(self._limits)
            self._state = _State.DATA if self._left else _State.TRAILERS
        elif self._state is _State.END:
            self._state = _State.SIZE
        elif not line:
            self.done = True
        elif _TRAILER.fullmatch(line) is None:
            raise HttpError(400, "A trailer is malformed.")
