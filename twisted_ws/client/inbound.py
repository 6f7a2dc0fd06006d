"""Frames in, messages out: Autobahn's streaming callbacks, counted against the limit and collected."""

from __future__ import annotations

from twisted.logger import Logger

from twisted_ws.client.autobahn import QuietClientProtocol
from twisted_ws.errors import CloseCode, InternalError, InvalidPayload, MessageTooBig, ProtocolError, WebSocketError
from twisted_ws.limits import Limits
from twisted_ws.wire.websocket.states import Phase

__all__ = ["Inbound"]

# Autobahn copies the tail of what it has for each frame it takes, so many small frames in one large read cost quadratic time.
# It is also how much is parsed after the reader has had enough.
FEED = 4096

FIRST_CONTROL = 8  # opcodes from here on are control frames (RFC 6455 section 5.5)


class Inbound(QuietClientProtocol):
    """The receiving half of a connection; `twisted_ws.client.connection.ClientConnection` is the whole."""

    _log = Logger()

    phase = Phase.OPENING
    _heard = 0  # bytes that came since the last look
    _message: bytearray | None = None
    _deflated = 0  # bytes of a compressed message, as they came
    _paused = False
    _parsing = False
    _last = False  # the transport is gone

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits.maxMessageSize)
        self.limits = limits
        self._waiting = bytearray()  # read, but not parsed yet

    def fail(self, error: WebSocketError) -> None:
        """Fail the connection."""
        raise NotImplementedError

    def deliver(self, message: str | bytes) -> None:
        """Take a message; may call `pauseReading`."""
        raise NotImplementedError

    def dataReceived(self, data: bytes) -> None:
        """Feed Autobahn, until it or the reader has had enough."""
        if self.phase >= Phase.FINISHING:
            return
        self._heard += len(data)
        self._waiting += data
        self._parse()

    def _parse(self) -> None:
        if self._parsing:
            return  # a reader that resumes us from within: the loop below goes on
        self._parsing = True
        try:
            while self._waiting and not self._paused and self.phase < Phase.FINISHING:
                piece = bytes(self._waiting[:FEED])
                del self._waiting[:FEED]
                self._dataReceived(piece)
        except Exception as error:
            # Nothing below should raise; if it does, it must not leave the reactor's read loop with a traceback per chunk.
            self._log.failure("a connection failed inside the client")
            self.fail(InternalError(f"{type(error).__name__} inside the client"))
        finally:
            self._parsing = False

    def _parseRest(self) -> None:
        """Deliver what came before the transport went, however far behind the reader is: it is at most one read."""
        self._last = True
        self._paused = False
        self._parse()

    def processData(self) -> bool:
        """Parse one step (called by Autobahn in a loop); nothing once the connection has failed.

        Autobahn goes on parsing after it has failed a connection that it does not drop, and would buffer an oversize
        control frame without bound.
        """
        if self.phase >= Phase.FINISHING:
            self.data = b""
            return False
        return bool(super().processData())

    def _fail_connection(self, code: int = CloseCode.GOING_AWAY, reason: str = "") -> None:
        # Autobahn's one way to fail a connection.
        if code == CloseCode.MESSAGE_TOO_BIG:
            self._tooBig()
        else:
            kind = InvalidPayload if code == CloseCode.INVALID_PAYLOAD else ProtocolError
            self.fail(kind(f"the server broke RFC 6455: {reason}"))

    def _tooBig(self) -> None:
        limit = self.limits.maxMessageSize
        self.fail(MessageTooBig(f"a message of more than {limit} bytes came: a larger maxMessageSize would take it"))

    # Messages.

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
        limit = self.limits.maxMessageSize
        if not header.fin or header.opcode == 0:
            self.message_data_total_length += self.limits.fragmentCharge
        if self._isMessageCompressed:
            # How long it is shows when it is inflated; what does not compress is a little longer compressed. All frames count:
            # zlib keeps what comes after the last block of its stream.
            self._deflated += length
            tooLong = self._deflated > limit + limit // 1000 + 64
        else:
            self.message_data_total_length += length
            tooLong = False
        if tooLong or self.message_data_total_length > limit:
            self.fail(
                MessageTooBig(f"the server sent a message of more than {limit} bytes: a larger maxMessageSize would take it")
            )

    def onFrameData(self, payload: bytes) -> bool | None:
        """Inflate a piece of a frame, up to one byte more than the total leaves of the limit (see `QuietClientProtocol`)."""
        inflates = self.current_frame.opcode < FIRST_CONTROL and self._isMessageCompressed
        if inflates:
            # Autobahn takes the compressed length off again, and puts the inflated one in its place.
            self.message_data_total_length += len(payload)
        result: bool | None = super().onFrameData(payload)
        if inflates and self.message_data_total_length > self.limits.maxMessageSize:
            self._tooBig()
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
        if message is not None and self.phase is Phase.OPEN:
            self.deliver(bytes(message) if self.message_is_binary else message.decode())

    # A reader that falls behind.

    def pauseReading(self) -> None:
        """Take no more bytes from the server until `resumeReading`."""
        if self.phase is Phase.OPEN and not self._paused and not self._last:
            self._paused = True
            self.transport.pauseProducing()
            if not self._paused:  # what a finaliser did meanwhile has ended it
                self.transport.resumeProducing()

    def resumeReading(self) -> None:
        """Undo `pauseReading`."""
        if self._paused:
            self._paused = False
            self._parse()
            if not self._paused:  # still
                self.transport.resumeProducing()
