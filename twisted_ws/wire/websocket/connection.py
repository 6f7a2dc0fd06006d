"""One WebSocket connection: Autobahn's callbacks in, guarded events out.

Autobahn decides what RFC 6455 and RFC 7692 allow. What it leaves open is decided here: when a connection ends and with
which code, how much it may hold, and when the peer is taken for dead. The opening handshake is not Autobahn's: by the time a
connection is made, the front door has read and judged the head (`twisted_ws.wire.frontdoor`).
"""

from __future__ import annotations

from math import inf

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.main import CONNECTION_LOST
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_ws.errors import (
    CloseCode,
    ConnectionClosed,
    InvalidPayload,
    MessageTooBig,
    ProtocolError,
    SlowConsumer,
    TransportError,
    WebSocketError,
)
from twisted_ws.frames import frame
from twisted_ws.logs import printable
from twisted_ws.message import PING, PONG
from twisted_ws.service import checkClose
from twisted_ws.wire.door.handshake import Accept
from twisted_ws.wire.lane.transport import LaneServer
from twisted_ws.wire.loop.memory import shareNames
from twisted_ws.wire.loop.transports import abort, finishWriting, isSecure, sending
from twisted_ws.wire.websocket.autobahn import serverOptions
from twisted_ws.wire.websocket.deflate import usableOffers
from twisted_ws.wire.websocket.events import ENDED
from twisted_ws.wire.websocket.keepalive import KeepAlive, Verdict
from twisted_ws.wire.websocket.outbound import Outbound
from twisted_ws.wire.websocket.outbox import SLICE, Outbox, getsOn
from twisted_ws.wire.websocket.shared import Welcome, Wire
from twisted_ws.wire.websocket.states import Phase

__all__ = ["WebSocketConnection", "connectionClass"]

CLOSE = 8
_LOST = str(CONNECTION_LOST)
_DONE = Failure(ConnectionDone())

# Bytes that excuse a peer in the middle of a frame from one pong: fewer, and it only keeps the connection busy.
UPLOAD = 512

# The module's: that of a class puts the instance into each event, and who keeps events would keep connections.
_log = Logger()


@implementer(IHalfCloseableProtocol)
class WebSocketConnection(Outbound):
    """One connection, from the 101 to the end of its transport.

    Made by the front door with a transport of which it has read the head. Implements `twisted_ws.connection.Connection` and
    `twisted_ws.connection.Connection`.

    Args:
        welcome: the answer to the handshake.
        admittedAs: the address that the gate has counted.
    """

    wheelSlot: int | None = None
    _closeAt = 0.0  # when to abort; counts from CLOSING on
    _closeBy = inf  # when to do so in any case
    _sending = 0, 0  # what the kernel had for the peer at the last look, from our Close on (see `sending`)
    _closeWaiters: tuple[Deferred[None], ...] = ()
    _closedByPeer = False
    _closeHanded = False
    _hasLeft = False  # those who write to many, and the service, know that nothing more can be written
    _lostFrom = Phase.OPEN
    _failure: WebSocketError | None = None
    _keepAlive: KeepAlive | None = None

    def __init__(self, welcome: Welcome, admittedAs: str) -> None:
        super().__init__()
        self._welcome: Welcome | None = welcome
        self._admittedAs: str | None = admittedAs  # until it is uncounted

    # The transport's side.

    def open(self, accept: Accept, early: bytes) -> None:
        """Write the 101 and enter OPEN.

        Args:
            accept: what the handshake said.
            early: what came after the head; the client should have waited, but it counts.
        """
        welcome = self._welcome
        assert welcome is not None
        offers = usableOffers(accept.extensions) if self.wire.compression else []
        self.phase = Phase.OPENING  # it has a place from here on: to note another one makes nothing, and no finaliser runs
        if early:
            self._rest, self._heard = bytearray(early), len(early)
        self.acceptHandshake(accept.key, welcome.subProtocol, offers, welcome.headers)
        if self._rest is not None:
            self._pause(self._FOR_OTHERS)  # nothing comes in between
            self._goOn()

    def _onOpen(self) -> None:
        # Autobahn has written the 101 and is in its own OPEN state; it would also ask TLS for a channel id here.
        welcome, self._welcome = self._welcome, None
        assert welcome is not None
        limits, wheel = self.wire.limits, self.wire.wheel
        self._events = welcome.attend(self)
        self._deliver = self._deliverWithinRate if limits.messageRate else self._events.messageReceived
        self._idleTimeout = welcome.idleTimeout
        now, missed = wheel.secondsAndMissed()
        self._unread = -missed if missed else 0.0  # which takes no memory
        if limits.pingInterval:
            self._keepAlive = KeepAlive(now, limits.pingInterval)
        # Only itself: a TLS transport above one would pass on what it is asked, and plain bytes with it.
        self._lane = self.transport if isinstance(self.transport, LaneServer) else None
        self._outbox = Outbox(self, self.transport, wheel, self.wire.backlog, limits.maxSendBuffer, limits.replyBuffer)
        self.sender = self._outbox.sender
        self.sender.lastData = now
        # All is made. What the peer sends in the middle of it, where a finaliser has the reactor turn, waits for onOpen; its end
        # leaves nothing to open.
        if self.phase is not Phase.OPENING:
            self._outbox.end(ConnectionClosed(*self._endedWith()))
            return
        self.phase = Phase.OPEN
        self.sender.open = self._lane is not None and self._lane.sender is not None and self._perMessageCompress is None
        wheel.set(self, self._nextDeadline(now))
        self._events.opened()
        if self._rest is None:
            self._setLane()

    # For an object without the next two Twisted looks for an adapter, and keeps what it found by the class, for ever. That of a
    # connection is its server's own.

    def readConnectionLost(self) -> None:
        """The peer has ended its side, and so the connection: after that no Close can come (RFC 6455 section 7.1.1)."""
        self.transport.connectionLost(_DONE)

    def writeConnectionLost(self) -> None:
        """All has been sent, and the peer has its turn."""

    def connectionLost(self, reason: Failure = _DONE) -> None:
        """End: every write that waits fails, and the service hears of it once; after a MemoryError the next call goes on."""
        if self.phase is not Phase.CLOSED:
            self._lostFrom = self.phase
            self.phase = Phase.CLOSED
        self.state = self.STATE_CLOSED
        self.wire.wheel.drop(self)
        admittedAs, self._admittedAs = self._admittedAs, None
        if admittedAs is not None:
            self.wire.gate.release(admittedAs)
        if self._lostFrom is Phase.OPENING:
            return  # a bug of ours, or no memory, which the front door has logged
        self._enter(Phase.CLOSED)
        self._message = self._rest = None
        self._kept = 0
        if self.counted:
            self._note()
        code, text = self._endedWith()
        self._outbox.end(ConnectionClosed(code, text))
        if (
            self._failure is None
            and self._lostFrom is not Phase.FINISHING
            and not self._closedByPeer
            and not isinstance(reason.value, ConnectionDone)
        ):
            why = _LOST if reason.value is CONNECTION_LOST else reason.getErrorMessage()
            self._tellFailed(TransportError(f"the connection broke: {why}"))
        self._events.closed(code, text)
        self._events, self._deliver = ENDED, ENDED.messageReceived
        waiters, self._closeWaiters = self._closeWaiters, ()
        for waiter in waiters:
            waiter.callback(None)

    def _endedWith(self) -> tuple[int, str]:
        """Return the code and reason of the connection's end: the peer's, or those it was failed with, else 1006."""
        if self._closedByPeer:
            code = self.remoteCloseCode
            return (CloseCode.NO_STATUS if code is None else code), self.remoteCloseReason or ""
        if self._failure is not None and self._failure.code is not None:
            return self._failure.code, self._failure.reason
        return CloseCode.ABNORMAL, ""

    # Control frames in.

    def onPing(self, payload: bytes) -> None:
        """Answer a ping, unless the service does."""
        if self.phase is not Phase.OPEN or not self._withinControlRate() or self._events.pingReceived(payload):
            return
        if self.phase is Phase.OPEN:  # still: the handler may have closed
            self._outbox.control(frame(PONG, payload))
            self._pauseForReplies()

    def onPong(self, payload: bytes) -> None:
        """Take the answer to a keep-alive ping; any other pong is the service's."""
        if self.phase is not Phase.OPEN or not self._withinControlRate():
            return
        now = self.wire.wheel.seconds()
        if self._keepAlive is not None and self._keepAlive.answers(payload, now, self.wire.limits.pingInterval):
            self.wire.wheel.set(self, self._nextDeadline(now))
            return
        self._events.pongReceived(payload)

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool:
        """Take the peer's Close, and answer it with its own code and reason (RFC 6455 section 5.5.1); Autobahn calls this.

        What still waits is dropped: a peer that has sent Close delivers nothing to its application any more.
        """
        try:
            payload = b"" if code is None else checkClose(code, "")
            reason = (reasonRaw or b"").decode()
        except UnicodeDecodeError:
            self.fail(InvalidPayload("the reason of its Close is not UTF-8"))
            return True
        except ValueError:
            self.fail(ProtocolError(f"its Close has the code {code}, which cannot be sent"))
            return True
        self.remoteCloseCode, self.remoteCloseReason = code, reason
        if self.phase is Phase.OPEN:
            self.state = self.STATE_CLOSING
            self._enter(Phase.CLOSING)
            self._outbox.clear(ConnectionClosed(CloseCode.NO_STATUS if code is None else code, reason))
            self._outbox.last(frame(CLOSE, payload + (reasonRaw or b"")))
        self._closedByPeer = True
        self._finish()
        return True

    # The ends of a connection.

    def _fail_connection(self, code: int = CloseCode.GOING_AWAY, reason: str = "") -> None:
        # Autobahn's one way to fail a connection.
        error = {
            CloseCode.INVALID_PAYLOAD: InvalidPayload,
            CloseCode.MESSAGE_TOO_BIG: MessageTooBig,
        }.get(CloseCode(code), ProtocolError)
        self.fail(error(reason))

    def fail(self, error: WebSocketError) -> None:
        """Tell the service of `error`, send Close with its code, and take no more input (RFC 6455 section 7.1.7)."""
        if self.phase < Phase.FINISHING and self._failure is None:
            try:
                self._failWith(error)
            except Exception:
                self._abort()
                _log.failure("a connection failed at its end")

    def _failWith(self, error: WebSocketError) -> None:
        self._tellFailed(error)
        if self.phase >= Phase.FINISHING:
            return  # onError saw to it
        self._message = None
        self._note()
        if error.code is None:
            self._abort()
            return
        if isinstance(error, SlowConsumer):
            self._outbox.clear(ConnectionClosed(error.code, error.reason))
        if self.phase is Phase.OPEN:
            self._outbox.last(frame(CLOSE, checkClose(error.code, error.reason)))
        self._finish()

    def mayLog(self, kind: str) -> bool:
        """Say whether one more line of this kind may be written (see `twisted_ws.connection.Connection`)."""
        return self.wire.throttle.allows(_log, kind)

    def _tellFailed(self, error: WebSocketError) -> None:
        self._failure = error
        if self.wire.throttle.allows(_log, "connection failed" if error.code is None else f"failed with {int(error.code)}"):
            code = "no close frame" if error.code is None else int(error.code)
            _log.info("{peer}: {error} ({code})", peer=self._events.peer(), error=printable(error), code=code)
        self._events.failed(error)

    def _enter(self, phase: int) -> None:
        """Go on to `phase`; who leaves OPEN has no lane any more, and is no caller for others."""
        self.phase = phase
        if not self._hasLeft:
            self._heard = 0
            self.sender.open = False
            self._setLane()
            self._events.closing()
            self._hasLeft = True

    def _finish(self) -> None:
        """Let the last bytes go out, then close; the deadline sees to it that this ends."""
        if self.phase >= Phase.FINISHING:
            return
        wasClosing = self.phase is Phase.CLOSING
        self._enter(Phase.FINISHING)
        self.state = self.STATE_CLOSING
        self._resumeAll()
        self._outbox.isAwaited = True
        deadline = self.wire.wheel.seconds() + self.wire.limits.closeDeadline
        self._closeAt = min(self._closeAt, deadline) if wasClosing and self._closeAt else deadline
        self.wire.wheel.set(self, self._closeAt)
        if self._outbox.size == 0:
            self._hangUp()
        self._sending = sending(self.transport)

    def _hangUp(self) -> None:
        self._outbox.release()
        if self._closedByPeer:
            # Both have said Close, so nothing unread is left: the server closes first (RFC 6455 section 7.1.1).
            self.transport.loseConnection()
        else:
            finishWriting(self.transport)

    def _abort(self) -> None:
        if self.phase < Phase.CLOSED:
            try:
                self._enter(Phase.FINISHING)
                self.state = self.STATE_CLOSED
                self._outbox.release()
                self._outbox.abandon(ConnectionClosed(*self._endedWith()))
            finally:
                abort(self.transport)

    def abort(self) -> None:
        """Drop the connection now, without a Close frame."""
        self._abort()

    # Deadlines.

    def deadlineReached(self, now: float) -> None:
        """Do what is due; called by the wheel."""
        try:
            self._doDue(now)
        except Exception as error:
            self._failInside(error)  # nothing is due any more

    def _doDue(self, now: float) -> None:
        if self.phase >= Phase.CLOSING:
            # Its Close may be there already; after a violation nobody waits for one.
            if now >= self._closeAt and (self.phase is Phase.FINISHING or self._hasHeardEnough() or not self._hasUnread()):
                before, self._sending = self._sending, sending(self.transport)
                if now >= self._closeBy or not getsOn(before, self._sending):
                    self._abort()
                    return
                self._closeAt = min(now + self.wire.limits.writeDeadline, self._closeBy)
        elif self._outbox.busy and now - self._outbox.progressAt >= self.wire.limits.writeDeadline:
            self.fail(TransportError(f"it took none of the bytes that wait for {self.wire.limits.writeDeadline:g} seconds"))
            return
        else:
            if self._keepAlive is not None and self._keepAlive.dueAt <= now:
                self._ask(self._keepAlive, now)
            if (
                self.phase is Phase.OPEN
                and self._idleTimeout
                and now - self.sender.lastData >= self._idleTimeout
                and not self._hasUnread()
            ):
                self.sender.lastData = now
                self._events.idle()
        if self.phase < Phase.CLOSED and self.wheelSlot is None:
            self.wire.wheel.set(self, self._nextDeadline(now))

    def _nextDeadline(self, now: float) -> float:
        if self.phase >= Phase.CLOSING:
            return max(self._closeAt, now)
        # At least once in every write deadline, so that no stall is seen more than a turn late.
        due = (self._outbox.progressAt if self._outbox.busy else now) + self.wire.limits.writeDeadline
        if self._keepAlive is not None:
            ping = self._keepAlive.dueAt
            due = ping if ping < due else due
        if self._idleTimeout:
            idle = self.sender.lastData + self._idleTimeout
            due = idle if idle < due else due
        return due if due > now else now

    def _ask(self, keepAlive: KeepAlive, now: float) -> None:
        """Send a keep-alive ping, or judge the one that is not answered."""
        heard, self._heard = self._heard, 0
        kernel = sending(self.transport)
        excused = bool(
            # We do not read what it sends; but its machine has taken what we sent.
            (self._pauses and not kernel[0])
            # It is in the middle of a frame, where no pong can stand, and gets on with it.
            or (heard >= UPLOAD and self.current_frame is not None)
        )
        timeout = self.wire.limits.pingTimeout
        verdict = keepAlive.due(now, timeout, kernel, excused, self._hasUnread())
        if verdict is Verdict.PING:
            handed: Deferred[None] = Deferred()
            self._outbox.control(frame(PING, keepAlive.payload or b""), handed)
            if handed.called:
                keepAlive.handed(now, timeout)
            else:
                wheel, transport = self.wire.wheel, self.transport
                handed.addCallback(lambda _: keepAlive.handed(wheel.seconds(), timeout, sending(transport)))
            handed.addErrback(lambda _: None)
        elif verdict is Verdict.DEAD:
            self.fail(TransportError(f"no pong for {timeout:g} seconds"))

    # What the outbox says.

    def outboxOverflowed(self, atOnce: bool) -> None:
        """Close 1013, unless what waits elsewhere gives way: the peer comes back when it can keep up."""
        if self._makeRoom is not None and not atOnce:
            self._makeRoom()
        elif self.phase is Phase.OPEN:
            self.fail(SlowConsumer(f"{self._outbox.size} bytes wait for it"))
        if atOnce and self._outbox.size > SLICE:
            # A large frame was begun, no Close can come before its end, and the memory is wanted now.
            self._abort()

    def outboxDrained(self) -> None:
        """Go on with a close that waited for the last bytes."""
        if self.phase is Phase.CLOSING:
            self._closeFrameHanded()
        elif self.phase is Phase.FINISHING:
            self._hangUp()

    def _closeFrameHanded(self) -> None:
        # From here on it is the peer's turn.
        if not self._closeHanded:
            self._closeHanded = True
            now = self.wire.wheel.seconds()
            self._closeAt = min(self._closeAt, now + self.wire.limits.closeDeadline)
            self.wire.wheel.set(self, self._closeAt)
            self._sending = sending(self.transport)

    # Link: what a caller asks.

    def startClose(self, payload: bytes, timeout: float) -> Deferred[None]:
        """Begin the closing handshake (see `twisted_ws.connection.Connection`)."""
        if self._fanOuts.pending:
            self._catchUp()
        closed: Deferred[None] = Deferred()
        if self.phase is Phase.CLOSED:
            closed.callback(None)
            return closed
        self._closeWaiters += (closed,)
        try:
            self._startClose(payload, timeout)
        except MemoryError:
            self._abort()
        return closed

    def _startClose(self, payload: bytes, timeout: float) -> None:
        now = self.wire.wheel.seconds()
        if self.phase is Phase.OPEN:
            self._enter(Phase.CLOSING)
            # Autobahn: the next Close of the peer is the answer to ours.
            self.state = self.STATE_CLOSING
            self._resumeAll()
            # Without a wait for the peer there is still one for what is queued.
            self._closeAt = self._closeBy = now + (timeout or self.wire.limits.closeDeadline)
            self.wire.wheel.set(self, self._closeAt)
            self._outbox.isAwaited = True
            self._outbox.last(frame(CLOSE, payload))
            if self._outbox.size == 0:
                self._closeFrameHanded()
            if timeout == 0:
                self._finish()
        else:
            self._closeBy = min(self._closeBy, now + timeout)
            if self._closeBy < self._closeAt:
                self._closeAt = self._closeBy
                self.wire.wheel.set(self, self._closeAt)

    def isSecure(self) -> bool:
        """Say whether the connection has TLS."""
        return isSecure(self.transport)


# What every connection has, and what Autobahn gives those that have sent it a ping or a part of a message.
_NAMES = (
    *("_welcome", "_admittedAs", "connected", "transport", "state", "_outbox", "_events", "phase", "_idleTimeout"),
    *("_unread", "_keepAlive", "wheelSlot", "_deliver", "_lane", "sender", "_heard", "utf8validator", "data"),
    *("current_frame_masker", "current_frame", "inside_message", "_isMessageCompressed", "utf8validateIncomingCurrentMessage"),
    *("utf8validateLast", "message_is_binary", "message_data_total_length", "_message", "control_frame_data", "_controlRate"),
)


def connectionClass(wire: Wire) -> type[WebSocketConnection]:
    """Return the class of the connections of one server."""
    options = serverOptions(wire.limits, wire.reactor)
    own = {"wire": wire, "_wheel": wire.wheel, "_fanOuts": wire.fanOuts, "laneMaximum": wire.limits.maxMessageSize}
    return shareNames(type("WebSocketConnection", (WebSocketConnection,), {**options, **own}), _NAMES)
