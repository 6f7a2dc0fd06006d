"""Frames in, messages out: Autobahn's streaming callbacks, counted against the limits and collected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from twisted_ws.errors import InternalError, MessageTooBig, Overloaded, PolicyViolation, WebSocketError
from twisted_ws.wire.lane.transport import LaneServer
from twisted_ws.wire.loop.rate import Rate
from twisted_ws.wire.loop.transports import hasUnread
from twisted_ws.wire.loop.turns import QUANTUM
from twisted_ws.wire.speedups import NEVER, split
from twisted_ws.wire.websocket.autobahn import QuietServerProtocol
from twisted_ws.wire.websocket.events import Events
from twisted_ws.wire.websocket.shared import Wire
from twisted_ws.wire.websocket.states import Phase

__all__ = ["Inbound"]

# Autobahn copies the tail of what it has for each frame it takes, so many small frames in one large read cost quadratic time.
FEED = 4096

# A read may hold tens of thousands of small frames, each with a handler to call. So many bytes of common frames, or one of them,
# are handled between two looks at whether it is the turn of others (see `wire.loop.turns`); who has no more waits for none.
PIECE = 512
# What a message costs, in steps; and each step of Autobahn's parser, which takes two for a small frame, and stops for a look.
MESSAGE = 4
PARSING = 4

# Fewer bytes than this are not counted among what all have sent in part: a connection costs more.
SMALL = 1024

HEADER = 14  # bytes of the longest header of a frame (RFC 6455 section 5.2)
FIRST_CONTROL = 8  # opcodes from here on are control frames (RFC 6455 section 5.5)

# The module's: that of a class puts the instance into each event, and who keeps events would keep connections.
_log = Logger()


class Inbound(QuietServerProtocol):
    """The receiving half of a connection; `twisted_ws.wire.websocket.connection.WebSocketConnection` is the whole."""

    phase = Phase.OPENING
    wire: Wire
    _events: Events
    _deliver: Callable[[str | bytes], None]
    _lane: LaneServer | None = None  # the transport, where it has a lane
    sender: Any = NEVER  # where frames can go straight out; it notes when the last data came or went, too
    laneMaximum: int  # of a message; on the class of one server's connections
    _heard = 0  # bytes of uncommon frames that came since the last look, or all since our Close
    _message: bytearray | None = None
    _deflated = 0  # bytes of a compressed message, as they came
    _pauses = 0
    counted = 0  # bytes that it has of `Wire.intake`
    _kept = 0  # those of `_rest`
    _unhandled = 0  # those that wait for a handler
    _unread = 0.0  # seconds in which we did not read, less what the wheel had missed when we began to
    _rest: bytearray | None = None  # what has come and waits for another turn
    _controlRate: Rate | None = None
    _messageRate: Rate | None = None

    def fail(self, error: WebSocketError) -> None:
        """Fail the connection."""
        raise NotImplementedError

    def abort(self) -> None:
        """Drop the connection."""
        raise NotImplementedError

    def dataReceived(self, data: bytes) -> None:
        """Feed Autobahn, until it or the service has had enough."""
        self._heard += len(data)
        if self.phase is not Phase.OPEN:
            if self.phase is Phase.OPENING:
                if self._rest is None:
                    self._rest = bytearray()
                self._rest += data
                return
            if self._hasHeardEnough():
                self.transport.pauseProducing()
            if self.phase >= Phase.FINISHING:
                return
        if self._rest is not None:
            self._rest += data
        elif self.wire.taking and self._isTaking():
            self._rest = bytearray(data)  # a handler or a finaliser has the reactor turn
        else:
            self._take(data)
        if self._message is not None or self.counted:
            self._note()

    def _hasHeardEnough(self) -> bool:
        """Say whether the peer has gone on sending, after our Close, for longer than one that has not read it yet.

        It is read no further then: to read on for ever serves nobody, and to drop it now could destroy the Close on its way, by a
        reset. So it has until the deadline to read that; while our Close awaits its answer, it may end its message first.
        """
        limits = self.wire.limits
        return self._heard > limits.lingerBytes + (limits.maxMessageSize if self.phase is Phase.CLOSING else 0)

    def _note(self) -> None:
        """Count what came and is not whole or not handled yet."""
        count = self._kept + self._unhandled + (0 if self._message is None else len(self._message))
        if count < SMALL:
            count = 0
        intake = self.wire.intake
        if count != self.counted:
            intake.note(self, count)
            intake.relieve()

    def giveWay(self) -> None:
        """Fail: all together have sent too much, and this is the largest (see `Backlog`)."""
        self.fail(Overloaded(f"{self.counted} bytes of it are not whole or not handled yet"))

    def waits(self, size: int) -> None:
        """Count messages that wait for a handler (see `twisted_ws.connection.Connection`)."""
        self._unhandled = size
        self._note()

    def _take(self, data: bytes | bytearray) -> None:
        """Handle what came, for as long as this turn of the reactor lasts, or until it is the turn of others who wait."""
        wire, turns = self.wire, self.wire.turns
        at, outermost = 0, False
        before = wire.taking
        wire.taking = self, before
        try:
            outermost = turns.begin()
            share = turns.share()
            isLittle = len(data) + len(self.data) <= PIECE
            while at < len(data) or self._hasUnparsed():
                if not isLittle and turns.isOver(share):
                    if isinstance(data, bytearray):
                        del data[:at]  # which moves nothing
                    else:
                        data = bytearray(data[at:])
                    if self._rest is not None:
                        data += self._rest  # which came meanwhile
                    self._rest = data
                    break
                at += self._takeSome(data, at)
                if self.phase >= Phase.FINISHING:
                    break
            else:
                if self._rest is None:
                    self._setLane()
        except Exception as error:
            # Nothing below should raise; if it does, it must not tear down the reactor's read loop with a traceback per chunk.
            self._failInside(error)
        finally:
            wire.taking = before
            if outermost:
                turns.end()
        if self._rest is not None:
            self._keep(self._rest)

    def _isTaking(self) -> bool:
        """Say whether what came before is just being handled."""
        taking = self.wire.taking
        while taking and taking[0] is not self:
            taking = taking[1]
        return bool(taking)

    def _failInside(self, error: Exception) -> None:
        """End the connection: something has failed in the middle of our own work, and what it was at is not done."""
        wasFinishing = self.phase >= Phase.FINISHING
        try:
            self.fail(InternalError(f"{type(error).__name__} inside the server"))
            _log.failure("a connection failed inside the server")
        finally:
            if wasFinishing or self.phase < Phase.FINISHING:
                self.abort()

    def _takeSome(self, data: bytes | bytearray, at: int) -> int:
        """Handle the next bytes, from `at` on, and return how many those were."""
        turns = self.wire.turns
        if self._expectsFrame():
            size = 0
            if len(data) - at > PIECE:
                # The first frame may be a larger one.
                size = data[at + 1] & 0x7F
                if size >= 126:
                    size = int.from_bytes(data[at + 2 : at + (4 if size == 126 else 10)], "big")
            messages, taken = split(bytes(data[at : at + max(PIECE, size + HEADER)]), self.laneMaximum)
            if taken:
                turns.left -= MESSAGE * len(messages)
                self.framesReceived(messages)
                return taken
        piece = b"" if self._hasUnparsed() else bytes(data[at : at + FEED])
        self.feed(piece)
        return len(piece)

    def _hasUnparsed(self) -> bool:
        """Say whether Autobahn has been stopped (see `processData`): of its own it leaves less than a header."""
        return len(self.data) >= HEADER

    def _keep(self, rest: bytearray) -> None:
        """Keep what is left for another turn; reading pauses until then."""
        self._kept = len(rest) + len(self.data)
        if self._lane is not None:
            self._lane.setLane(None)
        self._pause(self._FOR_OTHERS)
        self.wire.turns.later(self._goOn)
        self._note()

    def _goOn(self) -> None:
        if self._isTaking():
            return  # whoever is at it sees to the rest
        rest, self._rest = self._rest, None
        self._kept = 0
        try:
            if rest is not None and self.phase < Phase.FINISHING:
                self._take(rest)
            if self._rest is None:
                self._resume(self._FOR_OTHERS)
            self._note()
        except Exception as error:
            self._failInside(error)

    # The lane: common frames do without Autobahn, wherever they come from.

    def _expectsFrame(self) -> bool:
        """Say whether the next byte begins a frame, and a message, that Autobahn need not see."""
        return (
            self.phase is Phase.OPEN
            and self.current_frame is None
            and not self.inside_message
            and not self.data
            and self._perMessageCompress is None
        )

    def _setLane(self) -> None:
        """Have the transport deliver messages for us while we expect them, where it can."""
        if self._lane is not None:
            self._lane.setLane(self._deliver if self._expectsFrame() else None, self.laneMaximum)

    def framesReceived(self, messages: list[str | bytes]) -> None:
        """Deliver the messages of common frames."""
        self.sender.lastData = self.wire.wheel.now
        deliver = self._deliver
        for message in messages:
            if self.phase is not Phase.OPEN:
                return
            deliver(message)

    def _deliverWithinRate(self, message: str | bytes) -> None:
        if self._messageRate is None:
            self._messageRate = Rate()
        limit = self.wire.limits.messageRate
        if self._isWithin(self._messageRate, limit):
            self._events.messageReceived(message)
        else:
            self.fail(PolicyViolation(f"more than {limit} messages a second", "too many messages"))

    # Everything else: Autobahn.

    def processData(self) -> bool:
        """Parse one step (called by Autobahn in a loop); nothing once the connection has failed, or it is time to look up.

        Autobahn goes on parsing after it has failed a connection that it does not drop, and would buffer an oversize
        control frame without bound.
        """
        if self.phase >= Phase.FINISHING:
            self.data = b""
            return False
        turns = self.wire.turns
        turns.left -= PARSING
        if turns.left % QUANTUM < PARSING and self._hasUnparsed():
            return False
        return bool(super().processData())

    def onMessageBegin(self, isBinary: bool) -> None:
        """Begin to collect a message."""
        self.message_is_binary = isBinary
        self.message_data_total_length = 0
        if self._isMessageCompressed:
            self._deflated = 0
        self._message = bytearray()

    def onMessageFrameBegin(self, length: int) -> None:
        """Charge a frame against the message limit before a byte of it is kept."""
        header = self.current_frame
        limit = self.wire.limits.maxMessageSize
        if not header.fin or header.opcode == 0:
            self.message_data_total_length += self.wire.limits.fragmentCharge
        if self._isMessageCompressed:
            # How long it is shows when it is inflated; what does not compress is a little longer compressed. All frames count:
            # zlib keeps what comes after the last block of its stream.
            self._deflated += length
            tooLong = self._deflated > limit + limit // 1000 + 64
        else:
            self.message_data_total_length += length
            tooLong = False
        if tooLong or self.message_data_total_length > limit:
            self.fail(MessageTooBig(f"a message of more than {limit} bytes"))

    def onFrameData(self, payload: bytes) -> bool | None:
        """Inflate a piece of a frame, up to one byte more than the total leaves of the limit (see `serverFactory`)."""
        inflates = self.current_frame.opcode < FIRST_CONTROL and self._isMessageCompressed
        if inflates:
            # Autobahn takes the compressed length off again, and puts the inflated one in its place.
            self.message_data_total_length += len(payload)
        result: bool | None = super().onFrameData(payload)
        if inflates and self.message_data_total_length > self.wire.limits.maxMessageSize:
            self.fail(MessageTooBig(f"a message of more than {self.wire.limits.maxMessageSize} bytes"))
            return False
        return result

    def onMessageFrameData(self, payload: bytes) -> None:
        """Collect a piece, however small the reads are."""
        if self._message is not None:
            self._message += payload

    def onMessageFrameEnd(self) -> None:
        """End a frame; the message goes on or `onMessageEnd` follows."""

    def onMessageEnd(self) -> None:
        """Deliver a whole message, which Autobahn has checked for UTF-8."""
        message, self._message = self._message, None
        if message is None or self.phase is not Phase.OPEN:
            return
        self.sender.lastData = self.wire.wheel.now
        self._deliver(bytes(message) if self.message_is_binary else message.decode())

    def _isWithin(self, rate: Rate, limit: int) -> bool:
        now = self.wire.reactor.seconds()
        # A pause counts until now: what waits for its turn is handled before it is over.
        unread = self._unread + now if self._pauses else self._unread
        return rate.within(limit, now, self.wire.wheel.missedUntil(now) + unread)

    # Control frames in.

    def _withinControlRate(self) -> bool:
        if self._controlRate is None:
            self._controlRate = Rate()
        limit = self.wire.limits.controlRate
        if self._isWithin(self._controlRate, limit):
            return True
        self.fail(PolicyViolation(f"more than {limit} control frames a second", "too many control frames"))
        return False

    # Reading pauses for three reasons, which do not know of each other.

    _FOR_HANDLER = 1
    _FOR_REPLIES = 2
    _FOR_OTHERS = 4

    def pauseReading(self) -> None:
        """Take no more bytes from the peer until `resumeReading`."""
        self._pause(self._FOR_HANDLER)

    def resumeReading(self) -> None:
        """Undo `pauseReading`."""
        self._resume(self._FOR_HANDLER)

    # In the middle of any of this a finaliser may turn the reactor, which undoes it. So it is noted first, and what the transport
    # was told is looked at again.

    def _pause(self, why: int) -> None:
        if self.phase is not Phase.OPEN and why != self._FOR_OTHERS:
            return
        now = self.wire.reactor.seconds()
        unread = self._unread - now  # it is right again after the pause
        before = self._pauses
        self._pauses |= why
        if not before:
            self._unread = unread
            self.transport.pauseProducing()
            if not self._pauses:
                self.transport.resumeProducing()

    def _resume(self, why: int) -> None:
        if self._pauses & why:
            now = self.wire.reactor.seconds()
            unread = self._unread + now
            left = self._pauses & ~why
            if self._pauses and not left:
                self._unread = unread
            self._pauses = left
            if not left:
                self._readOn()

    def _resumeAll(self) -> None:
        # Who closes must hear the peer's Close and the end of its stream; messages no longer count, so they cannot pile up.
        if self._pauses:
            self._pauses = 0
            self._readOn()

    def _readOn(self) -> None:
        self.transport.resumeProducing()
        if self._pauses:
            self.transport.pauseProducing()

    def _hasUnread(self) -> bool:
        """Say whether anything of the peer waits to be read: here, or in the kernel."""
        return self._rest is not None or hasUnread(self.transport)
