"""The wire of one connection, without a wire."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from tests.memory import SteadyClock
from twisted_ws.caller import Caller
from twisted_ws.dispatch.dispatcher import Dispatcher
from twisted_ws.dispatch.examination import examine
from twisted_ws.errors import ConnectionClosed, WebSocketError
from twisted_ws.limits import Limits
from twisted_ws.message import TEXT, textPayload
from twisted_ws.upgrade import UpgradeRequest
from twisted_ws.wire.websocket.outbox import failedWrite
from twisted_ws.wire.websocket.runtime import Runtime


class Turns(SteadyClock):
    """A clock that also has the turns of a reactor: what is due now, and not what that makes due."""

    def turn(self) -> None:
        for call in self.getDelayedCalls():
            if call.active() and call.getTime() <= self.seconds():
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)


class Peer:
    """A peer and the wire to it, of a server of its own or that of another one (`beside`).

    Writes down what a dispatcher asks for, and tells it what happens.

    Attributes:
        sent: each frame that was written: (opcode, payload).
        unread: the Deferreds of writes while the peer reads nothing.
        errors: what the connection was failed with.
        closedWith: our Close: (code, reason).
        reading: whether the peer is read from.
        waiting: the bytes of messages that wait for a handler, as they were told.
        kept: the bytes that are held elsewhere, as they were told.
    """

    def __init__(
        self,
        service: object,
        limits: Limits | None = None,
        callers: set[Caller] | None = None,
        beside: Peer | None = None,
    ) -> None:
        self.clock = Turns() if beside is None else beside.clock
        runtime = Runtime(self.clock, limits)
        self.turns = runtime.turns = runtime.turns if beside is None else beside.turns
        self.sent: list[tuple[int, bytes]] = []
        self.unread: list[Deferred[None]] = []
        self.reads = True
        self.reading = True
        self.pauses = 0
        self.waiting = self.kept = 0
        self.errors: list[WebSocketError] = []
        self.closedWith: tuple[int, str] | None = None
        self.onResume: Callable[[], None] = lambda: None
        self._open = True
        self.callers: set[Caller] = set() if callers is None else callers
        self.leaving: dict[Dispatcher, Deferred[None]] = {}
        self.caller = Caller(self, UpgradeRequest("/ws"))
        self.dispatcher = Dispatcher(service, examine(service), self.caller, self, runtime, self.callers, self.leaving)

    # What the peer does.

    def open(self) -> Peer:
        self.dispatcher.opened()
        return self

    def say(self, *messages: str | bytes) -> Peer:
        for message in messages:
            self.dispatcher.messageReceived(message)
        return self

    def read(self) -> None:
        """Take what waits, and go on reading."""
        self.reads = True
        unread, self.unread = self.unread, []
        for each in unread:
            each.callback(None)

    def leave(self, code: int = 1006, reason: str = "") -> None:
        self.end()
        unread, self.unread = self.unread, []
        for each in unread:
            failedWrite(ConnectionClosed(code, reason), each)
        self.dispatcher.closed(code, reason)

    def end(self) -> None:
        if self._open:
            self._open = False
            self.dispatcher.closing()

    def texts(self) -> list[str]:
        return [payload.decode() for opcode, payload in self.sent if opcode == TEXT]

    def failedWith(self) -> list[int | None]:
        return [error.code for error in self.errors]

    # Link.

    def writeFrame(self, opcode: int, payload: bytes) -> Deferred[None]:
        if not self._open:
            return failedWrite(ConnectionClosed())
        self.sent.append((opcode, payload))
        written: Deferred[None] = Deferred()
        if self.reads:
            written.callback(None)
        else:
            self.unread.append(written)
        return written

    def reply(self, opcode: int, payload: str | bytes) -> None:
        self.writeFrame(opcode, payload if isinstance(payload, bytes) else textPayload(payload))

    def send(self, message: Any) -> bool:
        raise NotImplementedError

    def startClose(self, payload: bytes, timeout: float) -> Deferred[None]:
        if self._open:
            self.end()
            self.closedWith = int.from_bytes(payload[:2], "big"), payload[2:].decode()
        return Deferred()

    def isOpen(self) -> bool:
        return self._open

    def isSecure(self) -> bool:
        return False

    def keep(self, by: int) -> None:
        self.kept += by

    def bufferedAmount(self) -> int:
        return 0

    # Connection.

    def pauseReading(self) -> None:
        self.reading = False
        self.pauses += 1

    def resumeReading(self) -> None:
        self.reading = True
        self.onResume()

    def fail(self, error: WebSocketError) -> None:
        self.errors.append(error)
        if self._open:
            self.dispatcher.failed(error)
            self.end()

    def waits(self, size: int) -> None:
        self.waiting = size

    def mayLog(self, kind: str) -> bool:
        return True

    def activity(self) -> int:
        return len(self.sent)


def alive(*kinds: type) -> int:
    """Return how many objects of these types there are."""
    gc.collect()
    return sum(type(each) in kinds for each in gc.get_objects())


class Recorder:
    """A service that writes down the end of a connection."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def onError(self, caller: Caller, error: WebSocketError) -> None:
        self.heard.append(error)

    def onClose(self, caller: Caller, statusCode: int, reason: str) -> None:
        self.heard.append((statusCode, reason))
