"""The client for scripts without a reactor: every call blocks until it is done.

::

    import twisted_ws.client.sync

    with twisted_ws.client.sync.connect("ws://localhost:8080/ws") as client:
        client.writeTextMessage("hello")
        print(client.readTextMessage())

All connections share one reactor, which runs in a thread of its own and ends with the process. It is not the global one, so a
program may run that beside it. A client may be used by several threads.
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
from twisted_ws.client.connecting import connect as _connect
from twisted_ws.client.http.response import Response

__all__ = ["WebSocketClient", "connect"]

_T = TypeVar("_T")


class _Background:
    """A reactor in a thread of its own."""

    def __init__(self) -> None:
        try:
            from twisted.internet.epollreactor import EPollReactor as Reactor
        except ImportError:
            from twisted.internet.selectreactor import SelectReactor as Reactor
        self.reactor: Any = Reactor()
        # The thread that counts as Twisted's stays that of the global reactor, where a program runs one.
        self.reactor._registerAsIOThread = False
        self.process = os.getpid()
        # A daemon, and so are the threads that it starts for DNS: the process does not wait for them.
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
                # KeyboardInterrupt: nobody waits any more, and the next message must not go to nobody.
                self.reactor.callFromThread(giveUp)
            raise


_lock = threading.Lock()
_background: _Background | None = None


def _reactorThread() -> _Background:
    """Return the reactor's thread, started where there is none in this process; a fork does not inherit it.

    Raises:
        RuntimeError: the caller is in a reactor's thread, and would block it.
    """
    global _background
    with _lock:
        if _background is None or _background.process != os.getpid():
            _background = _Background()
        found = _background
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
        options: those of `twisted_ws.client.connect`, but for `reactor`. Handlers (onPing, onPong, onReconnect) are called in the
            reactor's thread, with the client that `twisted_ws.client.connect` would give: they must not block.

    Raises:
        ConnectError: there is no connection; and what `twisted_ws.client.connect` raises.
        RuntimeError: this is a reactor's thread.
    """
    background = _reactorThread()
    found: _client.WebSocketClient = background.call(lambda: _connect(url, reactor=background.reactor, **options))
    return WebSocketClient(found)


class WebSocketClient:
    """A WebSocket whose methods block: those of `twisted_ws.client.WebSocketClient`, with what their Deferreds fire with.

    What they fail with is raised: `ConnectionClosed`, or a class of `twisted_ws.client.errors`. A write returns when the
    message was handed to the kernel; with a `Retry`, and during an outage, that is after the next connection.
    """

    def __init__(self, client: _client.WebSocketClient) -> None:
        self._client = client

    @property
    def attributes(self) -> dict[str, Any]:
        """A dict of yours."""
        return self._client.attributes

    @property
    def negotiatedSubProtocol(self) -> str | None:
        """The subprotocol that the server chose, None without one."""
        return self._client.negotiatedSubProtocol

    @property
    def response(self) -> Response:
        """The server's answer to the last handshake, with `status` and `headers`."""
        return self._client.response

    @property
    def bufferedAmount(self) -> int:
        """Bytes of messages that were written (by other threads) and not yet handed to the kernel."""
        return self._client.bufferedAmount

    def isOpen(self) -> bool:
        """Say whether there is a connection over which messages can go; False during an outage."""
        return self._client.isOpen()

    def isSecure(self) -> bool:
        """Say whether messages go over TLS."""
        return self._client.isSecure()

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
        """Return the next message, which has to be text; `timeout` is in seconds, None: the client's `readTimeout`."""
        text: str = _call(self._client.readTextMessage, timeout)
        return text

    def readBinaryMessage(self, timeout: float | None = None) -> bytes:
        """Return the next message, which has to be binary."""
        data: bytes = _call(self._client.readBinaryMessage, timeout)
        return data

    @overload
    def readMessage(self, annotation: type[_T], timeout: float | None = None) -> _T: ...

    @overload
    def readMessage(self, annotation: Any = Any, timeout: float | None = None) -> Any: ...

    def readMessage(self, annotation: Any = Any, timeout: float | None = None) -> Any:
        """Return the next message as `annotation` has it."""
        return _call(self._client.readMessage, annotation, timeout)

    def __iter__(self) -> Iterator[str | bytes]:
        """Give each message, until the server says that all is done, or we do."""
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
        """Send what waits and a Close frame, and wait for the server's; more than once does no harm."""
        _call(self._client.close, code, reason, timeout)

    def __enter__(self) -> WebSocketClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._client)
