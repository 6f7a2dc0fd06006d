"""The client of one WebSocket, as its user holds it."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any, TypeVar, overload

from twisted.internet.defer import Deferred

from twisted_ws.client.errors import UnexpectedMessage
from twisted_ws.client.http.response import Response
from twisted_ws.client.session import Session
from twisted_ws.client.websocket.connection import ClientConnection
from twisted_ws.closecodes import DONE
from twisted_ws.dispatch.binding import Binder
from twisted_ws.errors import BindingError, CloseCode, ConnectionClosed
from twisted_ws.limits import checkNumber
from twisted_ws.message import BINARY, TEXT, Message, binaryPayload, controlPayload, textPayload
from twisted_ws.service import checkClose

_T = TypeVar("_T")

_binder = lru_cache(maxsize=256)(Binder)


def _text(message: str | bytes) -> str:
    if isinstance(message, str):
        return message
    raise UnexpectedMessage("a binary message came: read it with readBinaryMessage or readMessage", message)


def _binary(message: str | bytes) -> bytes:
    if isinstance(message, bytes):
        return message
    raise UnexpectedMessage("a text message came: read it with readTextMessage or readMessage", message)


class ClientState:
    """What can be asked about a client at any time, in any thread.

    Attributes:
        attributes: a dict for the application's own use.
    """

    def __init__(self, session: Session, attributes: dict[str, Any]) -> None:
        self.attributes = attributes
        self._session = session

    @property
    def negotiatedSubProtocol(self) -> str | None:
        """The subprotocol that the server chose; None without one."""
        return self._last.subProtocol

    @property
    def response(self) -> Response:
        """The server's response to the last handshake, with `status` and `headers`."""
        return self._last.response

    @property
    def bufferedAmount(self) -> int:
        """Bytes of messages that were written but not yet handed to the kernel."""
        return self._session.writes.payload

    def isOpen(self) -> bool:
        """Return whether messages can go out now; False during an outage."""
        return self._last.isOpen()

    def isSecure(self) -> bool:
        """Return whether messages go over TLS."""
        return self._session.options.address.isSecure

    @property
    def _last(self) -> ClientConnection:
        connection = self._session.connection
        assert connection is not None  # a client is not handed out before it was open
        return connection

    def __repr__(self) -> str:
        state = "open" if self.isOpen() else "closed" if self._session.isOver else "away"
        return f"<WebSocketClient {self._session.options.address} {state}>"


class WebSocketClient(ClientState):
    """A WebSocket, opened by `twisted_ws.client.connect`; to be used in the reactor's thread only.

    The writing methods return a Deferred (awaitable). It fires with None when the message was handed to the kernel, and fails
    with `ConnectionClosed` if it never will be; that failure need not be handled. With a `Retry`, what is written during an
    outage waits, and goes out in order over the next connection. Await the writes to go no faster than the server.

    The reading methods return a Deferred for the next message. Several may wait; they get the messages in the order in which
    they asked. No message is lost when a Deferred is cancelled or times out. After the end, the messages that had come can
    still be read; then reading fails with the reason for the end: `ConnectionClosed`, or a class of `twisted_ws.client.errors`.
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session, {})
        session.client = self

    # Writing.

    def writeTextMessage(self, text: str) -> Deferred[None]:
        """Send one text message.

        Raises:
            TypeError: `text` is not a str.
            ValueError: `text` has a lone surrogate, which UTF-8 cannot encode.
        """
        return self._session.writes.write(TEXT, textPayload(text))

    def writeBinaryMessage(self, data: bytes | bytearray | memoryview) -> Deferred[None]:
        """Send one binary message.

        Raises:
            TypeError: `data` is not bytes-like.
        """
        return self._session.writes.write(BINARY, binaryPayload(data))

    def writeMessage(self, value: Any) -> Deferred[None]:
        """Send `value`: a str as text, bytes as binary, anything else as JSON text.

        Raises:
            TypeError: `value` cannot be JSON.
            ValueError: `value` is text with a lone surrogate.
        """
        message = Message.of(value)
        return self._session.writes.write(message.kind.opcode, message.payload)

    # Reading.

    def readTextMessage(self, timeout: float | None = None) -> Deferred[str]:
        """Return the next message, which must be text.

        Args:
            timeout: seconds until the Deferred fails with `ReadTimeout`; None: the client's `readTimeout`.

        The Deferred fails with `UnexpectedMessage`, which carries the message, if it is binary.
        """
        return self._session.reads.get(_text, self._timeout(timeout))

    def readBinaryMessage(self, timeout: float | None = None) -> Deferred[bytes]:
        """Return the next message, which must be binary; see `readTextMessage`."""
        return self._session.reads.get(_binary, self._timeout(timeout))

    @overload
    def readMessage(self, annotation: type[_T], timeout: float | None = None) -> Deferred[_T]: ...

    @overload
    def readMessage(self, annotation: Any = Any, timeout: float | None = None) -> Deferred[Any]: ...

    def readMessage(self, annotation: Any = Any, timeout: float | None = None) -> Deferred[Any]:
        """Return the next message, decoded to fit `annotation`.

        Args:
            annotation: like that of a service's onMessage (see `twisted_ws.dispatch.binding.Binder`): by default the str or bytes
                as it came; dict, list, a dataclass, TypedDict or msgspec.Struct for JSON that is checked.
            timeout: see `readTextMessage`.

        The Deferred fails with `UnexpectedMessage`, which carries the message and the field, if the message does not fit.

        Raises:
            TypeError: nothing can be bound to `annotation`.
        """
        try:
            binder = _binder(annotation)
        except TypeError:
            binder = Binder(annotation)  # perhaps it only cannot be hashed

        def take(message: str | bytes) -> Any:
            try:
                return binder.bind(message)
            except BindingError as error:
                where = f" at {error.field}" if error.field else ""
                raise UnexpectedMessage(f"the message does not fit{where}: {error}", message, error.field) from None

        return self._session.reads.get(take, self._timeout(timeout))

    def __aiter__(self) -> WebSocketClient:
        return self

    async def __anext__(self) -> str | bytes:
        """Return the next message; the loop ends when the server closes with 1000, 1001 or no code, or when this side closes."""
        try:
            message: str | bytes = await self.readMessage()
        except ConnectionClosed as error:
            if self._session.closing or error.statusCode in DONE:
                raise StopAsyncIteration from None
            raise
        return message

    def _timeout(self, timeout: float | None) -> float | None:
        if timeout is None:
            return self._session.options.readTimeout
        checkNumber("timeout", timeout, above=True)
        return timeout

    # Control frames.

    def ping(self, data: bytes = b"") -> Deferred[float]:
        """Send a ping with at most 125 bytes; random ones if none are given.

        Returns:
            A Deferred that fires with the seconds until its pong, or fails with `ConnectionClosed`, also if there is no
            connection now.

        Raises:
            ValueError: `data` is longer than 125 bytes (RFC 6455 section 5.5).
            TypeError: `data` is not bytes-like.
        """
        return self._last.ping(controlPayload(data) or os.urandom(8))

    def pong(self, data: bytes = b"") -> Deferred[None]:
        """Send a pong with at most 125 bytes; raises what `ping` raises, and returns what the writing methods return."""
        return self._last.pong(controlPayload(data))

    # The end.

    def close(self, code: int = CloseCode.NORMAL, reason: str = "", timeout: float = 60) -> Deferred[None]:
        """Send what waits, then a Close frame, and wait for the server's; make no more attempts to connect.

        Messages that arrive from now on are dropped; earlier ones can still be read.

        Args:
            code: 1000-1003, 1007-1014 or 3000-4999.
            reason: at most 123 bytes of UTF-8.
            timeout: seconds for all of it, 0 or more, after which the connection is dropped. 0 does not wait for the server's
                Close. Once our Close has gone out, the server has at most 5 seconds.

        Returns:
            A Deferred that fires with None when the connection is closed, for whatever reason; it never fails.

        Raises:
            ValueError: the code cannot be sent, the reason is too long, or the timeout is negative or infinite.
            TypeError: an argument has the wrong type.
        """
        payload = checkClose(code, reason)
        checkNumber("timeout", timeout)
        return self._session.close(payload, timeout)

    def whenClosed(self) -> Deferred[None]:
        """Return a Deferred that fires with None when the connection is closed for good; it never fails."""
        return self._session.whenClosed()

    async def __aenter__(self) -> WebSocketClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()
