"""The messages that wait to be sent, over one connection or over its successors."""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from twisted_ws.client.errors import WriteBufferFull
from twisted_ws.client.options import CHARGE
from twisted_ws.client.websocket.connection import ClientConnection
from twisted_ws.errors import ConnectionClosed
from twisted_ws.wire.websocket.outbox import failedWrite

# Bytes that a connection is given ahead of the kernel. They are framed by then, and cannot be taken back.
WINDOW = 64 * 1024


class _Write:
    """A message that the kernel does not have yet."""

    __slots__ = ("opcode", "payload", "result")

    def __init__(self, opcode: int, payload: bytes, result: Deferred[None]) -> None:
        self.opcode = opcode
        self.payload = payload
        self.result = result


class WriteQueue:
    """Sends each message once, in order, whatever becomes of the connection.

    A message that had not been handed to the kernel as a whole when its connection ended is sent again over the next one: no
    server can have seen all of it. A message that had been handed over may have been lost on the way, but is not sent again.

    Args:
        limit: bytes that may wait.
        oneByOne: whether the connection gets a message only once the kernel has the one before it. The kernel may take the end
            of one message and the beginning of the next together; so only this tells, when the connection breaks, which
            messages a server can have seen.

    Attributes:
        size: bytes that wait, including `CHARGE` for each message.
    """

    def __init__(self, limit: int, oneByOne: bool) -> None:
        self._limit = limit
        self._oneByOne = oneByOne
        self._writes: deque[_Write] = deque()
        self._sent = 0  # how many of the writes the connection has
        self._connection: ClientConnection | None = None
        self._end: ConnectionClosed | None = None
        self._first: int | None = None
        self._pumping = False
        self.size = 0

    @property
    def payload(self) -> int:
        """Bytes of the messages that wait."""
        return self.size - CHARGE * len(self._writes)

    def write(self, opcode: int, payload: bytes) -> Deferred[None]:
        """Queue a message.

        Returns:
            A Deferred that fires with None when the kernel has the message. It fails with `ConnectionClosed` if the kernel
            never will (a failure that need not be handled), or with `WriteBufferFull`. A message whose Deferred is cancelled
            before its turn is not sent.
        """
        if self._end is not None:
            return failedWrite(self._end)
        size = len(payload) + CHARGE
        if self._writes and self.size + size > self._limit:
            return fail(
                WriteBufferFull(
                    f"{self.size} bytes wait to be sent: await the writes, or allow more than writeBuffer={self._limit}"
                )
            )
        write = _Write(opcode, payload, Deferred(self._cancel))
        self.size += size
        if self._first is None:
            self._writes.append(write)
        else:
            self._writes.insert(self._first, write)
            self._first += 1
        self._pump()
        return write.result

    def attach(self, connection: ClientConnection) -> None:
        """Send what waits, and what is written from now on, over `connection`."""
        self._connection = connection
        self._pump()

    def detach(self) -> None:
        """Note that the connection is gone, and that each write it took has succeeded or failed."""
        self._connection = None
        self._sent = 0

    def putFirst(self, on: bool) -> None:
        """Between True and False: put what is written before all that waits; there must be no connection meanwhile."""
        self._first = 0 if on else None

    def flush(self) -> None:
        """Give everything to the connection, so that what the connection itself sends next comes after it."""
        self._pump(everything=True)

    def refuse(self, error: ConnectionClosed) -> None:
        """Take no more messages: later writes fail with `error`; what waits already is still sent."""
        self._end = error

    def end(self, error: ConnectionClosed) -> None:
        """Send nothing more: what waits fails with `error`."""
        self.refuse(error)
        writes, self._writes = self._writes, deque()
        self.size = 0
        for write in writes:
            if not write.result.called:
                failedWrite(error, write.result)

    def _cancel(self, result: Deferred[None]) -> None:
        for position, write in enumerate(self._writes):
            if write.result is result:
                if position >= self._sent:
                    self._drop(position)
                return

    def _drop(self, position: int) -> None:
        self.size -= len(self._writes[position].payload) + CHARGE
        del self._writes[position]

    def _pump(self, everything: bool = False) -> None:
        if self._pumping:
            return  # a Deferred that fired wrote more: the loop below takes it
        self._pumping = True
        try:
            while (connection := self._connection) is not None and self._sent < len(self._writes):
                if not (everything or (self._sent == 0 if self._oneByOne else connection.bufferedAmount() < WINDOW)):
                    break
                write = self._writes[self._sent]
                self._sent += 1
                connection.writeMessage(write.opcode, write.payload).addCallbacks(self._handed, self._lost)
        finally:
            self._pumping = False

    def _handed(self, _: None) -> None:
        # In the order in which they were sent.
        write = self._writes[0]
        self._sent -= 1
        self._drop(0)
        if not write.result.called:
            write.result.callback(None)
        self._pump()

    def _lost(self, failure: Failure) -> None:
        # The write stays where it is: `detach` or `end` follows.
        failure.trap(ConnectionClosed)
