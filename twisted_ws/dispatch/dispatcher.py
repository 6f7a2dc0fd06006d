"""One event, one handler call: where a service's code is called (onUpgrade, which precedes the connection: `upgrades`).

Each call is guarded. An exception that escaped would go up through Autobahn into the reactor, which would drop the connection
without a close code and log the exception as its own; an awaitable that nobody awaits would never run.

This holds for every exception, including those that `except Exception` lets pass: asyncio's CancelledError, which a handler gets
when it awaits a task that is cancelled elsewhere, SystemExit and KeyboardInterrupt. A service must not stop the process that it
shares with others (Twisted turns a SIGINT into reactor.stop before Python raises KeyboardInterrupt, so one that is raised here
comes from the service): such an exception is logged like any other and ends that connection.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.caller import Caller, Registry
from twisted_ws.connection import Connection
from twisted_ws.dispatch.awaitables import asDeferred
from twisted_ws.dispatch.handlers import DispatchedHandler, Handlers
from twisted_ws.dispatch.iterations import Iterations, isIterator
from twisted_ws.dispatch.queue import MessageQueue
from twisted_ws.dispatch.replies import encodeReply
from twisted_ws.errors import BindingError, ConnectionClosed, HandlerError, InternalError, WebSocketError
from twisted_ws.logs import ofCaller, peerName
from twisted_ws.message import BINARY, TEXT
from twisted_ws.service import Stay
from twisted_ws.telemetry import tracing
from twisted_ws.wire.websocket.runtime import Runtime

_log = Logger()


def _wasNotBegun(error: BaseException) -> bool:
    """Return whether memory was too short to call the handler at all: the exception comes from no frame below the caller's.

    Python 3.12 and later may raise a MemoryError object again, with the traceback of its earlier use still in it.
    """
    trace = error.__traceback__
    if not isinstance(error, MemoryError) or trace is None or trace.tb_next is None:
        return isinstance(error, MemoryError)
    return trace.tb_next.tb_frame.f_back is not trace.tb_frame


class Dispatcher:
    """Calls the handlers of one service object for one caller; implements `twisted_ws.wire.websocket.receiver.EventReceiver`.

    Args:
        service: the service object.
        handlers: what it handles (`twisted_ws.dispatch.examination.examine`).
        caller: the caller.
        connection: its connection.
        runtime: the server's: its clock, its budget of turns, and the limits `jsonValues`, `readAhead`, `streams`, `handlerGrace`
            and, for onClose, `drainTimeout`.
        callers: the open callers of the server; this one joins before onOpen and leaves when it is no longer open.
        leaving: dispatchers whose caller has left, until handlers and onClose have ended; each with the Deferred that then fires.

    Attributes:
        caller: what its handlers get.
    """

    __slots__ = (
        "_callers",
        "_closedWith",
        "_connection",
        "_draining",
        "_grace",
        "_handlers",
        "_idling",
        "_iterations",
        "_leaving",
        "_limits",
        "_onBinary",
        "_onText",
        "_opened",
        "_queue",
        "_running",
        "_runtime",
        "_service",
        "caller",
    )

    def __init__(
        self,
        service: Any,
        handlers: Handlers,
        caller: Caller,
        connection: Connection,
        runtime: Runtime,
        callers: Registry,
        leaving: dict[Dispatcher, Deferred[None] | None],
    ) -> None:
        self._service = service
        self.caller = caller
        self._connection = connection
        self._runtime = runtime
        self._limits = runtime.limits
        self._callers = callers
        self._leaving = leaving
        self._handlers = handlers
        # The handlers that take a message as it came; None if there is more to decide.
        isPlain = handlers.envelope is None
        self._onText = service.onTextMessage if isPlain and "onTextMessage" in handlers.events else None
        self._onBinary = service.onBinaryMessage if isPlain and "onBinaryMessage" in handlers.events else None
        if tracing.tracer is not None:
            self._onText = self._onText and self._inSpan("onTextMessage", self._onText)
            self._onBinary = self._onBinary and self._inSpan("onBinaryMessage", self._onBinary)
        self._opened = False
        self._running = True  # a handler's turn: it is on the stack, or its awaitable is pending; at first onOpen's
        self._queue: MessageQueue | None = None  # made when the first message has to wait
        self._draining = False
        self._idling = False
        self._iterations: Iterations | None = None  # made for the first iterator that is returned
        self._closedWith: tuple[int, str] | None = None
        self._grace: Any = None

    # Events of the wire.

    def peer(self) -> str:
        """Return what the log calls the caller."""
        return peerName(self.caller.request.peerAddress, self.caller.request.peerPort)

    def facts(self) -> dict[str, Any]:
        """Return what the log knows of the caller as fields."""
        return {"service": type(self._service).__name__, **ofCaller(self.caller)}

    def opened(self) -> None:
        """Join the callers and call onOpen; messages wait for its end."""
        self._callers.add(self.caller)
        if self._closedWith is not None:  # during `add`, when a finaliser ran the reactor
            self._callers.discard(self.caller)
            return
        self._opened = done = True
        if "onOpen" in self._handlers.events:
            try:
                if tracing.tracer is None:
                    result = self._service.onOpen(self.caller)
                else:
                    result = self._inSpan("onOpen", self._service.onOpen)(self.caller)
                done = result is None or self._take(result, "onOpen")
            except BaseException as error:
                self._opened = not _wasNotBegun(error)  # then the service is not told of the end either
                done = self._raised(Failure(), "onOpen")
        if done:
            self._running = False
            if self._queue is not None or self._closedWith is not None:
                self._finished()

    def messageReceived(self, message: str | bytes) -> None:
        """Handle a message now, or when those before it have been handled."""
        if self._running:
            self._keep(message)
            return
        self._running = True
        if message.__class__ is str:
            event, handler = "onTextMessage", self._onText
        else:
            event, handler = "onBinaryMessage", self._onBinary
        try:
            if handler is None:
                done = self._route(message)
            else:
                result = handler(self.caller, message)
                done = result is None or self._take(result, event)
        except BaseException:
            done = self._raised(Failure(), event)
        if done:
            self._running = False
            if self._queue is not None or self._closedWith is not None:
                self._drain()

    def pingReceived(self, data: bytes) -> bool:
        """Call onPing at once, ahead of waiting messages; without it the wire answers."""
        if "onPing" not in self._handlers.events:
            return False
        self._callAtOnce("onPing", self._service.onPing, data)
        return True

    def pongReceived(self, data: bytes) -> None:
        """Call onPong at once."""
        if "onPong" in self._handlers.events:
            self._callAtOnce("onPong", self._service.onPong, data)

    def idle(self) -> None:
        """Call onIdleTimeout; close, unless it wrote to the caller."""
        if self._idling:
            return  # it is still running: once is enough
        before = self._connection.activity()

        def handled() -> None:
            self._idling = False
            if self._connection.activity() == before and self.caller.isOpen():
                self.caller.close(1000, "idle timeout")

        if "onIdleTimeout" in self._handlers.events:
            self._idling = True
            self._callAtOnce("onIdleTimeout", self._service.onIdleTimeout, then=handled)
        else:
            handled()

    def failed(self, error: WebSocketError) -> None:
        """Call onError; what it returns is not sent."""
        if self._opened and "onError" in self._handlers.events:
            self._tell("onError", self._service.onError, error)

    def closing(self) -> None:
        """Leave the callers."""
        self._callers.discard(self.caller)
        self.caller.leaveChannels()
        if self._opened and self not in self._leaving:
            self._leaving[self] = None  # a stop that waits for it puts a Deferred here

    def closed(self, statusCode: int, reason: str) -> None:
        """Call onClose once the messages received before have been handled, or the grace period is over."""
        self._closedWith = (statusCode, reason)
        if self._running and self._opened:
            self._grace = self._runtime.reactor.callLater(self._limits.handlerGrace, self._graceOver)
        if self._iterations is not None:
            self._iterations.stop()
        if not self._running:
            self._sayClosed()

    def giveUp(self) -> None:
        """Wait no longer for running handlers, because the server is ending: call onClose now."""
        if self._opened:
            self._graceOver()
        self._gone()

    def _graceOver(self) -> None:
        self._endGrace()
        name = type(self._service).__name__
        if not self._opened:
            if turn := self._connection.mayLog(f"{name}.onClose is still running"):
                _log.warn(
                    "{service}.onClose is still running; the stop no longer waits for it",
                    service=name,
                    event="handler.late",
                    **ofCaller(self.caller),
                    suppressed=turn - 1,
                )
            self._gone()
            return
        if turn := self._connection.mayLog(f"{name}: a handler is still running"):
            _log.warn(
                "{service}: a handler is still running after its caller has left and its time is up; {count} messages dropped",
                service=name,
                count=len(self._queue or ()),
                event="handler.late",
                **ofCaller(self.caller),
                suppressed=turn - 1,
            )
        self._dropQueue()
        self._sayClosed()

    def _endGrace(self) -> None:
        grace, self._grace = self._grace, None
        if grace is not None and grace.active():
            grace.cancel()

    def _sayClosed(self) -> None:
        if not self._opened:
            return  # said already
        self._opened = False
        if self._grace is not None:
            self._endGrace()
        self._iterations = None
        if "onClose" in self._handlers.events:
            try:
                pending = self._tell("onClose", self._service.onClose, *(self._closedWith or ()))
            except MemoryError:
                self._opened = True  # it was not told: the connection's end is reported again
                raise
            if pending is not None:
                pending.addCallback(self._gone)
                if self in self._leaving:
                    self._grace = self._runtime.reactor.callLater(self._limits.drainTimeout, self._graceOver)
                return
        self._gone()

    def _gone(self, _: object = None) -> None:
        if self._grace is not None:
            self._endGrace()
        self.caller.membership = None  # it refers to the caller: break the cycle, so that no garbage collection is needed
        end = self._leaving.pop(self, None)
        if end is not None:
            end.callback(None)

    # Hand-over to another process.

    @property
    def service(self) -> Any:
        """The service object."""
        return self._service

    @property
    def isIdle(self) -> bool:
        """Whether nothing of the service runs or waits for this caller."""
        runs = self._running or self._queue is not None or self._draining or self._idling or not self._opened
        return not runs and self._closedWith is None and (self._iterations is None or self._iterations.isEmpty)

    def handOver(self) -> Any:
        """Call onHandOver, and return what it returns.

        Raises:
            Stay: this caller does not go; also if the handler fails, or wants to be awaited.
        """
        if "onHandOver" not in self._handlers.events:
            return None
        self._running = True  # what comes meanwhile waits
        try:
            state = self._service.onHandOver(self.caller)
            pending = asDeferred(state)
            if pending is not None:
                pending.addErrback(lambda failure: None)
                pending.cancel()
                raise TypeError("onHandOver must not be async: what it returns goes with the connection")
        except Stay:
            raise
        except BaseException:
            self._logFailure(Failure(), "onHandOver")
            raise Stay from None
        finally:
            self._running = False
            if self._queue is not None:
                self._finished()
        return state

    def stay(self, state: Any) -> None:
        """Give back to the service, by onResume, what `handOver` has returned: the caller has not left after all."""
        if self._closedWith is None:
            self._running = True
            self._resume(state)

    def depart(self) -> None:
        """Forget the caller, which goes on elsewhere: nothing of the service is called for it any more."""
        self._callers.discard(self.caller)
        self._opened = False
        self._iterations = None
        self.caller.membership = None  # see `_gone`

    def arrive(self, state: Any) -> None:
        """Join the callers, as one that has come from elsewhere, and call onResume; messages wait for its end.

        One that has left before it came is resumed, too, and then closed: the service has to know that it has gone.
        """
        if self.caller.isOpen():
            self._callers.add(self.caller)
        self._resume(state)

    def _resume(self, state: Any) -> None:
        self._opened = done = True
        if "onResume" in self._handlers.events:
            try:
                result = self._service.onResume(self.caller, state)
                done = result is None or self._take(result, "onResume")
            except BaseException:
                done = self._raised(Failure(), "onResume")
        if done:
            self._running = False
            if self._queue is not None or self._closedWith is not None:
                self._finished()

    # Messages that wait.

    def _keep(self, message: str | bytes) -> None:
        if self._queue is None:
            self._queue = MessageQueue(self._connection, self._limits.readAhead)
        self._queue.put(message)

    def _dropQueue(self) -> None:
        if self._queue is not None:
            self._queue.clear()
            self._queue = None

    def _finished(self) -> None:
        self._running = False
        try:
            self._drain()
        except Exception as error:
            # Called by a Deferred, which would swallow it. What waits is no longer handled.
            self._dropQueue()
            self._connection.fail(InternalError(f"{type(error).__name__} inside the server"))
            _log.failure("waiting messages failed inside the server", event="connection.broken")

    def _drain(self) -> None:
        """Handle waiting messages until a handler takes its time. A loop, not recursion: there may be thousands."""
        if self._draining:
            return
        self._draining = True
        try:
            while self._queue and not self._running:
                self.messageReceived(self._queue.take())
        finally:
            self._draining = False
        waiting = self._queue
        if waiting is not None and self._closedWith is None:
            if not waiting:
                self._queue = None
            waiting.ease()
        if self._closedWith is not None and not self._running:
            self._sayClosed()

    # Which handler.

    def _route(self, message: str | bytes) -> bool:
        """Find the handler by the dispatcher field, or by the kind of message."""
        handlers, service = self._handlers, self._service
        if handlers.envelope is not None:
            read = handlers.envelope.read(message)
            dispatch = None if read is None else handlers.find(read[0])
            if read is not None and dispatch is not None:
                return self._dispatch(dispatch, message, read[1])
            event = "onTextMessage" if isinstance(message, str) else "onBinaryMessage"
            if event in handlers.events:
                return self._call(event, getattr(service, event), message)
        if "onMessage" not in handlers.events:
            return True
        try:
            bound = handlers.message.bind(message, self._limits.jsonValues)
        except BindingError as error:
            self._fail(error)
            return True
        except BaseException:  # a __post_init__ of the annotation
            return self._raised(Failure(), "onMessage")
        return self._call("onMessage", service.onMessage, bound)

    def _dispatch(self, dispatch: DispatchedHandler, message: str | bytes, streamId: Raw | None) -> bool:
        # The names are those found when the service was examined; nothing that a peer sends reaches getattr.
        name = dispatch.name
        try:
            argument = dispatch.binder.bind(message, self._limits.jsonValues)
        except BindingError as error:
            if not dispatch.errorName:
                self._fail(error)
                return True
            name, argument = dispatch.errorName, error
        except BaseException:
            return self._raised(Failure(), name)
        return self._call(name, getattr(self._service, name), argument, streamId=streamId)

    # The call.

    def _call(self, event: str, handler: Callable[..., Any], *arguments: Any, streamId: Raw | None = None) -> bool:
        """Call a handler whose turn it is; return False if it is not done: then `_finished` follows."""
        if tracing.tracer is not None:
            handler = self._inSpan(event, handler)
        try:
            result = handler(self.caller, *arguments)
            return result is None or self._take(result, event, streamId)
        except BaseException:
            return self._raised(Failure(), event)

    def _inSpan(self, event: str, handler: Callable[..., Any]) -> Callable[..., Any]:
        """Return a handler that makes a span of its call."""
        name = type(self._service).__name__
        attributes = {
            "twisted_ws.service": name,
            "twisted_ws.handler": event,
            "twisted_ws.connection": self.caller.connectionId,
            "url.path": self.caller.request.path,
        }

        def call(*arguments: Any) -> Any:
            return tracing.traced(f"{name}.{event}", handler, *arguments, attributes=attributes)

        return call

    def _take(self, result: Any, event: str, streamId: Raw | None = None) -> bool:
        """Take what a handler returned; return False if it is not done: then `_finished` follows."""
        kind = result.__class__
        if kind is str:  # the common case: it needs neither a Deferred nor a coroutine
            self._connection.reply(TEXT, result)
            return True
        if kind is bytes:
            self._connection.reply(BINARY, result)
            return True
        runtime = self._runtime
        begun = runtime.turns.seconds()  # a coroutine begins to run now
        pending = asDeferred(result)
        if pending is None:
            return self._reply(result, event, streamId)
        runtime.counts.running += 1
        pending.addBoth(self._counted, event, begun)
        pending.addCallback(self._reply, event, streamId)
        pending.addErrback(self._raised, event)
        if pending.called and not pending.paused:
            return bool(pending.result)
        pending.addCallback(lambda done: self._finished() if done else None)
        return False

    def _counted(self, result: Any, event: str, begun: float) -> Any:
        """Count a handler that had to wait for something."""
        counts = self._runtime.counts
        counts.running -= 1
        counts.handling.of(type(self._service).__name__, event).add(self._runtime.turns.seconds() - begun)
        return result

    def _callAtOnce(
        self, event: str, handler: Callable[..., Any], *arguments: Any, then: Callable[[], None] | None = None
    ) -> None:
        """Call a handler alongside the running ones; call `then` when it has ended."""

        def replied(result: Any) -> None:
            self._reply(result, event, mayHold=False)

        def ended(_: Any) -> None:
            if then is not None:
                then()

        if tracing.tracer is not None:
            handler = self._inSpan(event, handler)
        try:
            result = handler(self.caller, *arguments)
            pending = asDeferred(result)
            if pending is None:
                replied(result)
        except BaseException:
            self._raised(Failure(), event)
            pending = None
        if pending is None:
            ended(None)
        else:
            pending.addCallback(replied).addErrback(self._raised, event).addCallback(ended)

    def _tell(self, event: str, handler: Callable[..., Any], *arguments: Any) -> Deferred[Any] | None:
        """Call onError or onClose: what it returns is not sent, what it raises is only logged; return what it waits for.

        Raises:
            MemoryError: it could not be called.
        """
        if tracing.tracer is not None:
            handler = self._inSpan(event, handler)
        try:
            pending = asDeferred(handler(self.caller, *arguments))
        except BaseException as error:
            if _wasNotBegun(error):
                raise
            with suppress(MemoryError):
                self._logFailure(Failure(), event)
            return None
        return pending if pending is None else pending.addErrback(self._logFailure, event)

    def _reply(self, value: Any, event: str, streamId: Raw | None = None, mayHold: bool = True) -> bool:
        """Send what a handler returned; return False if the next message has to wait."""
        idField = self._handlers.streamId
        if isIterator(value):
            if self._iterations is None:
                self._iterations = Iterations(
                    self.caller, idField, self._limits.streams, self._runtime.turns, self._raised, self._finished
                )
            return self._iterations.start(value, event, streamId, mayHold)
        reply = None if value is None else encodeReply(self.caller, value, idField, streamId)
        if reply is not None:
            self._connection.reply(*reply)
        return True

    # What it raised.

    def _raised(self, failure: Failure, event: str) -> bool:
        """End the connection because a handler raised; return True: the handler is done."""
        if failure.check(ConnectionClosed) and not self.caller.isOpen():
            return True  # it awaited a write when the peer left: not a mistake
        self._logFailure(failure, event)
        if self._closedWith is None:
            error = HandlerError(f"{type(self._service).__name__}.{event} raised {type(failure.value).__name__}", event)
            error.__cause__ = failure.value
            self._fail(error)
        return True

    def _fail(self, error: WebSocketError) -> None:
        if self.caller.isOpen():
            # This ends the connection, so what the peer sent after it does not count, whether it was read already or not.
            self._dropQueue()
        self._connection.fail(error)

    def _logFailure(self, failure: Failure, event: str) -> None:
        name = type(self._service).__name__
        self._runtime.counts.handlerErrors.add(name, event)
        if turn := self._connection.mayLog(f"{name}.{event} raised {type(failure.value).__name__}"):
            _log.failure(
                "{service}.{handler} raised",
                failure,
                service=name,
                handler=event,
                event="handler.failed",
                **ofCaller(self.caller),
                **tracing.ofError(failure.value),
                suppressed=turn - 1,
            )
