"""What both ends of a WebSocket connection have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from autobahn.websocket.protocol import WebSocketProtocol
from autobahn.websocket.utf8validator import Utf8Validator

from twisted_ws.errors import CloseCode, InvalidPayload, MessageTooBig, ProtocolError, WebSocketError
from twisted_ws.limits import Limits
from twisted_ws.message import CLOSE
from twisted_ws.service import checkClose
from twisted_ws.wire.websocket.closing import CloseDeadline
from twisted_ws.wire.websocket.states import CONNECTING, FINISHING, OPEN, State


class _Mute:
    """Autobahn's logger: drops everything, because its lines would contain the peer's own words."""

    def _drop(self, *args: object, **kwargs: object) -> None:
        """Drop one line."""

    debug = info = warn = error = critical = trace = failure = _drop


class BaseConnection(WebSocketProtocol):
    """Autobahn's parser of frames, with their messages collected within the limits, and the end of the connection.

    Autobahn's logging, timers and ways to end a connection are not used. Its private callbacks are overridden here, not the
    public ones that they would call: this saves a call for each.

    Attributes:
        limits: all limits.
    """

    log = _Mute()
    CONFIG_ATTRS: list[str] = []  # noqa: RUF012 - as Autobahn declares it
    transport: Any
    current_frame: Any
    utf8validator: Any
    limits: Limits
    _state: State = CONNECTING
    _deliver: Callable[[str | bytes], None]  # takes a message
    _isMessageCompressed = False
    _message: bytearray | None = None
    _deflated = 0  # bytes of a compressed message, as they came
    _peersClose: tuple[int | None, str] | None = None
    _failure: WebSocketError | None = None
    _closing: CloseDeadline | None = None  # made when it is first needed

    # What errors say.
    _ITS_CLOSE = "its Close"
    _TOO_BIG = "a message of more than %d bytes"
    _VIOLATION = "%s"

    @abstractmethod
    def fail(self, error: WebSocketError) -> None:
        """Send Close with the code of `error`, and take no more input (RFC 6455 section 7.1.7)."""

    @abstractmethod
    def _answerClose(self, payload: bytes) -> None:
        """The peer has sent Close: answer with `payload`, unless we sent Close first, and take no more input."""

    def feed(self, data: bytes) -> None:
        """Let Autobahn parse `data`, for as long as input counts and `processData` returns True.

        Autobahn's own loop continues after it has failed a connection that it does not drop, and would buffer an oversize
        control frame without bound.
        """
        if self.utf8validator is None:
            self.utf8validator = Utf8Validator()  # most connections of a server never need one: the lane takes their messages
        self.data += data
        while self._state < FINISHING and self.processData():
            pass
        if self._state >= FINISHING:
            self.data = b""

    # Messages.

    def _onMessageBegin(self, isBinary: bool) -> None:
        """Begin to collect a message."""
        self.message_is_binary = isBinary
        self.message_data_total_length = 0
        if self._isMessageCompressed:
            self._deflated = 0
        self._message = bytearray()

    def _onMessageFrameBegin(self, length: int) -> None:
        """Charge a frame against the message limit before a byte of it is kept."""
        header = self.current_frame
        limit = self.limits.maxMessageSize
        if not header.fin or header.opcode == 0:
            self.message_data_total_length += self.limits.fragmentCharge
        if self._isMessageCompressed:
            # Its real length shows when it is inflated; data that does not compress is longer compressed, by 1/20 with zlib's
            # smallest windows and least memory. All frames count: zlib keeps what comes after the last block of its stream.
            self._deflated += length
            tooLong = self._deflated > limit + limit // 16 + 64
        else:
            self.message_data_total_length += length
            tooLong = False
        if tooLong or self.message_data_total_length > limit:
            self._tooBig()

    def onFrameData(self, payload: bytes) -> bool | None:
        """Inflate a piece of a frame, up to one byte more than what the total leaves of the limit (see `serverFactory`)."""
        inflates = self.current_frame.opcode < CLOSE and self._isMessageCompressed
        if inflates:
            # Autobahn takes the compressed length off again, and puts the inflated one in its place.
            self.message_data_total_length += len(payload)
        result = WebSocketProtocol.onFrameData(self, payload)
        if inflates and self.message_data_total_length > self.limits.maxMessageSize:
            self._tooBig()
            return False
        return result

    def _onMessageFrameData(self, payload: bytes) -> None:
        """Collect a piece, however small the reads are."""
        if self._message is not None:
            self._message += payload

    def _onMessageFrameEnd(self) -> None:
        """End a frame; the message goes on, or `_onMessageEnd` follows."""

    def _onMessageEnd(self) -> None:
        """Deliver a whole message, which Autobahn has checked for UTF-8."""
        message, self._message = self._message, None
        if message is not None and self._state is OPEN:
            self._deliver(bytes(message) if self.message_is_binary else message.decode())

    # The end.

    def _tooBig(self) -> None:
        self.fail(MessageTooBig(self._TOO_BIG % self.limits.maxMessageSize))

    def _fail_connection(self, code: int = CloseCode.GOING_AWAY, reason: str = "") -> None:
        # Autobahn's one way to fail a connection.
        if code == CloseCode.MESSAGE_TOO_BIG:
            self._tooBig()
        else:
            error = InvalidPayload if code == CloseCode.INVALID_PAYLOAD else ProtocolError
            self.fail(error(self._VIOLATION % reason))

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool:
        """Take the peer's Close, and answer it with its own code and reason (RFC 6455 section 5.5.1); Autobahn calls this."""
        try:
            payload = b"" if code is None else checkClose(code, "")
            reason = (reasonRaw or b"").decode()
        except UnicodeDecodeError:
            self.fail(InvalidPayload(f"the reason of {self._ITS_CLOSE} is not UTF-8"))
        except ValueError:
            self.fail(ProtocolError(f"{self._ITS_CLOSE} has the code {code}, which cannot be sent"))
        else:
            self._peersClose = code, reason
            self._answerClose(payload + (reasonRaw or b""))
        return True

    def _endedWith(self) -> tuple[int, str]:
        """Return the code and reason of the connection's end: the peer's, or those it was failed with, else 1006."""
        if self._peersClose is not None:
            code, reason = self._peersClose
            return (CloseCode.NO_STATUS if code is None else code), reason
        if self._failure is not None and self._failure.code is not None:
            return self._failure.code, self._failure.reason
        return CloseCode.ABNORMAL, ""

    def _closeDeadline(self) -> CloseDeadline:
        """Return the deadline of the close."""
        if self._closing is None:
            made = CloseDeadline()
            if self._closing is None:  # else a finaliser has closed the connection meanwhile
                self._closing = made
        return self._closing
