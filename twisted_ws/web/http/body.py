"""The body of an HTTP/1.1 request: where it ends, and its bytes (RFC 9112 sections 6 and 7). Pure."""

from __future__ import annotations

import re
from typing import Protocol

from twisted_ws.limits import Limits
from twisted_ws.web.http.errors import HttpError
from twisted_ws.wire.door.head import RequestHead
from twisted_ws.wire.websocket.states import States

# The methods whose requests have a body. Any other with a body is a mistake or an attack: a parser that expects none reads the
# body as the next request.
_WITH_BODY = frozenset(("POST", "PUT", "PATCH"))
# No real length has more digits (and int() rejects more than 4,300).
_LENGTH_DIGITS = 19
# A chunk size with its extensions, which are ignored (RFC 9112 section 7.1.1). A quoted string in them must end on its line:
# some parsers look for its end beyond the line, and read the chunk as part of it.
_CHUNK_SIZE = re.compile(
    rb"([0-9A-Fa-f]{1,15})"
    rb'(?:;(?:[\t\x20\x21\x23-\x7e\x80-\xff]|"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*")*)?'
)
_CHUNK_LINE = 256
_TRAILER = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


class Body(Protocol):
    """A body that is being received.

    Attributes:
        done: whether it is complete.
    """

    done: bool

    def take(self, buffer: bytearray, most: int) -> tuple[bytes, int]:
        """Remove what belongs to the body from the front of `buffer`; the rest stays.

        Args:
            buffer: what has been received.
            most: the number of steps after which it stops, whether or not the buffer has more.

        Returns:
            The content, and the number of steps this took (see `twisted_ws.wire.loop.turns`).

        Raises:
            HttpError: 400 for malformed framing, 411 for none, 413 for a body over the limit.
        """


def bodyOf(head: RequestHead, limits: Limits) -> Body | None:
    """Return the body that follows `head`, or None.

    The rules are stricter than RFC 9112: framing that two parsers might read differently is refused.

    Raises:
        HttpError: 400, 413 or 501. The connection cannot be used again, because the end of the request is unknown or
            too far away.
    """
    lengths, codings = head.values.get("content-length"), head.values.get("transfer-encoding")
    if codings:
        if lengths:
            raise HttpError(400, "Content-Length and Transfer-Encoding exclude each other.")
        if head.version == (1, 0):
            raise HttpError(400, "HTTP/1.0 has no Transfer-Encoding.")
        if [coding.lower() for coding in codings] != ["chunked"]:
            raise HttpError(501, "The only supported Transfer-Encoding is chunked.")
        _wantsBody(head)
        return ChunkedBody(limits)
    if not lengths:
        return UnknownBody() if head.method in _WITH_BODY else None
    # str.isdigit accepts "²", and int() accepts "+5", "5_0" and the digits of every script.
    digits = lengths[0]
    if len(lengths) > 1 or not (digits.isascii() and digits.isdigit() and len(digits) <= _LENGTH_DIGITS):
        raise HttpError(400, "The request must have one Content-Length of decimal digits.")
    length = int(digits)
    if not length:
        return None
    _wantsBody(head)
    if length > limits.body:
        raise _tooLarge(limits.body)
    return LengthBody(length)


def expectsContinue(head: RequestHead) -> bool:
    """Return whether the peer is waiting for a 100 Continue (RFC 9110 section 10.1.1).

    Raises:
        HttpError: 417 for another expectation.
    """
    expected = [each.lower() for each in head.tokens("expect")]
    if head.version == (1, 0) or not expected:
        return False
    if expected != ["100-continue"]:
        raise HttpError(417, "The only supported expectation is 100-continue.")
    return True


def _wantsBody(head: RequestHead) -> None:
    if head.method not in _WITH_BODY:
        raise HttpError(400, "A request with this method must not have a body.")


def _tooLarge(most: int) -> HttpError:
    return HttpError(413, f"The body is larger than {most} bytes.")


class UnknownBody:
    """A body without a known end. It is refused only when it would be read, after the path and the method have been checked."""

    done = False

    def take(self, buffer: bytearray, most: int) -> tuple[bytes, int]:
        """See `Body.take`."""
        raise HttpError(411, "The request needs a Content-Length.")


class LengthBody:
    """A body of known length."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = False

    def take(self, buffer: bytearray, most: int) -> tuple[bytes, int]:
        """See `Body.take`."""
        content = bytes(buffer[: self._left])
        del buffer[: self._left]
        self._left -= len(content)
        self.done = not self._left
        return content, 1


class _State(States):
    SIZE = 0
    DATA = 1
    END = 2  # the CRLF after a chunk
    TRAILERS = 3


_SIZE, _DATA, _END, _TRAILERS = _State


class ChunkedBody:
    """A chunked body. Its framing (sizes, extensions, trailers) has the same limit as its content.

    Each chunk and each trailer counts as `Limits.fragmentCharge` bytes more, so that tiny chunks cost no more work than tiny
    fragments on a WebSocket.
    """

    def __init__(self, limits: Limits) -> None:
        self._most = limits.body
        self._charge = limits.fragmentCharge
        self._state = _SIZE
        self._left = 0
        self._content = 0
        self._framing = 0
        self.done = False

    def take(self, buffer: bytearray, most: int) -> tuple[bytes, int]:
        """See `Body.take`; each line of framing is a step."""
        content, steps = bytearray(), 0
        at = 0  # everything before it is taken, and cut off at the end: that is one move instead of one for each chunk
        try:
            while not self.done:
                if self._state is _DATA:
                    piece = buffer[at : at + self._left]
                    if not piece:
                        break
                    at += len(piece)
                    content += piece
                    self._left -= len(piece)
                    if not self._left:
                        self._state = _END
                    continue
                if self._state is _END and not b"\r\n".startswith(buffer[at : at + 2]):
                    raise HttpError(400, "A chunk is longer than its size.")
                if steps >= most:
                    break
                end = buffer.find(b"\n", at, at + _CHUNK_LINE + 2) + 1
                if not end:
                    if len(buffer) - at >= _CHUNK_LINE + 2:
                        raise HttpError(400, "A line of the chunked body is too long.")
                    break
                steps += 1
                line, at = buffer[at:end], end
                if not line.endswith(b"\r\n"):
                    raise HttpError(400, "A line of the chunked body ends with a bare line feed.")
                self._framing += len(line)
                self._lineReceived(line[:-2])
        finally:
            del buffer[:at]
        return bytes(content), steps

    def _lineReceived(self, line: bytearray) -> None:
        if self._state is _END:
            self._state = _SIZE
            return
        self._framing += self._charge
        if self._framing > self._most:
            raise HttpError(413, f"The body has too many chunks: their framing, too, may have at most {self._most} bytes.")
        if self._state is _SIZE:
            match = _CHUNK_SIZE.fullmatch(line)
            if match is None:
                raise HttpError(400, "A chunk size is malformed.")
            self._left = int(match[1], 16)
            self._content += self._left
            if self._content > self._most:
                raise _tooLarge(self._most)
            self._state = _DATA if self._left else _TRAILERS
        elif not line:
            self.done = True
        elif _TRAILER.fullmatch(line) is None:
            raise HttpError(400, "A trailer is malformed.")
