"""One WebSocket connection: Autobahn's callbacks in, guarded events out.

Autobahn decides what RFC 6455 and RFC 7692 allow. The rest is decided here: when a connection ends and with which code, how much
it may hold, and when its peer counts as dead. Autobahn has no part in the opening handshake: before a connection is made, the
front door has read and judged the head (`twisted_ws.wire.frontdoor`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from autobahn.websocket.protocol import WebSocketProtocol
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.main import CONNECTION_LOST
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_ws import logs
from twisted_ws.closecodes import codeName
from twisted_ws.errors import (
    ConnectionClosed,
    InternalError,
    Overloaded,
    PolicyViolation,
    SlowConsumer,
    TransportError,
    WebSocketError,
)
from twisted_ws.frames import FIN, OutgoingMessage, frame
from twisted_ws.logs import printable
from twisted_ws.message import CLOSE, PING, PONG, TEXT, textPayload
from twisted_ws.service import checkClose
from twisted_ws.wire.door.handshake import Accept
from twisted_ws.wire.lane.transport import LaneServer
from twisted_ws.wire.loop.keysharing import shareKeys
from twisted_ws.wire.loop.rate import Rate
from twisted_ws.wire.loop.transports import abort, finishWriting, hasUnread, isSecure, sending
from twisted_ws.wire.loop.turns import QUANTUM
from twisted_ws.wire.speedups import NEVER, split
from twisted_ws.wire.websocket.autobahn import QuietServerProtocol, serverOptions
from twisted_ws.wire.websocket.deflate import compressedFrame, usableOffers
from twisted_ws.wire.websocket.keepalive import KeepAlive, Verdict
from twisted_ws.wire.websocket.outbox import SLICE, Outbox, failedWrite
from twisted_ws.wire.websocket.receiver import ENDED, EventReceiver
from twisted_ws.wire.websocket.runtime import Runtime
from twisted_ws.wire.websocket.states import (
    CLOSE_SENT,
    CLOSED,
    CLOSING,
    CONNECTING,
    FINISHING,
    INPUT_ENDED,
    LOST,
    OPEN,
    OPENED,
    State,
)
from twisted_ws.wire.websocket.welcome import Welcome

# Autobahn copies the tail of what it has for each frame it takes, so many small frames in one large read cost quadratic time.
FEED = 4096

# A read may hold tens of thousands of small frames, each with a handler to call. After this many bytes of common frames, or after
# one frame, the connection checks whether others wait for their turn (see `wire.loop.turns`); a shorter read never waits.
PIECE = 512
# The cost in steps of a message, and of one step of Autobahn's parser, which needs two for a small frame; it stops for the check.
MESSAGE = 4
PARSING = 4

# Fewer unhandled bytes than this are not counted: the connection itself costs more.
SMALL = 1024

HEADER = 14  # bytes of the longest frame header (RFC 6455 section 5.2)


# A peer that sent this many bytes in the middle of a frame is excused from one pong; fewer only keep the connection busy.
UPLOAD = 512

_LOST = str(CONNECTION_LOST)
_DONE = Failure(ConnectionDone())

# A logger on the class would put the instance into each event, so code that keeps events would keep connections.
_log = Logger()


class SharedRate(Protocol):
    """Counts a connection's messages with those of others."""

    @property
    def rate(self) -> int:
        """Return how many may come in a second."""

    def within(self, unread: float) -> bool:
        """Count one more message, and return whether it may come.

        Args:
            unread: seconds in which nothing was read, in total; only differences count.
        """


@implementer(IHalfCloseableProtocol)
class WebSocketConnection(QuietServerProtocol):
    """One connection, from the 101 to the end of its transport.

    The front door makes it after reading the request head. Implements `twisted_ws.connection.Connection`.

    Args:
        runtime: what it shares with the server's other connections.
        welcome: the answer to the handshake.
        admittedAs: the address that the gate counted.

    Attributes:
        sharedRate: counts its messages with those of others; None: they are not counted so. It is set before it opens.
    """

    # What is looked at most: faster than a default of the class, and not among the names that connections share (`_NAMES`).
    __slots__ = ("_failure", "_hasLeft", "_lostFrom", "_state", "runtime")

    _receiver: EventReceiver
    _lane: LaneServer | None = None  # the transport, if it has a lane
    sender: Any = NEVER  # sends frames straight to the socket; also notes when data last came or went
    laneMaximum: int  # bytes of a message
    _heard = 0  # bytes outside the lane since the last check, or all bytes since our Close
    _pauses = 0
    counted = 0  # bytes that `Runtime.intake` counts for this connection
    _kept = 0  # bytes in `_rest`, and those that Autobahn has not parsed yet
    _unhandled = 0  # bytes that wait for a handler
    _unread = 0.0  # seconds in which we did not read, minus what the wheel had missed when the connection opened
    _rest: bytearray | None = None  # received bytes that wait for another turn
    _controlRate: Rate | None = None
    _messageRate: Rate | None = None
    sharedRate: SharedRate | None = None
    _outbox: Outbox
    _whenEased: Callable[[], None] | None = None  # called when the kernel has taken some of the waiting bytes
    _makeRoom: Callable[[], None] | None = None  # called when too much waits
    wheelSlot: int | None = None
    _reminder: tuple[float, Callable[[], None]] | None = None  # what is called at which moment
    _closeWaiters: tuple[Deferred[None], ...] = ()
    _hasLeft: bool  # whether fan-outs and the service know that nothing more can be written
    _lostFrom: State  # in which the transport was lost
    _keepAlive: KeepAlive | None = None

    def __init__(self, runtime: Runtime, welcome: Welcome, admittedAs: str) -> None:
        super().__init__()
        self._welcome: Welcome | None = welcome
        self._admittedAs: str | None = admittedAs  # until the gate has released it
        self.runtime = runtime
        self._state, self._lostFrom = CONNECTING, OPEN
        self._failure: WebSocketError | None = None
        self._hasLeft = False

    # The transport's side.

    def open(self, accept: Accept, early: bytes) -> None:
        """Write the 101 and enter OPEN.

        Args:
            accept: the outcome of the handshake.
            early: bytes received after the head; the client should have waited, but they count.
        """
        welcome = self._welcome
        assert welcome is not None
        offers = usableOffers(accept.extensions) if self.runtime.compression else []
        if early:
            self._rest, self._heard = bytearray(early), len(early)
        self.acceptHandshake(accept.key, welcome.subProtocol, offers, welcome.headers)
        if self._rest is not None:
            self._pause(self._FOR_OTHERS)  # so that nothing overtakes it
            self._goOn()

    def _onOpen(self) -> None:
        # The 101 is written. Autobahn would also ask TLS for a channel id here.
        welcome, self._welcome = self._welcome, None
        assert welcome is not None
        runtime = self.runtime
        limits, wheel = runtime.limits, runtime.wheel
        runtime.counts.opened.add("websocket", welcome.path)
        self._receiver = welcome.attend(self)
        self._deliver = self._delivery()
        self._idleTimeout = welcome.idleTimeout
        now, missed = wheel.secondsAndMissed()
        self._unread = -missed if missed else 0.0  # the constant takes no memory
        if limits.pingInterval:
            self._keepAlive = KeepAlive(now, limits.pingInterval)
        # Not a TLS transport above a lane: it would pass calls on to the lane, and plain bytes with them.
        self._lane = self.transport if isinstance(self.transport, LaneServer) else None
        self._outbox = Outbox(self, self.transport, wheel, runtime.backlog, limits.maxSendBuffer, limits.replyBuffer)
        self.sender = self._outbox.sender
        self.sender.lastData = now
        # Everything is made. A finaliser may have run the reactor meanwhile: what the peer sent waits for onOpen;
        # if it left, there is nothing to open.
        if self._state is not CONNECTING:
            self._outbox.end(ConnectionClosed(*self._endedWith()))
            return
        self._state = OPENED[self._state]
        self.sender.open = self._lane is not None and self._lane.sender is not None and self._perMessageCompress is None
        wheel.set(self, self._nextDeadline(now))
        if logs.details:
            self._tellOpened()
        self._receiver.opened()
        if self._rest is None:
            self._setLane()

    def passOn(self, attend: Callable[[WebSocketConnection], EventReceiver], idleTimeout: float) -> Callable[[str | bytes], None]:
        """Let another receiver have the events from now on, as if the connection had just opened; return where messages go.

        Args:
            attend: makes the receiver (see `Welcome`).
            idleTimeout: the service's, seconds; 0: none.
        """
        self._receiver = receiver = attend(self)
        self._deliver = self._delivery()
        self._idleTimeout = idleTimeout
        self.runtime.wheel.set(self, self._nextDeadline(self.runtime.wheel.seconds()))
        receiver.opened()
        if self._rest is None and self._state is OPEN:
            self._setLane()
        return self._deliver

    def replaceReceiver(self, receiver: EventReceiver) -> None:
        """Let another receiver have the events from now on, which passes them to the one before, or is that one."""
        self._receiver = receiver
        self._deliver = self._delivery()
        if self._rest is None and self._state is OPEN:
            self._setLane()

    def _delivery(self) -> Callable[[str | bytes], None]:
        isCounted = self.limits.messageRate or self.sharedRate is not None
        return self._deliverWithinRate if isCounted else self._receiver.messageReceived

    # Without the next two methods Twisted would look for an adapter and cache the result by class forever; each server has its
    # own class.

    def readConnectionLost(self) -> None:
        """The peer has ended its side, which ends the connection: no Close can follow (RFC 6455 section 7.1.1)."""
        self.transport.connectionLost(_DONE)

    def writeConnectionLost(self) -> None:
        """Everything has been sent; it is the peer's turn."""

    def connectionLost(self, reason: Failure = _DONE) -> None:
        """Fail all waiting writes and tell the service, once; after a MemoryError the next call continues."""
        if self._state is not CLOSED:
            self._lostFrom = self._state
            self._state = LOST[self._state]
        runtime = self.runtime
        runtime.wheel.drop(self)
        admittedAs, self._admittedAs = self._admittedAs, None
        if admittedAs is not None:
            runtime.gate.release(admittedAs)
        if self._lostFrom is CONNECTING:
            return  # a bug of ours, or a lack of memory, which the front door has logged
        self._leave()
        # A default of the class is not set again: its name would take a place in the table that connections share.
        self._message = None
        if self._rest is not None:
            self._rest = None
        if self._kept:
            self._kept = 0
        if self.counted:
            self._note()
        code, text = self._endedWith()
        self._outbox.end(ConnectionClosed(code, text))
        if (
            self._failure is None
            and self._lostFrom is not FINISHING
            and self._peersClose is None
            and not isinstance(reason.value, ConnectionDone)
        ):
            why = _LOST if reason.value is CONNECTION_LOST else reason.getErrorMessage()
            self._tellFailed(TransportError(f"the connection broke: {why}"))
        if logs.details:
            self._tellClosed(code, text)
        self._receiver.closed(code, text)
        if self._receiver is not ENDED:  # it has not been here before
            failure = self._failure
            by = "server" if self._closeWaiters or (failure is not None and failure.code is not None) else "peer"
            runtime.counts.closed.add("websocket", codeName(code), by)
        self._receiver, self._deliver = ENDED, ENDED.messageReceived
        if self._reminder is not None:
            self._reminder = None
        if self._closeWaiters:
            waiters, self._closeWaiters = self._closeWaiters, ()
            for waiter in waiters:
                waiter.callback(None)

    # In.

    def dataReceived(self, data: bytes) -> None:
        """Handle what came, now or in a later turn."""
        self._heard += len(data)
        self.runtime.counts.receivedBytes += len(data)
        if self._state is not OPEN:
            if self._state is CONNECTING:
                if self._rest is None:
                    self._rest = bytearray()
                self._rest += data
                return
            if self._hasHeardEnough():
                self.transport.pauseProducing()
            if self._state >= FINISHING:
                return
        if self._rest is not None:
            self._rest += data
        elif self.runtime.taking and self._isTaking():
            self._rest = bytearray(data)  # a handler or a finaliser ran the reactor
        else:
            self._take(data)
        if self._message is not None or self.counted:
            self._note()

    def _hasHeardEnough(self) -> bool:
        """Return whether the peer has sent more, after our Close, than a peer that has not read the Close yet.

        Then reading stops: going on forever serves nobody, and dropping the connection now would cause a reset that could destroy
        the Close on its way. The peer has until the deadline to read it; while we wait for its Close, it may finish a message.
        """
        limits = self.limits
        return self._heard > limits.lingerBytes + (limits.maxMessageSize if self._state is CLOSING else 0)

    def _note(self) -> None:
        """Count the received bytes that are incomplete or not handled yet."""
        count = self._kept + self._unhandled + (0 if self._message is None else len(self._message))
        if count < SMALL:
            count = 0
        intake = self.runtime.intake
        if count != self.counted:
            intake.note(self, count)
            intake.relieve()

    def giveWay(self) -> None:
        """Fail: all peers together have sent too much, and this one the most (see `Backlog`)."""
        self.fail(Overloaded(f"{self.counted} bytes from it are incomplete or not handled yet"))

    def waits(self, size: int) -> None:
        """Count the messages that wait for a handler (see `twisted_ws.connection.Connection`)."""
        self._unhandled = size
        self._note()

    def _take(self, data: bytes | bytearray) -> None:
        """Handle what came until this turn of the reactor is over, or until it is the turn of others that wait."""
        runtime, turns = self.runtime, self.runtime.turns
        at, outermost = 0, False
        before = runtime.taking
        runtime.taking = self, before
        try:
            outermost = turns.begin()
            share = turns.share()
            isLittle = len(data) + len(self.data) <= PIECE
            while at < len(data) or self._hasUnparsed():
                if not isLittle and turns.isOver(share):
                    if isinstance(data, bytearray):
                        del data[:at]  # moves nothing
                    else:
                        data = bytearray(data[at:])
                    if self._rest is not None:
                        data += self._rest  # which came meanwhile
                    self._rest = data
                    break
                at += self._takeSome(data, at)
                if self._state >= FINISHING:
                    break
            else:
                if self._rest is None:
                    self._setLane()
        except Exception as error:
            # Nothing below should raise; if it does, the reactor's read loop must not get a traceback per chunk.
            self._failInside(error)
        finally:
            runtime.taking = before
            if outermost:
                turns.end()
        if self._rest is not None:
            self._keep(self._rest)

    def _isTaking(self) -> bool:
        """Return whether earlier input is being handled at this moment."""
        taking = self.runtime.taking
        while taking and taking[0] is not self:
            taking = taking[1]
        return bool(taking)

    def _failInside(self, error: Exception) -> None:
        """End the connection: our own code failed, with its work half done."""
        wasFinishing = self._state >= FINISHING
        try:
            self.fail(InternalError(f"{type(error).__name__} inside the server"))
            _log.failure("a connection failed inside the server", event="connection.broken")
        finally:
            if wasFinishing or self._state < FINISHING:
                self.abort()

    def _takeSome(self, data: bytes | bytearray, at: int) -> int:
        """Handle the next bytes, from `at` on; return how many."""
        turns = self.runtime.turns
        if self._expectsFrame():
            size = 0
            if len(data) - at > PIECE:
                # The first frame may be larger.
                size = data[at + 1] & 0x7F
                if size >= 126:
                    size = int.from_bytes(data[at + 2 : at + (4 if size == 126 else 10)], "big")
            messages, taken = split(bytes(data[at : at + max(PIECE, size + HEADER)]), self.laneMaximum)
            if taken:
                turns.left -= MESSAGE * len(messages)
                self.runtime.counts.received += len(messages)
                self.framesReceived(messages)
                return taken
        piece = b"" if self._hasUnparsed() else bytes(data[at : at + FEED])
        self.feed(piece)
        return len(piece)

    def _hasUnparsed(self) -> bool:
        """Return whether Autobahn was stopped (see `processData`): by itself it leaves less than a header."""
        return len(self.data) >= HEADER

    def _keep(self, rest: bytearray) -> None:
        """Keep the rest for another turn; reading pauses until then."""
        self._kept = len(rest) + len(self.data)
        if self._lane is not None:
            self._lane.setLane(None)
        self._pause(self._FOR_OTHERS)
        self.runtime.turns.later(self._goOn)
        self._note()

    def _goOn(self) -> None:
        if self._isTaking():
            return  # the loop that is handling it takes the rest, too
        rest, self._rest = self._rest, None
        self._kept = 0
        try:
            if rest is not None and self._state < FINISHING:
                self._take(rest)
            if self._rest is None:
                self._resume(self._FOR_OTHERS)
            self._note()
        except Exception as error:
            self._failInside(error)

    # The lane: common frames bypass Autobahn, on any transport.

    def _expectsFrame(self) -> bool:
        """Return whether the next byte begins a new message, whose frame may bypass Autobahn."""
        return (
            self._state is OPEN
            and self.current_frame is None
            and not self.inside_message
            and not self.data
            and self._perMessageCompress is None
        )

    def _setLane(self) -> None:
        """Let the transport deliver messages itself while a new one is expected, if it can."""
        if self._lane is not None:
            self._lane.setLane(self._deliver if self._expectsFrame() else None, self.laneMaximum)

    def framesReceived(self, messages: list[str | bytes]) -> None:
        """Deliver the messages of common frames."""
        self.sender.lastData = self.runtime.wheel.now
        deliver = self._deliver
        for message in messages:
            if self._state is not OPEN:
                return
            deliver(message)

    def _deliverWithinRate(self, message: str | bytes) -> None:
        limit, shared = self.limits.messageRate, self.sharedRate
        if limit:
            if self._messageRate is None:
                self._messageRate = Rate()
            if not self._isWithin(self._messageRate, limit):
                self.fail(PolicyViolation(f"more than {limit} messages a second", "too many messages"))
                return
        if shared is not None and not shared.within(self._notRead(self.runtime.reactor.seconds())):
            whose = f"more than {shared.rate} messages a second of one user or address"
            self.fail(PolicyViolation(whose, "too many messages"))
            return
        self._receiver.messageReceived(message)

    # Everything else: Autobahn.

    def processData(self) -> bool:
        """Parse one step; return False when Autobahn needs more bytes, or it is time to check whether others wait."""
        turns = self.runtime.turns
        turns.left -= PARSING
        if turns.left % QUANTUM < PARSING and self._hasUnparsed():
            return False
        return WebSocketProtocol.processData(self)

    def _onMessageFrameEnd(self) -> None:
        """Note that data came."""
        self.sender.lastData = self.runtime.wheel.now

    def _onMessageEnd(self) -> None:
        """Deliver a whole message."""
        self.runtime.counts.received += 1
        super()._onMessageEnd()

    def _isWithin(self, rate: Rate, limit: int) -> bool:
        now = self.runtime.reactor.seconds()
        return rate.within(limit, now, self.runtime.wheel.missedUntil(now) + self._notRead(now))

    def _notRead(self, now: float) -> float:
        """Return the seconds in which nothing was read."""
        # A pause counts up to now: what waits for its turn is handled before the pause ends.
        return self._unread + now if self._pauses else self._unread

    # Reading pauses for three independent reasons.

    _FOR_HANDLER = 1
    _FOR_REPLIES = 2
    _FOR_OTHERS = 4

    def pauseReading(self) -> None:
        """Take no more bytes from the peer until `resumeReading`."""
        self._pause(self._FOR_HANDLER)

    def resumeReading(self) -> None:
        """Undo `pauseReading`."""
        self._resume(self._FOR_HANDLER)

    # In the middle of each of these a finaliser may turn the reactor, which undoes it. So the change is noted first, and what the
    # transport was told is checked afterwards.

    def _pause(self, why: int) -> None:
        if self._state is not OPEN and why != self._FOR_OTHERS:
            return
        now = self.runtime.reactor.seconds()
        unread = self._unread - now  # correct again after the pause
        before = self._pauses
        self._pauses |= why
        if not before:
            self._unread = unread
            self.transport.pauseProducing()
            if not self._pauses:
                self.transport.resumeProducing()

    def _resume(self, why: int) -> None:
        if self._pauses & why:
            now = self.runtime.reactor.seconds()
            unread = self._unread + now
            left = self._pauses & ~why
            if self._pauses and not left:
                self._unread = unread
            self._pauses = left
            if not left:
                self._readOn()

    def _resumeAll(self) -> None:
        # A closing connection must hear the peer's Close and the end of its stream; messages no longer count, so none pile up.
        if self._pauses:
            self._pauses = 0
            self._readOn()

    def _readOn(self) -> None:
        self.transport.resumeProducing()
        if self._pauses:
            self.transport.pauseProducing()

    def _hasUnread(self) -> bool:
        """Return whether anything from the peer waits to be read, here or in the kernel."""
        return self._rest is not None or hasUnread(self.transport)

    # Control frames in.

    def _withinControlRate(self) -> bool:
        if self._controlRate is None:
            self._controlRate = Rate()
        limit = self.limits.controlRate
        if self._isWithin(self._controlRate, limit):
            return True
        self.fail(PolicyViolation(f"more than {limit} control frames a second", "too many control frames"))
        return False

    def _onPing(self, payload: bytes) -> None:
        """Answer a ping, unless the service does so."""
        if self._state is not OPEN or not self._withinControlRate() or self._receiver.pingReceived(payload):
            return
        if self._state is OPEN:  # still: the handler may have closed
            self._outbox.control(frame(PONG, payload))
            self._pauseForReplies()

    def _onPong(self, payload: bytes) -> None:
        """Take the answer to a keep-alive ping; pass any other pong to the service."""
        if self._state is not OPEN or not self._withinControlRate():
            return
        now = self.runtime.wheel.seconds()
        if self._keepAlive is not None and self._keepAlive.answers(payload, now, self.limits.pingInterval):
            self.runtime.wheel.set(self, self._nextDeadline(now))
            return
        self._receiver.pongReceived(payload)

    def _answerClose(self, payload: bytes) -> None:
        """Answer the peer's Close.

        Everything that waits is dropped: a peer that has sent Close delivers nothing more to its application.
        """
        if self._state is OPEN:
            self._state = CLOSE_SENT[self._state]
            self._leave()
            self._outbox.clear(ConnectionClosed(*self._endedWith()))
            self._outbox.last(frame(CLOSE, payload))
        self._finish()

    # Out.

    def writeFrame(self, opcode: int, payload: bytes) -> Deferred[None]:
        """Send one whole message or control frame (see `twisted_ws.connection.Connection`)."""
        if self.runtime.fanOuts.pending:
            self._catchUp()
        if self._state is not OPEN:
            return failedWrite(ConnectionClosed(*self._endedWith()))
        if opcode >= CLOSE:
            waiter: Deferred[None] = Deferred()
            self._outbox.written += 1
            self._outbox.control(frame(opcode, payload), waiter)
            return waiter
        self.runtime.counts.sent += 1
        self.sender.lastData = self.runtime.wheel.now
        deflate = self._perMessageCompress
        waiter = self._outbox.message(frame(opcode, payload) if deflate is None else compressedFrame(deflate, opcode, payload))
        self._pauseForReplies()
        if waiter.called and self.runtime.handedAtOnce():
            # A handler that awaits one write after another would never let the reactor run while the kernel takes them all.
            later: Deferred[None] = Deferred()
            self.runtime.reactor.callLater(0, later.callback, None)
            return later
        return waiter

    def reply(self, opcode: int, payload: str | bytes) -> None:
        """Send a message without a Deferred, as for a value that a handler returns.

        Raises:
            ValueError: the text has a lone surrogate.
        """
        runtime = self.runtime
        if runtime.fanOuts.pending:
            self._catchUp()
        runtime.counts.sent += 1
        begun = self.sender.send(FIN | opcode, payload, runtime.wheel.now)
        if begun is None:
            return
        if begun:
            self._outbox.goOn()
        elif self._state is OPEN:
            self._sendAlone(opcode, textPayload(payload) if isinstance(payload, str) else payload)
        self._pauseForReplies()

    def _catchUp(self) -> None:
        """First send the earlier messages for many that have not reached this caller yet."""
        if self._state is OPEN:
            self.runtime.fanOuts.catchUp(self._receiver.caller)

    def goOn(self) -> None:
        """Send the rest of a frame that `sender` has begun."""
        self._outbox.goOn()

    def hold(self, goOn: Callable[[], None] | None, makeRoom: Callable[[], None] | None = None) -> None:
        """Stop frames of a fan-out from going straight out, because others wait elsewhere that must go first.

        Args:
            goOn: called when there may be room for those; None: nothing waits elsewhere any more.
            makeRoom: called when too much waits: drops some of those, or fails the connection.
        """
        self._whenEased, self._makeRoom = goOn, makeRoom
        self._outbox.hold(goOn is not None)

    def sendText(self, payload: bytes) -> bool:
        """Send a text message to this peer alone, without a Deferred; return whether the connection is open and took it."""
        self.runtime.counts.sent += 1
        return self._sendAlone(TEXT, payload)

    def _sendAlone(self, opcode: int, payload: bytes) -> bool:
        if self._state is not OPEN:
            return False
        self.sender.lastData = self.runtime.wheel.now
        deflate = self._perMessageCompress
        self._outbox.send(frame(opcode, payload) if deflate is None else compressedFrame(deflate, opcode, payload))
        return self._state is OPEN

    def send(self, message: OutgoingMessage) -> bool:
        """Send a message that goes to many; return whether this connection took it."""
        if self._state is not OPEN:
            return False
        self.sender.lastData = self.runtime.wheel.now
        self._outbox.send(self._framed(message))
        return self._state is OPEN

    def sendAll(self, messages: Sequence[OutgoingMessage]) -> bool:
        """Send several such messages in one piece; see `send`."""
        if self._state is not OPEN:
            return False
        self.sender.lastData = self.runtime.wheel.now
        self._outbox.written += len(messages) - 1
        self._outbox.send(b"".join([self._framed(each) for each in messages]))
        return self._state is OPEN

    def _framed(self, message: OutgoingMessage) -> bytes:
        deflate = self._perMessageCompress
        if deflate is None:
            return message.plain
        # Without context takeover, all peers with the same window can get the same bytes.
        bits = deflate.server_max_window_bits
        if bits not in message.deflated:
            message.deflated[bits] = compressedFrame(deflate, message.opcode, message.payload)
        return message.deflated[bits]

    def waiting(self) -> int:
        """Return how many bytes wait behind the frame that is being written, including what they are charged."""
        return self._outbox.waiting()

    def keep(self, by: int) -> None:
        """Count `by` more bytes that are held for this peer elsewhere, or fewer if negative."""
        self._outbox.keep(by)

    def isOpen(self) -> bool:
        """Return whether messages can be written."""
        return self._state is OPEN

    def bufferedAmount(self) -> int:
        """Return how many bytes the kernel has not taken yet."""
        return self._outbox.size - self._outbox.charges

    def activity(self) -> int:
        """Return a number that grows with each frame the service writes."""
        return self._outbox.written + int(self.sender.written)

    # A peer that does not read its replies is not read from.

    def _pauseForReplies(self) -> None:
        if self._outbox.size > self.limits.replyBuffer:
            self._outbox.isAwaited = True
            self._pause(self._FOR_REPLIES)
            if self._outbox.size < self.limits.replyBuffer:
                self._resume(self._FOR_REPLIES)  # it eased before `isAwaited` was set

    def outboxEased(self) -> None:
        """Read from the peer again."""
        self._resume(self._FOR_REPLIES)
        if self._whenEased is not None:
            self._whenEased()

    # The ends of a connection.

    def fail(self, error: WebSocketError) -> None:
        """Tell the service about `error`, send Close with its code, and take no more input (RFC 6455 section 7.1.7)."""
        if self._state < FINISHING and self._failure is None:
            try:
                self._failWith(error)
            except Exception:
                self.abort()
                _log.failure("a connection failed at its end", event="connection.broken")

    def _failWith(self, error: WebSocketError) -> None:
        self._tellFailed(error)
        if self._state >= FINISHING:
            return  # onError has closed it
        self._message = None
        self._note()
        if error.code is None:
            self.abort()
            return
        if isinstance(error, SlowConsumer):
            self.runtime.counts.slow.add("websocket")
            self._outbox.clear(ConnectionClosed(error.code, error.reason))
        if self._state is OPEN:
            self._outbox.last(frame(CLOSE, checkClose(error.code, error.reason)))
        self._finish()

    def mayLog(self, kind: str) -> int:
        """Return whether one more line of this kind may be logged (see `twisted_ws.connection.Connection`)."""
        return self.runtime.throttle.allows(kind)

    def _tellOpened(self) -> None:
        if turn := self.runtime.details.allows("opened"):
            _log.debug(
                "{client} has connected to {path}",
                event="connection.opened",
                client=self._receiver.peer(),
                suppressed=turn - 1,
                **self._receiver.facts(),
            )

    def _tellClosed(self, code: int, text: str) -> None:
        receiver = self._receiver
        if receiver is not ENDED and (turn := self.runtime.details.allows("closed")):
            since = getattr(receiver.caller, "since", 0)
            _log.debug(
                "{client} has left: {code}",
                event="connection.closed",
                client=receiver.peer(),
                code=code,
                reason=printable(text),
                duration=round(self.runtime.unixTime() - since, 3) if since else None,
                suppressed=turn - 1,
                **receiver.facts(),
            )

    def _tellFailed(self, error: WebSocketError) -> None:
        self._failure = error
        if turn := self.runtime.throttle.allows("connection failed" if error.code is None else f"failed with {int(error.code)}"):
            code = "no close frame" if error.code is None else int(error.code)
            _log.info(
                "{client}: {reason} ({how})",
                client=self._receiver.peer(),
                reason=printable(error),
                how=code,
                code=error.code and int(error.code),
                **self._receiver.facts(),
                suppressed=turn - 1,
                event="connection.failed",
            )
        self._receiver.failed(error)

    def _leave(self) -> None:
        """Give up what only an open connection has: the lane, and its place among those that can be written to."""
        if not self._hasLeft:
            self._heard = 0
            self.sender.open = False
            if self._lane is not None:
                self._lane.setLane(None)
            self._receiver.closing()
            self._hasLeft = True

    def _finish(self) -> None:
        """Let the last bytes go out, then close, at the deadline at the latest."""
        if self._state >= FINISHING:
            return
        self._state = INPUT_ENDED[self._state]
        self._leave()
        self._resumeAll()
        self._outbox.isAwaited = True
        deadline = self._closeDeadline()
        deadline.inputEnded(self.runtime.wheel.seconds(), self.limits.closeDeadline)
        self.runtime.wheel.set(self, deadline.at)
        if self._outbox.size == 0:
            self._hangUp()
        deadline.sending = sending(self.transport)

    def _hangUp(self) -> None:
        self._outbox.release()
        if self._peersClose is not None:
            # Both sides have sent Close, so nothing is unread: the server closes first (RFC 6455 section 7.1.1).
            self.transport.loseConnection()
        else:
            finishWriting(self.transport)

    def abort(self) -> None:
        """Drop the connection now, without a Close frame."""
        if self._state < CLOSED:
            try:
                if self._state < FINISHING:
                    self._state = INPUT_ENDED[self._state]
                self._leave()
                self._outbox.release()
                self._outbox.abandon(ConnectionClosed(*self._endedWith()))
            finally:
                abort(self.transport)

    # Deadlines.

    def deadlineReached(self, now: float) -> None:
        """Do what is due (called by the wheel)."""
        try:
            self._doDue(now)
        except Exception as error:
            self._failInside(error)  # nothing is due any more

    def _doDue(self, now: float) -> None:
        if self._state >= CLOSING:
            # Its Close may have come, unread; after a failure nobody waits for one.
            deadline = self._closeDeadline()
            if (
                now >= deadline.at
                and (self._state is FINISHING or self._hasHeardEnough() or not self._hasUnread())
                and deadline.isOver(now, self.limits.writeDeadline, sending(self.transport))
            ):
                self.abort()
                return
        elif self._outbox.busy and now - self._outbox.progressAt >= self.limits.writeDeadline:
            self.fail(TransportError(f"it has taken none of its waiting bytes for {self.limits.writeDeadline:g} seconds"))
            return
        else:
            if self._keepAlive is not None and self._keepAlive.dueAt <= now:
                self._ask(self._keepAlive, now)
            if (
                self._state is OPEN
                and self._idleTimeout
                and now - self.sender.lastData >= self._idleTimeout
                and not self._hasUnread()
            ):
                self.sender.lastData = now
                self._receiver.idle()
            if self._reminder is not None and self._reminder[0] <= now:
                self._callReminder()
        if self._state < CLOSED and self.wheelSlot is None:
            self.runtime.wheel.set(self, self._nextDeadline(now))

    def _nextDeadline(self, now: float) -> float:
        if self._state >= CLOSING:
            return max(self._closeDeadline().at, now)
        # At least once per write deadline, so that a stall is seen at most one turn late.
        due = (self._outbox.progressAt if self._outbox.busy else now) + self.limits.writeDeadline
        if self._keepAlive is not None:
            ping = self._keepAlive.dueAt
            due = ping if ping < due else due
        if self._idleTimeout:
            idle = self.sender.lastData + self._idleTimeout
            due = idle if idle < due else due
        if self._reminder is not None and self._reminder[0] < due:
            due = self._reminder[0]
        return due if due > now else now

    def remind(self, at: float | None, call: Callable[[], None] | None = None) -> None:
        """Call `call` at a moment (see `twisted_ws.connection.Connection`)."""
        self._reminder = None if at is None or call is None else (at, call)
        if self._state is OPEN:
            self.runtime.wheel.set(self, self._nextDeadline(self.runtime.wheel.seconds()))

    def _callReminder(self) -> None:
        reminder, self._reminder = self._reminder, None
        if reminder is not None and self._state is OPEN:
            reminder[1]()

    def _ask(self, keepAlive: KeepAlive, now: float) -> None:
        """Send a keep-alive ping, or judge a missing pong."""
        heard, self._heard = self._heard, 0
        kernel = sending(self.transport)
        excused = bool(
            # We are not reading what it sends, and its machine has taken what we sent.
            (self._pauses and not kernel[0])
            # It is making progress in the middle of a frame, where no pong can come.
            or (heard >= UPLOAD and self.current_frame is not None)
        )
        timeout = self.limits.pingTimeout
        verdict = keepAlive.due(now, timeout, kernel, excused, self._hasUnread())
        if verdict is Verdict.PING:
            handed: Deferred[None] = Deferred()
            self._outbox.control(frame(PING, keepAlive.payload or b""), handed)
            if handed.called:
                keepAlive.handed(now, timeout)
            else:
                wheel, transport = self.runtime.wheel, self.transport
                handed.addCallback(lambda _: keepAlive.handed(wheel.seconds(), timeout, sending(transport)))
            handed.addErrback(lambda _: None)
        elif verdict is Verdict.DEAD:
            self.fail(TransportError(f"no pong for {timeout:g} seconds"))

    # OutboxOwner.

    def outboxOverflowed(self, atOnce: bool) -> None:
        """Close with 1013, so that the peer comes back when it can keep up, unless what waits elsewhere can make room."""
        if self._makeRoom is not None and not atOnce:
            self._makeRoom()
        elif self._state is OPEN:
            self.fail(SlowConsumer(f"{self._outbox.size} bytes wait for it"))
        if atOnce and self._outbox.size > SLICE:
            # A large frame has begun, no Close can come before its end, and the memory is needed now.
            self.abort()

    def outboxDrained(self) -> None:
        """Continue a close that waited for the last bytes."""
        if self._state is CLOSING:
            self._closeFrameHanded()
        elif self._state is FINISHING:
            self._hangUp()

    def _closeFrameHanded(self) -> None:
        # From here on it is the peer's turn.
        deadline = self._closeDeadline()
        if not deadline.isHanded:
            deadline.closeHanded(self.runtime.wheel.seconds(), self.limits.closeDeadline, sending(self.transport))
            self.runtime.wheel.set(self, deadline.at)

    def startClose(self, payload: bytes, timeout: float) -> Deferred[None]:
        """Begin the closing handshake (see `twisted_ws.connection.Connection`)."""
        if self.runtime.fanOuts.pending:
            self._catchUp()
        closed: Deferred[None] = Deferred()
        if self._state is CLOSED:
            closed.callback(None)
            return closed
        self._closeWaiters += (closed,)
        try:
            self._startClose(payload, timeout)
        except MemoryError:
            self.abort()
        return closed

    def _startClose(self, payload: bytes, timeout: float) -> None:
        now = self.runtime.wheel.seconds()
        if self._state is OPEN:
            self._state = CLOSE_SENT[self._state]
            self._leave()
            self._resumeAll()
            # Even without waiting for the peer, what is queued gets time.
            deadline = self._closeDeadline()
            deadline.start(now, timeout or self.limits.closeDeadline)
            self.runtime.wheel.set(self, deadline.at)
            self._outbox.isAwaited = True
            self._outbox.last(frame(CLOSE, payload))
            if self._outbox.size == 0:
                self._closeFrameHanded()
            if timeout == 0:
                self._finish()
        elif (deadline := self._closeDeadline()).shorten(now, timeout):
            self.runtime.wheel.set(self, deadline.at)

    def isSecure(self) -> bool:
        """Return whether the connection uses TLS."""
        return isSecure(self.transport)


# The attributes of every connection, and those that Autobahn sets when a ping or a part of a message comes.
_NAMES = (
    *("_welcome", "_admittedAs", "connected", "transport", "_outbox", "_receiver", "_idleTimeout"),
    *("_unread", "_keepAlive", "wheelSlot", "_deliver", "_lane", "sender", "_heard", "utf8validator", "data"),
    *("current_frame_masker", "current_frame", "inside_message", "_isMessageCompressed", "utf8validateIncomingCurrentMessage"),
    *("utf8validateLast", "message_is_binary", "message_data_total_length", "_message", "control_frame_data", "_controlRate"),
)


def connectionClass(runtime: Runtime) -> type[WebSocketConnection]:
    """Return the class of one server's connections."""
    limits = runtime.limits
    options = serverOptions(limits, runtime.reactor)
    own = {"limits": limits, "laneMaximum": limits.maxMessageSize}
    return shareKeys(type("WebSocketConnection", (WebSocketConnection,), {**options, **own}), _NAMES)
