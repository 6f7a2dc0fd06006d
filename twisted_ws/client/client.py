"""What a user holds: a client of one WebSocket."""

from __future__ import annotations

import os
from functools import lru_cache
from math import inf
from typing import Any, TypeVar, overload

from twisted.internet.defer import Deferred

from twisted_ws.client.errors import UnexpectedMessage
from twisted_ws.client.http.response import Response
from twisted_ws.client.options import checkNumber
from twisted_ws.client.session import Session
from twisted_ws.client.websocket.connection import ClientConnection
from twisted_ws.closecodes import DONE
from twisted_ws.dispatch.binding import Binder
from twisted_ws.errors import BindingError, CloseCode, ConnectionClosed
from twisted_ws.message import BINARY, TEXT, Message, binaryPayload, controlPayload, textPayload
from twisted_ws.service import checkClose

__all__ = ["WebSocketClient"]

_T = TypeVar("_T")

_binder = lru_cache(maxsize=256)(Binder)


def _text(message: str | bytes) -> str:
    if isinstance(message, str):
        return message
    raise UnexpectedMessage("a binary message came: read it with readBinaryMessage, or either kind with readMessage", message)


def _binary(message: str | bytes) -> bytes:
    if isinstance(message, bytes):
        return message
    raise UnexpectedMessage("a text message came: read it with readTextMessage, or either kind with readMessage", message)


class WebSocketClient:
    """A WebSocket, opened by `twisted_ws.client.connect`; everything in the reactor's thread.

    The writing methods return a Deferred (awaitable) that fires with None when the message was handed to the kernel and fails
    with `ConnectionClosed` if it never will be; that need not be looked at. With a `Retry`, what is written during an outage
    waits, and goes out in order over the next connection. To await the writes is to go no faster than the server.

    The reading methods return a Deferred for the next message. Several may wait: the first that asked gets the first message.
    A Deferred that is cancelled, or times out, loses no message. After the end, what had come can still be read; then they fail
    with why it ended: `ConnectionClosed`, or the class of `twisted_ws.client.errors` for what went wrong.

    Attributes:
        attributes: a dict of yours.
    """

    def __init__(self, session: Session) -> None:
        self.attributes: dict[str, Any] = {}
        self._session = session
        session.client = self

    # What it is.

    @property
    def negotiatedSubProtocol(self) -> str | None:
        """The subprotocol that the server chose, None without one."""
        return self._last.subProtocol

    @property
    def response(self) -> Response:
        """The server's answer to the last handshake, with `status` and `headers`."""
        return self._last.response

    @property
    def bufferedAmount(self) -> int:
        """Bytes of messages that were written and not yet handed to the kernel."""
        return self._session.writes.payload

    def isOpen(self) -> bool:
        """Say whether there is a connection over which messages can go; False during an outage."""
        return self._last.isOpen()

    def isSecure(self) -> bool:
        """Say whether messages go over TLS."""
        return self._session.options.address.isSecure

    @property
    def _last(self) -> ClientConnection:
        connection = self._session.connection
        assert connection is not None  # nobody has a client before it was open
        return connection

    # Writing.

    def writeTextMessage(self, text: str) -> Deferred[None]:
        """Send one text message.

        Raises:
            TypeError: `text` is no str.
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
            TypeError: JSON has no form for `value`.
            ValueError: text with a lone surrogate.
        """
        message = Message.of(value)
        return self._session.writes.write(message.kind.opcode, message.payload)

    # Reading.

    def readTextMessage(self, timeout: float | None = None) -> Deferred[str]:
        """Return the next message, which has to be text.

        Args:
            timeout: seconds until the Deferred fails with `ReadTimeout`; None: the client's `readTimeout`.

        The Deferred fails with `UnexpectedMessage`, which has the message, if it is binary.
        """
        return self._session.reads.get(_text, self._timeout(timeout))

    def readBinaryMessage(self, timeout: float | None = None) -> Deferred[bytes]:
        """Return the next message, which has to be binary; see `readTextMessage`."""
        return self._session.reads.get(_binary, self._timeout(timeout))

    @overload
    def readMessage(self, annotation: type[_T], timeout: float | None = None) -> Deferred[_T]: ...

    @overload
    def readMessage(self, annotation: Any = Any, timeout: float | None = None) -> Deferred[Any]: ...

    def readMessage(self, annotation: Any = Any, timeout: float | None = None) -> Deferred[Any]:
        """Return the next message as `annotation` has it.

        Args:
            annotation: as that of a service's onMessage (see `twisted_ws.dispatch.binding.Binder`): none for a str or bytes as it
                came; dict, list, a dataclass, TypedDict or msgspec.Struct for JSON that is checked.
            timeout: see `readTextMessage`.

        The Deferred fails with `UnexpectedMessage`, which has the message and the field, if it does not fit.

        Raises:
            TypeError: nothing can be bound to `annotation`.
        """
        try:
            binder = _binder(annotation)
        except TypeError:
            binder = Binder(annotation)  # it may just be one that cannot be hashed

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
        """Return the next message; the loop ends when the server says that all is done (1000, 1001 or no code), or we do."""
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
        checkNumber("timeout", timeout)
        return timeout

    # Control frames.

    def ping(self, data: bytes = b"") -> Deferred[float]:
        """Send a ping with at most 125 bytes; none: some that no other ping has.

        Returns:
            A Deferred that fires with the seconds until its pong, or fails with `ConnectionClosed`; also when there is no
            connection now.

        Raises:
            ValueError: `data` is longer than 125 bytes (RFC 6455 section 5.5).
            TypeError: `data` is not bytes-like.
        """
        return self._last.ping(controlPayload(data) or os.urandom(8))

    def pong(self, data: bytes = b"") -> Deferred[None]:
        """Send a pong with at most 125 bytes; see `ping` for what it raises, and the writing methods for the Deferred."""
        return self._last.pong(controlPayload(data))

    # The end.

    def close(self, code: int = CloseCode.NORMAL, reason: str = "", timeout: float = 60) -> Deferred[None]:
        """Send what waits, then a Close frame, and wait for the server's; make no more attempts to connect.

        Messages that come from now on are dropped; those that came before can still be read.

        Args:
            code: 1000-1003, 1007-1014 or 3000-4999.
            reason: at most 123 bytes of UTF-8.
            timeout: seconds for all of it, 0 or more; then the connection is dropped. 0 does not wait for the server's Close.
                After our Close has gone, the server has 5 seconds at most.

        Returns:
            A Deferred that fires with None when the connection is closed, however that came about; it never fails.

        Raises:
            ValueError: a code that cannot be sent, a reason that is too long, a negative or endless timeout.
            TypeError: an argument of the wrong type.
        """
        payload = checkClose(code, reason)
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
            raise TypeError(f"the timeout must be a number of seconds, not {type(timeout).__name__}")
        if not 0 <= timeout < inf:
            raise ValueError(f"the timeout must be 0 seconds or more, not {timeout}")
        return self._session.close(payload, timeout)

    def whenClosed(self) -> Deferred[None]:
        """Return a Deferred that fires with None when the connection is closed for good; it never fails."""
        return self._session.whenClosed()

    async def __aenter__(self) -> WebSocketClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "open" if self.isOpen() else "closed" if self._session.isOver else "away"
        return f"<WebSocketClient {self._session.options.address} {state}>"
