"""One connection of a client, from the 101 to the end of its transport."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.client.errors import seconds
from twisted_ws.client.http.response import Response
from twisted_ws.client.websocket.autobahn import QuietClientProtocol, messageFrame
from twisted_ws.client.websocket.owner import ConnectionOwner
from twisted_ws.client.websocket.pings import Pings
from twisted_ws.errors import (
    ConnectionClosed,
    InternalError,
    TransportError,
    WebSocketError,
)
from twisted_ws.frames import maskedFrame
from twisted_ws.limits import Limits
from twisted_ws.logs import printable
from twisted_ws.message import CLOSE, PING, PONG
from twisted_ws.service import checkClose
from twisted_ws.wire.loop.backlog import Backlog
from twisted_ws.wire.loop.transports import abort, finishWriting, hasUnread, sending
from twisted_ws.wire.loop.wheel import Wheel
from twisted_ws.wire.websocket.keepalive import KeepAlive, Verdict
from twisted_ws.wire.websocket.outbox import Outbox, failedWrite
from twisted_ws.wire.websocket.states import CLOSE_SENT, CLOSED, CLOSING, FINISHING, INPUT_ENDED, LOST, OPEN, OPENED

# Autobahn copies the tail of what it has for each frame it takes, so many small frames in one large read cost quadratic time.
# This much may also be parsed after the reader has had enough.
FEED = 4096


class ClientConnection(QuietClientProtocol):
    """One open connection.

    Args:
        reactor: tells the time.
        limits: of which maxMessageSize, fragmentCharge, pingInterval, pingTimeout, replyBuffer, writeDeadline and closeDeadline
            apply.
        owner: told what comes.
        response: the answer to the handshake.
        subProtocol: the chosen one.
        deflate: the negotiated compression, or None.

    Attributes:
        response: as given.
        subProtocol: as given.
    """

    _log = Logger()

    _heard = 0  # bytes that came since the last keep-alive check
    _paused = False
    _parsing = False
    _isLost = False  # the transport is gone
    _ITS_CLOSE = "the server's Close"
    _TOO_BIG = "the server sent a message of more than %d bytes: a larger maxMessageSize would take it"
    _VIOLATION = "the server broke RFC 6455: %s"

    wheelSlot: int | None = None
    _ended = False
    _cause: TransportError | None = None
    _keepAlive: KeepAlive | None = None
    _outbox: Outbox

    def __init__(
        self, reactor: Any, limits: Limits, owner: ConnectionOwner, response: Response, subProtocol: str | None, deflate: Any
    ) -> None:
        super().__init__(limits)
        self.response = response
        self.subProtocol = subProtocol
        self._owner = owner
        self._deliver = owner.messageReceived
        self._deflate = deflate
        self._waiting = bytearray()  # read, but not parsed yet
        self._pings = Pings()
        self._wheel = Wheel(reactor)

    def connectionMade(self) -> None:
        """Enter OPEN: the 101 has been read."""
        self.begin(self._deflate)
        # No cap: the writer counts what may wait.
        self._outbox = Outbox(self, self.transport, self._wheel, Backlog(sys.maxsize), sys.maxsize, 0)
        self._state = OPENED[self._state]
        now = self._wheel.seconds()
        if self.limits.pingInterval:
            self._keepAlive = KeepAlive(now, self.limits.pingInterval)
        self._wheel.set(self, self._nextDeadline(now))

    # In.

    def dataReceived(self, data: bytes) -> None:
        """Parse what came, until the reader has had enough."""
        if self._state >= FINISHING:
            return
        self._heard += len(data)
        self._waiting += data
        self._parse()

    def _parse(self) -> None:
        if self._parsing:
            return  # the reader resumed from inside the loop below, which continues
        self._parsing = True
        try:
            while self._waiting and not self._paused and self._state < FINISHING:
                piece = bytes(self._waiting[:FEED])
                del self._waiting[:FEED]
                self.feed(piece)
        except Exception as error:
            # Nothing below should raise; if it does, the reactor's read loop must not get a traceback per chunk.
            self._log.failure("a connection failed inside the client", event="client.failed")
            self.fail(InternalError(f"{type(error).__name__} inside the client"))
        finally:
            self._parsing = False

    def _parseRest(self) -> None:
        """Deliver what came before the transport was lost, however far behind the reader is: it is at most one read."""
        self._isLost = True
        self._paused = False
        self._parse()

    def _onPing(self, payload: bytes) -> None:
        """Answer a ping, unless the user does so."""
        if self._state is OPEN and not self._owner.pingReceived(payload) and self._state is OPEN:
            # One pong for each ping, in order; for a server that does not read them only the newest (RFC 6455 section 5.5.3).
            few = self._outbox.size <= self.limits.replyBuffer
            (self._outbox.control if few else self._outbox.pong)(maskedFrame(PONG, payload))

    def _onPong(self, payload: bytes) -> None:
        """Take the answer to one of our pings; pass any other pong to the user."""
        if self._state is not OPEN:
            return
        now = self._wheel.seconds()
        if self._keepAlive is not None and self._keepAlive.answers(payload, now, self.limits.pingInterval):
            self._wheel.set(self, self._nextDeadline(now))
        elif not self._pings.answered(payload, now):
            self._owner.pongReceived(payload)

    # A reader that falls behind.

    def pauseReading(self) -> None:
        """Take no more bytes from the server until `resumeReading`."""
        if self._state is OPEN and not self._paused and not self._isLost:
            self._paused = True
            self.transport.pauseProducing()
            if not self._paused:  # a finaliser has ended the pause meanwhile
                self.transport.resumeProducing()

    def resumeReading(self) -> None:
        """Undo `pauseReading`."""
        if self._paused:
            self._paused = False
            self._parse()
            if not self._paused:  # still
                self.transport.resumeProducing()

    # Writing.

    def writeMessage(self, opcode: int, payload: bytes) -> Deferred[None]:
        """Send one message; the Deferred fires when the kernel has it, and fails with `ConnectionClosed` if it never will."""
        if self._state is not OPEN:
            return failedWrite(self._closed())
        return self._outbox.message(messageFrame(self._perMessageCompress, opcode, payload))

    def ping(self, payload: bytes) -> Deferred[float]:
        """Send a ping; the Deferred fires with the seconds until its pong, or fails with `ConnectionClosed`."""
        answered = self._pings.sent(payload, self._wheel.seconds())
        if self._state is OPEN:
            self._outbox.control(maskedFrame(PING, payload))
        else:
            self._pings.end(self._closed())
        return answered

    def pong(self, payload: bytes) -> Deferred[None]:
        """Send a pong; see `writeMessage` for the Deferred."""
        if self._state is not OPEN:
            return failedWrite(self._closed())
        handed: Deferred[None] = Deferred()
        self._outbox.control(maskedFrame(PONG, payload), handed)
        return handed

    def bufferedAmount(self) -> int:
        """Return how many bytes the kernel has not taken yet."""
        return self._outbox.size

    def isOpen(self) -> bool:
        """Return whether messages can be written."""
        return self._state is OPEN

    # The ends of a connection.

    def fail(self, error: WebSocketError) -> None:
        """Send Close with the code of `error`, and take no more input (RFC 6455 section 7.1.7)."""
        if self._state >= FINISHING:
            return
        self._failure = error
        if error.code is None:
            self.abort()
            self._end()
        else:
            self._answerClose(checkClose(error.code, error.reason))

    def _answerClose(self, payload: bytes) -> None:
        """Send Close with `payload`, unless one has gone, and take no more input.

        All this before the user is told: a user that hears of the end closes, perhaps with another code, which must not be sent.
        """
        if self._state is OPEN:
            self._state = CLOSE_SENT[self._state]
            # After a failure, or once the server has sent Close, no more messages are delivered to its application.
            self._outbox.clear(self._closed())
            self._outbox.last(maskedFrame(CLOSE, payload))
        self._finish()
        self._end()

    def startClose(self, payload: bytes, timeout: float) -> None:
        """Send what is queued, then Close, and wait at most `timeout` seconds for the server."""
        now = self._wheel.seconds()
        if self._state is OPEN:
            self._state = CLOSE_SENT[self._state]
            # Even without waiting for the server, what is queued gets time.
            deadline = self._closeDeadline()
            deadline.start(now, timeout or self.limits.closeDeadline)
            self._wheel.set(self, deadline.at)
            self._outbox.last(maskedFrame(CLOSE, payload))
            self.resumeReading()
            if timeout == 0:
                self._finish()
        elif (deadline := self._closeDeadline()).shorten(now, timeout):
            self._wheel.set(self, deadline.at)

    def _finish(self) -> None:
        """Let the last bytes go out, and wait for the server to hang up, until the deadline at the latest."""
        if self._state >= FINISHING:
            return
        self._state = INPUT_ENDED[self._state]
        self.resumeReading()
        deadline = self._closeDeadline()
        deadline.inputEnded(self._wheel.seconds(), self.limits.closeDeadline)
        self._wheel.set(self, deadline.at)
        if self._outbox.size == 0:
            self._hangUp()
        deadline.sending = sending(self.transport)

    def _hangUp(self) -> None:
        self._outbox.release()
        finishWriting(self.transport)

    def abort(self) -> None:
        """Drop the connection now, without a Close frame."""
        if self._state < CLOSED:
            if self._state < FINISHING:
                self._state = INPUT_ENDED[self._state]
            self._outbox.release()
            abort(self.transport)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008 - as Twisted declares it
        """Fail everything that waits."""
        self._parseRest()
        self._state = LOST[self._state]
        self._wheel.drop(self)
        if self._failure is None and not reason.check(ConnectionDone):
            self._cause = TransportError(f"the connection broke: {printable(reason.getErrorMessage())}")
        self._end()
        self._outbox.abandon(self._closed())
        self._owner.gone()

    def _end(self) -> None:
        """Tell the owner that nothing more will come."""
        if not self._ended:
            self._ended = True
            self._message = None
            self._waiting.clear()
            self._owner.ended(self._failure or self._closed())
            self._pings.end(self._closed())

    def _closed(self) -> ConnectionClosed:
        """Return the error that writes fail with, which has the code and reason of the connection's end."""
        error = ConnectionClosed(*self._endedWith())
        error.__cause__ = self._failure or self._cause
        return error

    # Deadlines.

    def deadlineReached(self, now: float) -> None:
        """Do what is due (called by the wheel)."""
        if self._state >= CLOSING:
            deadline = self._closeDeadline()
            if deadline.isOver(now, self.limits.writeDeadline, sending(self.transport)):
                self.abort()
            else:
                self._wheel.set(self, deadline.at)
            return
        if self._outbox.busy and now - self._outbox.progressAt >= self.limits.writeDeadline:
            self.fail(TransportError(f"the server has taken none of its waiting bytes for {seconds(self.limits.writeDeadline)}"))
            return
        if self._keepAlive is not None and self._keepAlive.dueAt <= now:
            self._ask(self._keepAlive, now)
        if self._state is OPEN:
            self._wheel.set(self, self._nextDeadline(now))

    def _nextDeadline(self, now: float) -> float:
        # At least once per write deadline, so that a stall is seen at most one turn late.
        due = (self._outbox.progressAt if self._outbox.busy else now) + self.limits.writeDeadline
        return max(min(due, self._keepAlive.dueAt) if self._keepAlive is not None else due, now)

    def _ask(self, keepAlive: KeepAlive, now: float) -> None:
        """Send a keep-alive ping, or judge a missing pong."""
        heard, self._heard = self._heard, 0
        # While reading pauses, the pong may be behind what is unread; otherwise any byte shows that the server is there.
        excused = self._paused or heard > 0
        timeout = self.limits.pingTimeout
        verdict = keepAlive.due(now, timeout, sending(self.transport), excused, hasUnread(self.transport))
        if verdict is Verdict.PING:
            handed: Deferred[None] = Deferred()
            handed.addCallbacks(
                lambda _: keepAlive.handed(self._wheel.seconds(), timeout, sending(self.transport)), lambda _: None
            )
            self._outbox.control(maskedFrame(PING, keepAlive.payload or b""), handed)
        elif verdict is Verdict.DEAD:
            self.fail(TransportError(f"the server sent no pong for {seconds(timeout)}: it is gone, or the network path to it is"))

    # OutboxOwner.

    def outboxOverflowed(self, atOnce: bool) -> None:
        """Do nothing: there is no cap."""

    def outboxEased(self) -> None:
        """Do nothing: reading does not wait for writing."""

    def outboxDrained(self) -> None:
        """Continue a close that waited for the last bytes."""
        if self._state is FINISHING:
            self._hangUp()
        elif self._state is CLOSING and not (deadline := self._closeDeadline()).isHanded:
            # From here on it is the server's turn.
            deadline.closeHanded(self._wheel.seconds(), self.limits.closeDeadline, sending(self.transport))
            self._wheel.set(self, deadline.at)
