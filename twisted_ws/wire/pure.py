"""The bytes of a message, in Python: what `twisted_ws.wire.speedups` has where the compiled part is missing.

A common frame is one whole frame with FIN, no RSV bit, opcode text or binary, a mask, its length encoded in the fewest bytes and
within the limit, and valid UTF-8 where it is text (RFC 6455 section 5.2). Everything else is Autobahn's to judge.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from OpenSSL import SSL

from twisted_ws.wire.framing import frame

__all__ = ["Sender", "readFrames", "sendMany", "split", "tlsHandle", "tlsReadFrames", "tlsWriteSome"]

_TEXT = 0x81
_BINARY = 0x82
_READ_SIZE = 64 * 1024

WANT_READ = -2  # OpenSSL's SSL_ERROR_WANT_READ, as `tlsWriteSome` has it
BROKEN = -1  # SSL_ERROR_SSL, which stands for all others


def split(data: bytes, maximum: int) -> tuple[list[str | bytes], int]:
    """Return the messages of the common frames at the head of `data`, and how many bytes those frames have."""
    messages: list[str | bytes] = []
    position, end = 0, len(data)
    while end - position >= 6:
        first, second = data[position], data[position + 1]
        if first not in (_TEXT, _BINARY) or second < 0x80:
            break
        size, start = second & 0x7F, position + 2
        if size == 126:
            size, start = int.from_bytes(data[start : start + 2], "big"), start + 2
            if size < 126:
                break
        elif size == 127:
            size, start = int.from_bytes(data[start : start + 8], "big"), start + 8
            if size < 65536:
                break
        start += 4
        if size > maximum or end - start < size:
            break
        payload = _unmask(data[start : start + size], data[start - 4 : start]) if size else b""
        if first == _TEXT:
            try:
                messages.append(payload.decode())
            except UnicodeDecodeError:
                break
        else:
            messages.append(payload)
        position = start + size
    return messages, position


def _unmask(data: bytes, mask: bytes) -> bytes:
    size = len(data)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")


def readFrames(fileno: int, maximum: int) -> list[str | bytes] | bytes | tuple[list[str | bytes], bytes] | None:
    """Read a socket once and return what came.

    Args:
        fileno: a non-blocking socket.
        maximum: bytes of the largest message; negative: no frame is taken.

    Returns:
        None when nothing is there; b"" at the end of the stream; a list of messages when all that came were common frames; other
        bytes when they begin with something else; messages and the rest otherwise.

    Raises:
        OSError: the connection is broken.
    """
    try:
        data = os.read(fileno, _READ_SIZE)
    except (BlockingIOError, InterruptedError):
        return None
    return _whatCame(data, maximum)


def _whatCame(data: bytes, maximum: int) -> list[str | bytes] | bytes | tuple[list[str | bytes], bytes]:
    messages, taken = split(data, maximum)
    if taken == len(data) and data:
        return messages
    return (messages, data[taken:]) if taken else data


class Sender:
    """What is needed to send a frame straight out on one connection.

    Attributes:
        handle: the socket's descriptor, or what `tlsHandle` returned.
        secure: which of the two.
        open: whether the connection takes messages, and without compression.
        waiting: whether bytes wait that must go first.
        lastData: when a frame last went this way (the caller's clock).
        written: how many did.
    """

    __slots__ = ("handle", "lastData", "open", "secure", "waiting", "written")

    def __init__(self) -> None:
        self.handle: Any = 0
        self.secure = self.open = self.waiting = False
        self.lastData = 0.0
        self.written = 0

    def send(self, first: int, payload: str | bytes, now: float) -> bytes | bool | None:
        """Send one frame, if frames can go this way now.

        A broken connection takes nothing here: the error shows again when the rest is written by the transport.

        Args:
            first: the first byte of the frame.
            payload: a str is sent as its UTF-8.
            now: the present time.

        Returns:
            None when the kernel took all; else what it did not take; False when nothing was done.

        Raises:
            UnicodeEncodeError: a str with a lone surrogate.
        """
        data = frame(first & 0x0F, payload.encode() if isinstance(payload, str) else payload, first & 0x70)
        sent = self.take(data, now)
        return False if sent < 0 else None if sent == len(data) else data[sent:]

    def take(self, data: bytes, now: float) -> int:
        """Send bytes, if frames can go this way now; return how many went, -1 for "not this way"."""
        if not self.open or self.waiting:
            return -1
        self.lastData = now
        self.written += 1
        if self.secure:
            return max(tlsWriteSome(self.handle, data), 0)
        try:
            return os.write(self.handle, data)
        except OSError:
            return 0


def sendMany(senders: Sequence[Sender], data: bytes, now: float) -> list[tuple[int, int]]:
    """Send the same frame to many; return index and bytes sent, -1 for "not this way", for each that did not take it all."""
    return [(index, sent) for index, sender in enumerate(senders) if (sent := sender.take(data, now)) != len(data)]


# The same by TLS, on an OpenSSL connection that has the socket.


def tlsHandle(connection: SSL.Connection) -> SSL.Connection:
    """Return what the functions below take for a connection."""
    return connection


def tlsReadFrames(
    connection: SSL.Connection, maximum: int
) -> list[str | bytes] | bytes | tuple[list[str | bytes], bytes] | int | None:
    """Read as `readFrames` does: whole records, so that nothing stays in OpenSSL, of which no poll tells.

    Returns:
        As `readFrames`; b"" when the peer has ended TLS; an int, OpenSSL's error, from the compiled part.

    Raises:
        SSL.Error: anything else; also `SSL.WantWriteError`.
    """
    try:
        data = connection.recv(_READ_SIZE)
    except SSL.WantReadError:
        return None
    except SSL.ZeroReturnError:
        data = b""
    return _whatCame(data, maximum)


def tlsWriteSome(connection: SSL.Connection, data: bytes | memoryview) -> int:
    """Send what the socket takes and return how many bytes that were.

    Returns:
        0 when the socket is full: what did not go must come again, first, and at least as much of it (SSL_write); a negative
        number, `WANT_READ` or another, when none went for another reason.
    """
    sent, view = 0, memoryview(data)
    try:
        while sent < len(view):
            sent += connection.send(view[sent:])
    except SSL.WantWriteError:
        pass
    except SSL.WantReadError:
        return sent or WANT_READ
    except SSL.Error:
        return sent or BROKEN
    return sent
