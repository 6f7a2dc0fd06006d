"""Frames in, messages out: Autobahn's streaming callbacks, counted against the limits and collected."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from twisted_ws.errors import InternalError, MessageTooBig, PolicyViolation, WebSocketError
from twisted_ws.wire.autobahn import QuietServerProtocol
from twisted_ws.wire.events import Events
from twisted_ws.wire.lane import LaneServer
from twisted_ws.wire.phase import Phase
from twisted_ws.wire.rate import Rate
from twisted_ws.wire.shared import Wire
from twisted_ws.wire.speedups import split

__all__ = ["Inbound"]

# Autobahn copies the tail of what it has for each frame it takes, so many small frames in one large read cost quadratic time.
FEED = 4096

FIRST_CONTROL = 8  # opcodes from here on are control frames (RFC 6455 section 5.5)

# The module's: that of a class puts the instance into each event, and who keeps events would keep connections.
_log = Logger()


class Inbound(QuietServerProtocol):
    """The receiving half of a connection; `twisted_ws.wire.protocol.WebSocketConnection` is the whole."""

    phase = Phase.OPENING
    wire: Wire
    _events: Events
    _deliver: Callable[[str | bytes], None]
    _lane: LaneServer | None = None  # the transport, where it has a lane
    laneMaximum: int  # of a message; on the class of one server's connections
    _heard = 0  # bytes of uncommon frames that came since the last look
    _lastData = 0.0  # when the last data frame came or went (the wheel's seconds)
    _message: bytearray | None = None
    _pauses = 0
    _controlRate: Rate | None = None
    _messageRate: Rate | None = None

    def fail(self, error: WebSocketError) -> None:
        """Fail the connection."""
        raise NotImplementedError

    def dataReceived(self, data: bytes) -> None:
        """Feed Autobahn, until it or the service has had enough."""
        if self.phase >= Phase.FINISHING:
            return
        self._heard += len(data)
        try:
            if self._expectsFrame():
                messages, taken = split(data, self.laneMaximum)
                if taken:
                    self.framesReceived(messages)
                    if taken == len(data) or self.phase >= Phase.FINISHING:
                        return
                    data = data[taken:]
            for start in range(0, len(data), FEED):
                self.feed(data[start : start + FEED])
                if self.phase >= Phase.FINISHING:
                    return
            self._setLane()
        except Exception as error:
            # Nothing below should raise; if it does, it must not tear down the reactor's read loop with a traceback per chunk.
            _log.failure("a connection failed inside the server")
            self.fail(InternalError(f"{type(error).__name__} inside the server"))

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
        """Have the transport read frames for us while we expect them, where it can."""
        if self._lane is not None:
            self._lane.lane = self if self._expectsFrame() else None

    def framesReceived(self, messages: list[str | bytes]) -> None:
        """Deliver the messages of common frames."""
        self._lastData = self.wire.wheel.now
        limit = self.wire.limits.messageRate
        deliver = self._deliver
        for message in messages:
            if self.phase is not Phase.OPEN:
                return
            if limit and not self._withinMessageRate(limit):
                self.fail(PolicyViolation(f"more than {limit} messages a second", "too many messages"))
                return
            deliver(message)

    # Everything else: Autobahn.

    def processData(self) -> bool:
        """Parse one step (called by Autobahn in a loop); nothing once the connection has failed.

        Autobahn goes on parsing after it has failed a connection that it does not drop, and would buffer an oversize
        control frame without bound.
        """
        if self.phase >= Phase.FINISHING:
            self.data = b""
            return False
        return bool(super().processData())

    def onMessageBegin(self, isBinary: bool) -> None:
        """Begin to collect a message."""
        self.message_is_binary = isBinary
        self.message_data_total_length = 0
        self._message = bytearray()

    def onMessageFrameBegin(self, length: int) -> None:
        """Charge a frame against the message limit before a byte of it is kept."""
        header = self.current_frame
        limit = self.wire.limits.maxMessageSize
        if not header.fin or header.opcode == 0:
            self.message_data_total_length += self.wire.limits.fragmentCharge
        if self._isMessageCompressed:
            # How long it is shows when it is inflated; what does not compress is a little longer compressed.
            tooLong = length > limit + length // 1000 + 64
        else:
            self.message_data_total_length += length
            tooLong = False
        if tooLong or self.message_data_total_length > limit:
            self.fail(MessageTooBig(f"a message of more than {limit} bytes"))

    def onFrameData(self, payload: bytes) -> bool | None:
        """Inflate a piece of a frame: Autobahn bounds that by what the total leaves of the limit."""
        if self.current_frame.opcode < FIRST_CONTROL and self._isMessageCompressed:
            # Autobahn takes the compressed length off again, and puts the inflated one in its place.
            self.message_data_total_length += len(payload)
        result: bool | None = super().onFrameData(payload)
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
        self._lastData = self.wire.wheel.now
        limit = self.wire.limits.messageRate
        if limit and not self._withinMessageRate(limit):
            self.fail(PolicyViolation(f"more than {limit} messages a second", "too many messages"))
            return
        self._deliver(bytes(message) if self.message_is_binary else message.decode())

    def _withinMessageRate(self, limit: int) -> bool:
        if self._messageRate is None:
            self._messageRate = Rate()
        return self._messageRate.within(limit, self.wire.reactor.seconds())

    # Control frames in.

    def _withinControlRate(self) -> bool:
        if self._controlRate is None:
            self._controlRate = Rate()
        limit = self.wire.limits.controlRate
        if self._controlRate.within(limit, self.wire.reactor.seconds()):
            return True
        self.fail(PolicyViolation(f"more than {limit} control frames a second", "too many control frames"))
        return False

    # Reading pauses for two reasons, which do not know of each other.

    _FOR_HANDLER = 1
    _FOR_REPLIES = 2

    def pauseReading(self) -> None:
        """Take no more bytes from the peer until `resumeReading`."""
        self._pause(self._FOR_HANDLER)

    def resumeReading(self) -> None:
        """Undo `pauseReading`."""
        self._resume(self._FOR_HANDLER)

    def _pause(self, why: int) -> None:
        if self.phase is not Phase.OPEN:
            return
        if not self._pauses:
            self.transport.pauseProducing()
        self._pauses |= why

    def _resume(self, why: int) -> None:
        if self._pauses & why:
            self._pauses &= ~why
            if not self._pauses:
                self.transport.resumeProducing()

    def _resumeAll(self) -> None:
        # Who closes must hear the peer's Close and the end of its stream; messages no longer count, so they cannot pile up.
        if self._pauses:
            self._pauses = 0
            self.transport.resumeProducing()
