"""The messages that wait to be sent: over one connection, or over those that follow each other."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from twisted_ws.client.errors import WriteBufferFull
from twisted_ws.errors import ConnectionClosed
from twisted_ws.wire.websocket.outbox import failedWrite

__all__ = ["Link", "WriteQueue"]

# Bytes that a connection is given ahead of the kernel. What it has is framed, and cannot be taken back.
WINDOW = 64 * 1024
# Bytes that a message is charged on top of its own: empty messages are not free.
CHARGE = 64


class Link(Protocol):
    """Where messages go: an open connection."""

    def writeMessage(self, opcode: int, payload: bytes) -> Deferred[None]:
        """Send a message; the Deferred fires when the kernel has it, and fails with `ConnectionClosed` if it never will."""

    def bufferedAmount(self) -> int:
        """Return how many bytes wait to be handed to the kernel."""


class _Entry:
    """A message that the kernel does not have yet."""

    __slots__ = ("opcode", "payload", "result")

    def __init__(self, opcode: int, payload: bytes, result: Deferred[None]) -> None:
        self.opcode = opcode
        self.payload = payload
        self.result = result


class WriteQueue:
    """Sends each message once, in order, whatever becomes of the connection.

    A message that was not handed to the kernel as a whole before its connection ended goes out again over the next: no
    server can have seen all of it. One that was may have been lost on its way, but is not sent again.

    Args:
        limit: bytes that may wait.
        oneByOne: whether the link gets a message only when the kernel has the one before. The kernel takes a part of what it is
            given, in which there may be the end of one message and the beginning of another; so only this tells, when the
            connection breaks, which of them a server can have seen.

    Attributes:
        size: bytes that wait, `CHARGE` for each message included.
    """

    def __init__(self, limit: int, oneByOne: bool) -> None:
        self._limit = limit
        self._oneByOne = oneByOne
        self._entries: deque[_Entry] = deque()
        self._sent = 0  # how many of the entries the link has
        self._link: Link | None = None
        self._end: ConnectionClosed | None = None
        self._first: int | None = None
        self._pumping = False
        self.size = 0

    @property
    def payload(self) -> int:
        """Bytes of the messages that wait."""
        return self.size - CHARGE * len(self._entries)

    def write(self, opcode: int, payload: bytes) -> Deferred[None]:
        """Queue a message.

        Returns:
            A Deferred that fires with None when the kernel has it, and fails with `ConnectionClosed` when it never will (that
            need not be looked at), or with `WriteBufferFull`. Cancelled before its turn has come, the message is not sent.
        """
        if self._end is not None:
            return failedWrite(self._end)
        size = len(payload) + CHARGE
        if self._entries and self.size + size > self._limit:
            return fail(
                WriteBufferFull(
                    f"{self.size} bytes wait to be sent: await the writes, or allow more with writeBuffer={self._limit}"
                )
            )
        entry = _Entry(opcode, payload, Deferred(self._cancel))
        self.size += size
        if self._first is None:
            self._entries.append(entry)
        else:
            self._entries.insert(self._first, entry)
            self._first += 1
        self._pump()
        return entry.result

    def attach(self, link: Link) -> None:
        """Send what waits over `link`, and what is written from now on."""
        self._link = link
        self._pump()

    def detach(self) -> None:
        """The link is gone, and each write that it took has come to its end."""
        self._link = None
        self._sent = 0

    def putFirst(self, on: bool) -> None:
        """Between True and False: what is written goes before all that waits; there must be no link meanwhile."""
        self._first = 0 if on else None

    def flush(self) -> None:
        """Give everything to the link, so that what the link sends next comes after it."""
        self._pump(everything=True)

    def refuse(self, error: ConnectionClosed) -> None:
        """Take no more messages: who writes gets `error`; what waits already is not hurt."""
        self._end = error

    def end(self, error: ConnectionClosed) -> None:
        """Nothing more will be sent: what waits fails with `error`."""
        self.refuse(error)
        entries, self._entries = self._entries, deque()
        self.size = 0
        for entry in entries:
            if not entry.result.called:
                failedWrite(error, entry.result)

    def _cancel(self, result: Deferred[None]) -> None:
        for position, entry in enumerate(self._entries):
            if entry.result is result:
                if position >= self._sent:
                    self._drop(position)
                return

    def _drop(self, position: int) -> None:
        self.size -= len(self._entries[position].payload) + CHARGE
        del self._entries[position]

    def _pump(self, everything: bool = False) -> None:
        if self._pumping:
            return  # a Deferred that fired wrote more: the loop below takes it
        self._pumping = True
        try:
            while self._link is not None and self._sent < len(self._entries) and (everything or self._mayGo(self._link)):
                entry = self._entries[self._sent]
                self._sent += 1
                self._link.writeMessage(entry.opcode, entry.payload).addCallbacks(self._handed, self._lost)
        finally:
            self._pumping = False

    def _mayGo(self, link: Link) -> bool:
        return self._sent == 0 if self._oneByOne else link.bufferedAmount() < WINDOW

    def _handed(self, _: None) -> None:
        # They come in the order they were sent.
        entry = self._entries[0]
        self._sent -= 1
        self._drop(0)
        if not entry.result.called:
            entry.result.callback(None)
        self._pump()

    def _lost(self, failure: Failure) -> None:
        # It stays where it is: `detach` or `end` follows.
        failure.trap(ConnectionClosed)
