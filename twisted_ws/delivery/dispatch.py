"""One event, one handler call: the only place where a service's code is called for an open connection.

Each call is guarded. An exception that left here would go up through Autobahn into the reactor, which would cut the connection
without a close code and log it as the reactor's own trouble; an awaitable that nobody awaited would never run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.caller import Caller
from twisted_ws.delivery.binding import parseObject
from twisted_ws.delivery.calls import asDeferred, callUpgrade
from twisted_ws.delivery.handlers import Dispatch, examine
from twisted_ws.delivery.streams import isStream, sendStream
from twisted_ws.errors import BindingError, HandlerError, WebSocketError
from twisted_ws.limits import Limits
from twisted_ws.service import CloseFrame
from twisted_ws.wire.events import Connection

__all__ = ["Dispatcher", "callUpgrade"]

# What a message that waits for a handler is charged on top of its payload.
CHARGE = 64

_ABSENT = object()


class Dispatcher:
    """Calls the handlers of one service object for one caller; implements `twisted_ws.wire.events.Events`.

    Args:
        service: the service object, examined.
        caller: what its handlers get.
        connection: the wire's side.
        limits: `readAhead`, `streams` and `handlerGrace` are used.
        reactor: for deadlines and turns.
        callers: the open callers of the server; this one joins before onOpen and leaves before onClose.
    """

    __slots__ = (
        "_caller",
        "_callers",
        "_closedWith",
        "_connection",
        "_gone",
        "_grace",
        "_handlers",
        "_limits",
        "_onBinary",
        "_onText",
        "_opened",
        "_paused",
        "_queue",
        "_queued",
        "_reactor",
        "_running",
        "_service",
        "_streams",
    )

    _log = Logger()

    def __init__(
        self, service: object, caller: Caller, connection: Connection, limits: Limits, reactor: Any, callers: set[Caller]
    ) -> None:
        self._service = service
        self._caller = caller
        self._connection = connection
        self._limits = limits
        self._reactor = reactor
        self._callers = callers
        handlers = self._handlers = examine(service)
        self._onText = self._handlerFor("onTextMessage", str)
        self._onBinary = self._handlerFor("onBinaryMessage", bytes)
        self._opened = False
        self._running = False  # a handler's awaitable is pending
        self._queue: deque[str | bytes] | None = None  # messages that wait for it
        self._queued = 0
        self._paused = False
        self._streams: set[Deferred[None]] | None = None
        self._closedWith: tuple[int, str] | None = None
        self._grace: Any = None
        self._gone = False  # onClose was called, or is not going to be
        if handlers.dispatcherKey:
            self._onText = self._onBinary = self._dispatch

    def _handlerFor(self, event: str, kind: type) -> Callable[[Any], None]:
        """Return what takes a message of one kind."""
        handlers = self._handlers
        if event in handlers.events:
            method = getattr(self._service, event)
            return lambda message: self._call(event, method, message)
        if "onMessage" in handlers.events:
            return self._bound
        return _ignore

    # Events of the wire.

    def opened(self) -> None:
        """Join the callers and call onOpen."""
        self._callers.add(self._caller)
        self._opened = True
        if "onOpen" in self._handlers.events:
            self._call("onOpen", self._service.onOpen)  # type: ignore[attr-defined]

    def messageReceived(self, message: str | bytes) -> None:
        """Handle a message now, or when those before it are done."""
        if self._running:
            if self._queue is None:
                self._queue = deque()
            self._queue.append(message)
            self._queued += len(message) + CHARGE
            if self._queued > self._limits.readAhead and not self._paused:
                self._paused = True
                self._connection.pauseReading()
        elif message.__class__ is str:
            self._onText(message)
        else:
            self._onBinary(message)

    def pingReceived(self, data: bytes) -> bool:
        """Call onPing at once, not behind messages; without it the wire answers."""
        return self._callAtOnce("onPing", data)

    def pongReceived(self, data: bytes) -> None:
        """Call onPong at once."""
        self._callAtOnce("onPong", data)

    def idle(self) -> None:
        """Call onIdleTimeout; close, unless it wrote to the caller."""
        before = self._connection.activity()

        def handled(result: object) -> None:
            if self._connection.activity() == before and self._caller.isOpen():
                self._caller.close(1000, "idle timeout")

        if not self._callAtOnce("onIdleTimeout", then=handled):
            handled(None)

    def failed(self, error: WebSocketError) -> None:
        """Call onError; what it returns is not sent."""
        if "onError" not in self._handlers.events:
            return
        try:
            pending = asDeferred(self._service.onError(self._caller, error))  # type: ignore[attr-defined]
        except Exception:
            self._logFailure("onError", Failure())
            return
        if pending is not None:
            pending.addErrback(lambda failure: self._logFailure("onError", failure))

    def closed(self, statusCode: int, reason: str) -> None:
        """Leave the callers; call onClose when the messages that came before are handled, or the grace is over."""
        self._callers.discard(self._caller)
        self._closedWith = (statusCode, reason)
        self._paused = False
        streams, self._streams = self._streams, None
        for stream in tuple(streams or ()):
            stream.cancel()
        if self._running:
            self._grace = self._reactor.callLater(self._limits.handlerGrace, self._graceOver)
        else:
            self._sayClosed()

    def _graceOver(self) -> None:
        self._grace = None
        self._log.warn(
            "{service}: a handler still runs {seconds:g} s after its caller left; {count} messages are dropped",
            service=type(self._service).__name__,
            seconds=self._limits.handlerGrace,
            count=len(self._queue or ()),
        )
        self._queue = None
        self._sayClosed()

    def _sayClosed(self) -> None:
        if self._gone or self._closedWith is None:
            return
        self._gone = True
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        if self._opened and "onClose" in self._handlers.events:
            try:
                pending = asDeferred(self._service.onClose(self._caller, *self._closedWith))  # type: ignore[attr-defined]
            except Exception:
                self._logFailure("onClose", Failure())
                return
            if pending is not None:
                pending.addErrback(lambda failure: self._logFailure("onClose", failure))

    # Which handler.

    def _bound(self, message: str | bytes) -> None:
        """Decode a message for onMessage."""
        try:
            value = self._handlers.message.bind(message)
        except BindingError as error:
            self._connection.fail(error)
            return
        self._call("onMessage", self._service.onMessage, value)  # type: ignore[attr-defined]

    def _dispatch(self, message: str | bytes) -> None:
        """Find the handler by the dispatcher field."""
        handlers = self._handlers
        request = parseObject(message)
        event = None if request is None else request.get(handlers.dispatcherKey)
        dispatch = handlers.dispatch(event) if isinstance(event, str) else None
        if request is None or dispatch is None:
            whole = "onTextMessage" if isinstance(message, str) else "onBinaryMessage"
            if whole in handlers.events:
                self._call(whole, getattr(self._service, whole), message)
            elif "onMessage" in handlers.events:
                self._bound(message)
            return
        try:
            value = dispatch.binder.convert(request, message)
        except BindingError as error:
            self._misfit(dispatch, error)
            return
        streamId = request.get(handlers.streamId, _ABSENT) if handlers.streamId else _ABSENT
        self._call(dispatch.name, getattr(self._service, dispatch.name), value, streamId=streamId)

    def _misfit(self, dispatch: Dispatch, error: BindingError) -> None:
        if dispatch.errorName:
            self._call(dispatch.errorName, getattr(self._service, dispatch.errorName), error)
        else:
            self._connection.fail(error)

    # The call.

    def _call(self, event: str, handler: Callable[..., Any], *arguments: Any, streamId: Any = _ABSENT) -> None:
        """Call a handler whose turn it is; messages wait while it runs."""
        try:
            result = handler(self._caller, *arguments)
            if result is None:
                return
            pending = asDeferred(result)
            if pending is None:
                pending = self._reply(event, result, streamId)
            else:
                pending.addCallback(lambda value: self._reply(event, value, streamId))
        except Exception:
            self._raised(event, Failure())
            return
        if pending is None:
            return
        self._running = True
        pending.addErrback(lambda failure: self._raised(event, failure))
        pending.addBoth(self._handled)

    def _handled(self, result: object) -> None:
        """Go on with the messages that wait. A loop, not a recursion: there may be hundreds."""
        self._running = False
        while self._queue and not self._running:
            message = self._queue.popleft()
            self._queued -= len(message) + CHARGE
            if message.__class__ is str:
                self._onText(message)
            else:
                self._onBinary(message)
        if self._paused and self._queued <= self._limits.readAhead:
            self._paused = False
            self._connection.resumeReading()
        if self._closedWith is not None and not self._running:
            self._sayClosed()

    def _callAtOnce(self, event: str, *arguments: Any, then: Callable[[Any], None] | None = None) -> bool:
        """Call a handler beside those that run; say whether there is one. `then` is called when it is done."""
        if event not in self._handlers.events:
            return False
        try:
            result = getattr(self._service, event)(self._caller, *arguments)
            pending = asDeferred(result)
            if pending is None:
                self._reply(event, result, _ABSENT)
        except Exception:
            self._raised(event, Failure())
            return True
        if pending is not None:
            pending.addCallback(lambda value: self._reply(event, value, _ABSENT) and None)
            pending.addErrback(lambda failure: self._raised(event, failure))
            if then is not None:
                pending.addCallback(then)
        elif then is not None:
            then(None)
        return True

    # What it returned.

    def _reply(self, event: str, value: Any, streamId: Any) -> Deferred[None] | None:
        """Send what a handler returned; a Deferred where the next message has to wait for that."""
        if isStream(value):
            return self._stream(event, value, streamId)
        self._send(value, streamId)
        return None

    def _send(self, value: Any, streamId: Any) -> Deferred[None] | None:
        """Send one value; None when nothing more can follow it."""
        if not self._caller.isOpen():
            return None
        if isinstance(value, CloseFrame):
            self._caller.close(value.code, value.reason)
            return None
        if value is None:
            done: Deferred[None] = Deferred()
            done.callback(None)
            return done
        if streamId is not _ABSENT and not isinstance(value, (str, bytes, bytearray, memoryview)):
            plain = msgspec.to_builtins(value)
            if isinstance(plain, dict):
                value = {**plain, self._handlers.streamId: streamId}
        return self._caller.writeMessage(value)

    def _stream(self, event: str, items: Any, streamId: Any) -> Deferred[None] | None:
        if self._streams is None:
            self._streams = set()
        sending = Deferred.fromCoroutine(sendStream(items, lambda item: self._send(item, streamId), self._reactor))
        streams = self._streams
        streams.add(sending)

        def ended(result: Any) -> None:
            streams.discard(sending)
            if isinstance(result, Failure) and not result.check(CancelledError):
                self._raised(event, result)

        sending.addBoth(ended)
        if len(streams) < self._limits.streams:
            return None
        # No room for another: the next message waits until one of them ends. This one, for it is at hand.
        return sending

    # What it raised.

    def _raised(self, event: str, failure: Failure) -> None:
        self._logFailure(event, failure)
        if self._closedWith is None:
            error = HandlerError(f"{type(self._service).__name__}.{event} raised {type(failure.value).__name__}", event)
            error.__cause__ = failure.value
            self._connection.fail(error)

    def _logFailure(self, event: str, failure: Failure) -> None:
        self._log.failure("{service}.{event} raised", failure, service=type(self._service).__name__, event=event)


def _ignore(message: object) -> None:
    """Take a message that no handler takes."""
