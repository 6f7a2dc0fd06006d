"""The client for scripts without a reactor: every call blocks until it is done.

::

    import twisted_ws.client.sync

    with twisted_ws.client.sync.connect("ws://localhost:8080/ws") as client:
        client.writeTextMessage("hello")
        print(client.readTextMessage())

All connections share one reactor, which runs in its own thread and ends with the process. It is not the global reactor, so a
program may run that one too. A client may be used by several threads.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar, overload

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python import threadable
from twisted.python.failure import Failure

from twisted_ws.client import client as _client
from twisted_ws.client.client import ClientState
from twisted_ws.client.connecting import connect as _connect

__all__ = ["WebSocketClient", "connect"]

_T = TypeVar("_T")


class _ReactorThread:
    """A reactor in its own thread."""

    def __init__(self) -> None:
        try:
            from twisted.internet.epollreactor import EPollReactor as Reactor
        except ImportError:
            from twisted.internet.selectreactor import SelectReactor as Reactor
        self.reactor: Any = Reactor()
        # For Twisted, the I/O thread stays that of the global reactor, if a program runs one.
        self.reactor._registerAsIOThread = False
        self.process = os.getpid()
        # A daemon, like the threads that it starts for DNS: the process does not wait for them.
        self.thread = threading.Thread(target=self._run, name="twisted_ws.client.sync", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.reactor.run(installSignalHandlers=False)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in the reactor's thread, and return (or raise) what its Deferred fires with."""
        outcome: Future[Any] = Future()
        started: list[Deferred[Any]] = []

        def failed(failure: Failure) -> None:
            outcome.set_exception(failure.value)

        def begin() -> None:
            started.append(maybeDeferred(function, *arguments).addCallbacks(outcome.set_result, failed))

        def giveUp() -> None:
            for each in started:
                each.cancel()

        self.reactor.callFromThread(begin)
        try:
            return outcome.result()
        except BaseException:
            if not outcome.done():
                # KeyboardInterrupt: no one waits any more, and the next message must not be lost on this call.
                self.reactor.callFromThread(giveUp)
            raise


_lock = threading.Lock()
_thread: _ReactorThread | None = None


def _reactorThread() -> _ReactorThread:
    """Return the reactor's thread, starting it if this process has none yet; a fork does not inherit it.

    Raises:
        RuntimeError: the call comes from a reactor's thread, and would block it.
    """
    global _thread
    with _lock:
        if _thread is None or _thread.process != os.getpid():
            _thread = _ReactorThread()
        found = _thread
    running = getattr(sys.modules.get("twisted.internet.reactor"), "running", False)
    if threading.current_thread() is found.thread or (running and threadable.isInIOThread()):
        raise RuntimeError("twisted_ws.client.sync blocks, and this is a reactor's thread: await twisted_ws.client.connect here")
    return found


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return _reactorThread().call(function, *arguments)


def connect(url: str, **options: Any) -> WebSocketClient:
    """Open a WebSocket, and return when it is open.

    Args:
        url: ``ws://host:port/path`` or ``wss://...``.
        options: those of `twisted_ws.client.connect`, except `reactor`. Handlers (onPing, onPong, onReconnect) are called in the
            reactor's thread, with the client that `twisted_ws.client.connect` would give: they must not block.

    Raises:
        ConnectError: there is no connection; and what `twisted_ws.client.connect` raises.
        RuntimeError: this is a reactor's thread.
    """
    thread = _reactorThread()
    found: _client.WebSocketClient = thread.call(lambda: _connect(url, reactor=thread.reactor, **options))
    return WebSocketClient(found)


class WebSocketClient(ClientState):
    """A WebSocket whose methods block: those of `twisted_ws.client.WebSocketClient`, with the results of their Deferreds.

    They raise what the Deferreds fail with: `ConnectionClosed`, or a class of `twisted_ws.client.errors`. A write returns when
    the message was handed to the kernel; with a `Retry`, during an outage, that is after the next connection.
    """

    def __init__(self, client: _client.WebSocketClient) -> None:
        super().__init__(client._session, client.attributes)
        self._client = client

    def writeTextMessage(self, text: str) -> None:
        """Send one text message."""
        _call(self._client.writeTextMessage, text)

    def writeBinaryMessage(self, data: bytes | bytearray | memoryview) -> None:
        """Send one binary message."""
        _call(self._client.writeBinaryMessage, data)

    def writeMessage(self, value: Any) -> None:
        """Send `value`: a str as text, bytes as binary, anything else as JSON text."""
        _call(self._client.writeMessage, value)

    def readTextMessage(self, timeout: float | None = None) -> str:
        """Return the next message, which must be text; `timeout` is in seconds, None for the client's `readTimeout`."""
        text: str = _call(self._client.readTextMessage, timeout)
        return text

    def readBinaryMessage(self, timeout: float | None = None) -> bytes:
        """Return the next message, which must be binary."""
        data: bytes = _call(self._client.readBinaryMessage, timeout)
        return data

    @overload
    def readMessage(self, annotation: type[_T], timeout: float | None = None) -> _T: ...

    @overload
    def readMessage(self, annotation: Any = Any, timeout: float | None = None) -> Any: ...

    def readMessage(self, annotation: Any = Any, timeout: float | None = None) -> Any:
        """Return the next message, decoded to fit `annotation`."""
        return _call(self._client.readMessage, annotation, timeout)

    def __iter__(self) -> Iterator[str | bytes]:
        """Yield each message, until the server closes with 1000, 1001 or no code, or this side closes."""
        while True:
            try:
                message: str | bytes = _call(self._client.__anext__)
            except StopAsyncIteration:
                return
            yield message

    def ping(self, data: bytes = b"") -> float:
        """Send a ping, wait for its pong, and return the seconds between."""
        seconds: float = _call(self._client.ping, data)
        return seconds

    def pong(self, data: bytes = b"") -> None:
        """Send a pong."""
        _call(self._client.pong, data)

    def close(self, code: int = 1000, reason: str = "", timeout: float = 60) -> None:
        """Send what waits and a Close frame, and wait for the server's; may be called again."""
        _call(self._client.close, code, reason, timeout)

    def __enter__(self) -> WebSocketClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
