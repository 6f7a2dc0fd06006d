"""A client's connection and its successors, with what waits on either side of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.client.options import Options
from twisted_ws.client.reads import ReadQueue
from twisted_ws.client.reconnector import Reconnector
from twisted_ws.client.websocket.connection import ClientConnection
from twisted_ws.client.writes import WriteQueue
from twisted_ws.errors import CloseCode, ConnectionClosed, WebSocketError

if TYPE_CHECKING:
    from twisted_ws.client.client import WebSocketClient

Dial = Callable[["Session"], Deferred[ClientConnection]]


class Session:
    """Owns a succession of connections (see `twisted_ws.client.websocket.owner.ConnectionOwner`).

    Args:
        reactor: tells the time.
        options: what was asked for.
        dial: makes one attempt to connect.
        renews: whether an attempt may have other credentials than the last.

    Attributes:
        client: the client for the handlers; set by the client.
        connection: the current connection, or the last one; None before the first.
        reads: the messages that came.
        writes: the messages that wait to be sent.
        closing: whether the client was told to close.
        isOver: whether there will be no more connections.
        introducing: fires with the first message of the connection that has just opened, or fails with its end; None: that
            is for the client.
    """

    _log = Logger()

    client: WebSocketClient

    def __init__(self, reactor: Any, options: Options, dial: Dial, renews: bool = False) -> None:
        self.connection: ClientConnection | None = None
        self.reads = ReadQueue(reactor, options.readBuffer, self._pause, self._resume)
        self.writes = WriteQueue(options.writeBuffer, oneByOne=options.retry is not None)
        self.options = options
        self.closing = False
        self.isOver = False
        self._reconnector = Reconnector(reactor, options.retry, lambda: dial(self), self._opened, self._over, renews)
        self._begun: Deferred[WebSocketClient] = Deferred()
        self._isAway = True  # no transport now
        self._hadMessage = False
        self._error: Exception = ConnectionClosed()  # of the last connection
        self._closeWaiters: list[Deferred[None]] = []
        self.introducing: Deferred[str | bytes] | None = None

    def start(self) -> Deferred[WebSocketClient]:
        """Connect; the Deferred fires with the client once it is open for the first time, or fails if it never will be."""
        self._reconnector.start()
        return self._begun

    def cancel(self, _: object) -> None:
        """Stop trying to open the first connection."""
        self._reconnector.stop()
        self._over(CancelledError())

    def close(self, payload: bytes, timeout: float) -> Deferred[None]:
        """Send what waits, then a Close frame with `payload`; the Deferred fires when closed."""
        self.closing = True
        self._reconnector.stop()
        error = ConnectionClosed(int.from_bytes(payload[:2], "big"), payload[2:].decode())
        if self._isAway or self.connection is None:
            self._over(error)
        else:
            self.writes.refuse(error)
            self.writes.attach(self.connection)  # not done yet if onReconnect closes
            self.writes.flush()
            self.connection.startClose(payload, timeout)
        return self.whenClosed()

    @property
    def isRefused(self) -> bool:
        """Whether the next attempt follows one whose credentials the server has refused."""
        return self._reconnector.hasRenewed

    def whenClosed(self) -> Deferred[None]:
        """Return a Deferred that fires when there will be no more connections."""
        closed: Deferred[None] = Deferred()
        if self.isOver:
            closed.callback(None)
        else:
            self._closeWaiters.append(closed)
        return closed

    # What the connection says (see `twisted_ws.client.websocket.owner.ConnectionOwner`).

    def messageReceived(self, message: str | bytes) -> None:
        """Keep a message for the next reader."""
        introducing, self.introducing = self.introducing, None
        if introducing is not None:
            if not introducing.called:
                introducing.callback(message)
            return
        self._hadMessage = True
        self.reads.put(message)

    def pingReceived(self, data: bytes) -> bool:
        """Call the handler, which then answers the ping itself."""
        handler = self.options.onPing
        if handler is None:
            return False
        self._call(handler, self.client, data)
        return True

    def pongReceived(self, data: bytes) -> None:
        """Call the handler."""
        if self.options.onPong is not None:
            self._call(self.options.onPong, self.client, data)

    def ended(self, error: ConnectionClosed | WebSocketError) -> None:
        """Note the reason; if no connection will follow, reads and writes end without waiting for the transport to go."""
        self._error = error
        if self.introducing is not None:
            return  # `gone` follows
        if self.closing or not self._reconnector.ended(error):
            self.reads.end(error)
            self.writes.refuse(_closed(error))

    def gone(self) -> None:
        """Reconnect, or end."""
        introducing, self.introducing = self.introducing, None
        if introducing is not None:
            if not introducing.called:
                introducing.errback(_closed(self._error))
            return
        self._isAway = True
        self.writes.detach()
        if self.closing:
            self._over(self._error)
        else:
            self._reconnector.lost(self._error, self._hadMessage)

    # Reconnector.

    def _opened(self, connection: ClientConnection) -> None:
        isFirst = self.connection is None
        self.connection = connection
        self._isAway = self._hadMessage = False
        if self.reads.paused:
            connection.pauseReading()
        if not isFirst and self.options.onReconnect is not None:
            # What it writes, to log in or to subscribe, must reach the server before everything that waits.
            self.writes.putFirst(True)
            self._call(self.options.onReconnect, self.client)
            self.writes.putFirst(False)
        self.writes.attach(connection)
        if isFirst:
            self._begun.callback(self.client)

    def _over(self, error: Exception) -> None:
        if self.isOver:
            return
        self.isOver = True
        self.reads.end(error)
        self.writes.end(_closed(error))
        waiters, self._closeWaiters = self._closeWaiters, []
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(None)
        if self.connection is None and not self._begun.called:
            self._begun.errback(Failure(error))

    # Backpressure.

    def _pause(self) -> None:
        assert self.connection is not None  # the message came from it
        self.connection.pauseReading()

    def _resume(self) -> None:
        assert self.connection is not None
        self.connection.resumeReading()

    def _call(self, handler: Callable[..., Any], *arguments: object) -> None:
        """Call the user's code: what it raises must not hurt the connection."""
        maybeDeferred(handler, *arguments).addErrback(
            lambda failure: self._log.failure("a handler of the client failed", failure, event="client.failed")
        )


def _closed(error: Exception) -> ConnectionClosed:
    """Return what writes fail with when `error` ended the connection."""
    if isinstance(error, ConnectionClosed):
        return error
    closed = ConnectionClosed((isinstance(error, WebSocketError) and error.code) or CloseCode.ABNORMAL)
    closed.__cause__ = error
    return closed
