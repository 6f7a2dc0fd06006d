"""Frames with descriptors, over a Unix stream between two processes."""

from __future__ import annotations

import array
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from twisted.internet.interfaces import IReadDescriptor, IWriteDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_ws.limits import KIB, MIB

# Descriptors of one frame, at most: the kernel takes 253 in one call, and counts those on their way against the limit of open
# files.
DESCRIPTORS = 64
# Bytes of one frame, at most: the outboxes of as many callers are in it.
LARGEST = 256 * MIB
# Bytes of one read.
READ = 256 * KIB

# Seconds until a write is tried again for which the kernel had no room, though the stream has.
_REST = 0.01
_HEAD = 5  # a length of four bytes, and the number of descriptors

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Any]).decode


@implementer(IReadDescriptor, IWriteDescriptor)
class HandStream:
    """One end of the stream.

    What the other process has written before it ended still comes, with its descriptors; then `ended` is called.

    Args:
        connection: the socket; the stream's from now on.
        reactor: the reactor.

    Attributes:
        received: called with the fields of each frame and its descriptors, which are the callee's.
        ended: called once when nothing more will come.
        isOpen: whether frames can be sent.
    """

    _log = Logger()

    def __init__(self, connection: socket.socket, reactor: Any) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._reactor = reactor
        self._waiting: deque[tuple[memoryview, Sequence[int], Callable[[], object] | None]] = deque()
        self._came = bytearray()
        self._descriptors: deque[int] = deque()
        self._isClosing = self._isFinishing = False
        self.isOpen = True
        self.received: Callable[[list[Any], list[int]], object] = _nothing
        self.ended: Callable[[], object] = _nothing
        reactor.addReader(self)

    def send(self, *fields: Any, descriptors: Sequence[int] = (), sent: Callable[[], object] | None = None) -> None:
        """Send a frame; do nothing if the other end has gone.

        Args:
            fields: a str that says what it is, and whatever belongs to it.
            descriptors: they go with it, and must stay open until it is `sent`.
            sent: called when the kernel has taken it, or the other process has gone.
        """
        if not self.isOpen:
            if sent is not None:
                sent()
            return
        body = _encode(fields)
        head = len(body).to_bytes(4, "big") + bytes((len(descriptors),))
        self._waiting.append((memoryview(head + body), descriptors, sent))
        if len(self._waiting) == 1:
            self.doWrite()

    def finish(self) -> None:
        """Tell the other end that nothing more will come, when everything is written; go on reading."""
        self._isFinishing = True
        self._goOn()

    def close(self) -> None:
        """Close when everything is written."""
        self._isClosing = True
        self._goOn()

    def _goOn(self) -> None:
        if self._waiting or not self.isOpen:
            return
        self._reactor.removeWriter(self)
        if self._isClosing:
            self.isOpen = False
            self._reactor.removeReader(self)
            self._socket.close()
            while self._descriptors:
                os.close(self._descriptors.popleft())
        elif self._isFinishing:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def _hasGone(self) -> None:
        """Drop what waits: nobody reads it."""
        waiting, self._waiting = self._waiting, deque()
        for _, _, sent in waiting:
            if sent is not None:
                sent()
        self._goOn()

    # What the reactor does.

    def fileno(self) -> int:
        """Return the descriptor of the stream."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """Return what the reactor calls this in its log."""
        return "hand-over"

    def doWrite(self) -> None:
        """Write what the kernel takes."""
        while self._waiting:
            data, descriptors, sent = self._waiting[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
            try:
                size = self._socket.sendmsg([data], rights)
            except BlockingIOError:
                self._reactor.addWriter(self)
                return
            except OSError as error:
                if error.errno in _LATER:
                    self._reactor.removeWriter(self)
                    self._reactor.callLater(_REST, self._tryAgain)
                else:
                    self._hasGone()
                return
            if size < len(data):
                self._waiting[0] = data[size:], (), sent
                continue
            self._waiting.popleft()
            if sent is not None:
                sent()
        self._goOn()

    def _tryAgain(self) -> None:
        if self.isOpen:
            self.doWrite()

    def doRead(self) -> None:
        """Read, and pass on what is whole; at the end, the reactor is not told, because this may still write."""
        if not self._read():
            self._reactor.removeReader(self)
            self.ended()

    def _read(self) -> bool:
        try:
            data, rights, flags, _ = self._socket.recvmsg(READ, socket.CMSG_SPACE(4 * DESCRIPTORS), _CLOEXEC)
        except BlockingIOError:
            return True
        except OSError:
            data, rights, flags = b"", [], 0
        for level, kind, raw in rights:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                found = array.array("i")
                found.frombytes(raw[: len(raw) - len(raw) % found.itemsize])
                self._descriptors.extend(found)
        if not data or flags & socket.MSG_CTRUNC:
            return False
        self._came += data
        while len(self._came) >= _HEAD and self.isOpen:
            size = int.from_bytes(self._came[:4], "big")
            if size > LARGEST:
                return False
            if len(self._came) < _HEAD + size:
                break
            count = self._came[4]
            if count > len(self._descriptors):
                return False
            descriptors = [self._descriptors.popleft() for _ in range(count)]
            try:
                frame = _decode(self._came[_HEAD : _HEAD + size])
                del self._came[: _HEAD + size]
                self.received(frame, descriptors)
            except Exception:
                self._log.failure("a frame of a hand-over was not handled", event="handover.broken")
                return False
        return True

    def connectionLost(self, reason: Failure) -> None:
        """End, because the reactor does."""


# More descriptors are on their way than this user may have open; or memory is short.
_LATER = (errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM)
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def _nothing(*_: Any) -> None:
    """Do nothing."""
