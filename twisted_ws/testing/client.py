"""A client in a test: the real one, with methods that return the result of a Deferred at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from twisted.internet.defer import Deferred

from twisted_ws.caller import Caller
from twisted_ws.client import ConnectionClosed, Response, UnexpectedMessage, WebSocketClient, WebSocketError
from twisted_ws.client.errors import seconds
from twisted_ws.errors import CloseCode
from twisted_ws.testing.problems import NoMessage, StillOpen

if TYPE_CHECKING:
    from twisted_ws.testing.endpoint import MemoryEndpoint
    from twisted_ws.testing.server import MemoryServer

_T = TypeVar("_T")


class MemoryClient:
    """A WebSocket to a `MemoryServer`, opened by its `connect`.

    What is written has arrived and been handled when the method returns. What is read must be there already, or come within
    `timeout` seconds of fake time, which the method lets pass; otherwise it raises `NoMessage`. It never waits in real time.

    Attributes:
        client: the underlying `twisted_ws.client.WebSocketClient`, whose methods return Deferreds.
    """

    client: WebSocketClient

    def __init__(self, server: MemoryServer, name: str, endpoint: MemoryEndpoint) -> None:
        self._server = server
        self._name = name
        self._endpoint = endpoint

    @property
    def caller(self) -> Caller:
        """The caller that the service's handlers get for this connection; with `retry`, for the current one."""
        return self._endpoint.dispatcher.caller

    @property
    def negotiatedSubProtocol(self) -> str | None:
        """The subprotocol that the service chose; None without one."""
        return self.client.negotiatedSubProtocol

    @property
    def response(self) -> Response:
        """The response to the handshake, with `status` and `headers`."""
        return self.client.response

    @property
    def bufferedAmount(self) -> int:
        """Bytes of messages that were written but not yet taken by the server."""
        self._server.settle()
        return self.client.bufferedAmount

    @property
    def closed(self) -> tuple[int, str] | None:
        """The close code and reason as this side sees them, once the connection is closed; None before that.

        1006 means an end without a Close frame. With `retry`, None until no more attempts will be made.
        """
        self._server.settle()
        session = self.client._session
        if not session.isOver:
            return None
        error = session._error
        if isinstance(error, ConnectionClosed):
            return error.statusCode, error.reason
        return (error.code or CloseCode.ABNORMAL, error.reason) if isinstance(error, WebSocketError) else (CloseCode.ABNORMAL, "")

    def isOpen(self) -> bool:
        """Return whether messages can go out."""
        self._server.settle()
        return self.client.isOpen()

    # Writing.

    def writeTextMessage(self, text: str) -> None:
        """Send one text message.

        Raises:
            ConnectionClosed: the connection is closed.
            TypeError, ValueError: see `twisted_ws.client.WebSocketClient.writeTextMessage`.
        """
        self._written(self.client.writeTextMessage(text))

    def writeBinaryMessage(self, data: bytes | bytearray | memoryview) -> None:
        """Send one binary message; see `writeTextMessage`."""
        self._written(self.client.writeBinaryMessage(data))

    def writeMessage(self, value: Any) -> None:
        """Send a str as text, bytes as binary, anything else as JSON text; see `writeTextMessage`."""
        self._written(self.client.writeMessage(value))

    def pong(self, data: bytes = b"") -> None:
        """Send an unsolicited pong; see `writeTextMessage`."""
        self._written(self.client.pong(data))

    def sendBytes(self, data: bytes) -> None:
        """Send raw bytes, whole frames or not: what no correct client would send (its frames would be masked)."""
        self._endpoint.connection.client.write(data)
        self._server.settle()

    def _written(self, writing: Deferred[None]) -> None:
        failures: list[Any] = []
        writing.addErrback(failures.append)
        self._server.settle()
        if failures:
            raise failures[0].value

    # Reading.

    def readTextMessage(self, timeout: float = 0) -> str:
        """Return the next message, which must be text.

        Args:
            timeout: seconds of fake time that it may take; 0: it must come without any time passing.

        Raises:
            NoMessage: none came.
            UnexpectedMessage: the message is binary.
        """
        return self._get(self.client.readTextMessage(), timeout, "message")

    def readBinaryMessage(self, timeout: float = 0) -> bytes:
        """Return the next message, which must be binary; see `readTextMessage`."""
        return self._get(self.client.readBinaryMessage(), timeout, "message")

    @overload
    def readMessage(self, annotation: type[_T], timeout: float = 0) -> _T: ...

    @overload
    def readMessage(self, annotation: Any = Any, timeout: float = 0) -> Any: ...

    def readMessage(self, annotation: Any = Any, timeout: float = 0) -> Any:
        """Return the next message, decoded to fit `annotation`: str, bytes, dict, a dataclass; see `readTextMessage`."""
        return self._get(self.client.readMessage(annotation), timeout, "message")

    def readMessages(self) -> list[str | bytes]:
        """Return all messages that have come and were not read, [] if there are none."""
        self._server.settle()
        messages: list[str | bytes] = []
        while self.client._session.reads.size:
            self.client.readMessage().addCallback(messages.append)
        return messages

    def readClose(self, timeout: float = 0) -> tuple[int, str]:
        """Wait for the close, and return its code and reason; see `closed`.

        Args:
            timeout: seconds of fake time that it may take; 0: it must come without any time passing.

        Raises:
            StillOpen: the connection is still open.
        """
        self._server.advance(timeout, lambda: self.client._session.isOver)
        closed = self.closed
        if closed is None:
            raise StillOpen(f"{self._name} was not closed in {seconds(timeout)} of fake time{self._hints()}")
        return closed

    def ping(self, data: bytes = b"", timeout: float = 0) -> float:
        """Send a ping, and return the seconds of fake time until its pong.

        Args:
            data: at most 125 bytes; if empty, random ones are sent.
            timeout: seconds of fake time that it may take.

        Raises:
            NoMessage: no pong came.
        """
        return self._get(self.client.ping(data), timeout, "pong")

    def _get(self, waiting: Deferred[_T], timeout: float, what: str) -> _T:
        results: list[_T] = []
        failures: list[Any] = []
        waiting.addCallbacks(results.append, failures.append)
        try:
            self._server.advance(timeout, lambda: bool(results or failures))
        except BaseException:
            waiting.cancel()  # it would take the message of the next one
            raise
        if results:
            return results[0]
        error = failures[0].value if failures else None
        if isinstance(error, UnexpectedMessage):
            error.add_note(f"it is {error.received!r:.500}")
            raise error
        waiting.cancel()
        if error is None:
            state = f"the connection is open{self._hints()}"
        else:
            state = f"the connection was closed with {_codeAndReason(self.closed or (CloseCode.ABNORMAL, ''))}"
            if not isinstance(error, ConnectionClosed):
                state += f" ({error})"
        problem = next(iter(self._server.errors), error)
        raise NoMessage(f"no {what} came to {self._name} in {seconds(timeout)} of fake time; {state}") from problem

    def _hints(self) -> str:
        """Return what may be the reason that nothing comes."""
        endpoint = self._endpoint
        reasons = {
            "a handler of the service is still running": endpoint.isRunning,
            "the client is paused": endpoint.connection.server.room == 0,
            "what the client writes is held back": endpoint.connection.client.room == 0,
        }
        return "".join(f"; {reason}" for reason, isSo in reasons.items() if isSo)

    # The network.

    def pause(self, room: int = 0) -> None:
        """Take no more bytes from the server, like a slow client: they wait at the server.

        Args:
            room: bytes that still get through.
        """
        self._endpoint.connection.server.room = room

    def resume(self) -> None:
        """Undo `pause` and `pauseWriting`."""
        self._endpoint.connection.server.room = self._endpoint.connection.client.room = None
        self._server.settle()

    def pauseWriting(self, room: int = 0) -> None:
        """Let no more bytes get to the server, until `resume`; together with `pause`, a network that has gone silent.

        Args:
            room: bytes that still get through, such as the beginning of a message.
        """
        self._endpoint.connection.client.room = room

    def cut(self) -> None:
        """Cut the connection: both sides lose it without a Close frame."""
        self._endpoint.connection.client.lose()  # and with it the other end
        self._server.settle()

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Send a Close frame, and let the server answer it; `closed` is the outcome.

        Raises:
            ValueError, TypeError: see `twisted_ws.client.WebSocketClient.close`.
        """
        self.client.close(code, reason)
        self._server.settle()

    def __repr__(self) -> str:
        return f"<MemoryClient {self._name} {'open' if self.client.isOpen() else 'closed'}>"


def _codeAndReason(closed: tuple[int, str]) -> str:
    code, reason = closed
    return f"{int(code)} ({reason})" if reason else str(int(code))
