"""Connections whose clients say who they are in their first message: until then there is no caller, and no service knows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.access.refusals import MISSING, AccessRefused
from twisted_ws.access.sources import MOST_BYTES
from twisted_ws.closecodes import EXPIRED, REFUSED
from twisted_ws.dispatch.queue import MessageQueue
from twisted_ws.errors import CloseCode
from twisted_ws.logs import ofRequest, peerName, printable
from twisted_ws.message import TEXT
from twisted_ws.service import checkClose
from twisted_ws.upgrade import Reject

if TYPE_CHECKING:
    from twisted_ws.access.chain import Chain
    from twisted_ws.errors import WebSocketError
    from twisted_ws.upgrade import UpgradeRequest
    from twisted_ws.wire.websocket.connection import WebSocketConnection
    from twisted_ws.wire.websocket.receiver import EventReceiver
    from twisted_ws.wire.websocket.runtime import Runtime

# Characters of the message beyond those of the longest token.
AROUND = 256
CLOSING = 5.0  # seconds for the peer's Close

_log = Logger()


class _Auth(msgspec.Struct, tag_field="type", tag="auth"):
    token: str
    ref: int | str | None = None


_decoder = msgspec.json.Decoder(_Auth)


class Admission(NamedTuple):
    """What a good token leads to.

    Attributes:
        attend, idleTimeout: see `twisted_ws.wire.websocket.welcome.Welcome`.
        answer: the answer to the message, a JSON object.
    """

    attend: Callable[[WebSocketConnection], EventReceiver]
    idleTimeout: float
    answer: bytes


def mayFollow(error: BaseException | None, request: UpgradeRequest, chain: Chain | None) -> bool:
    """Return whether a handshake was refused for want of credentials that may follow in a message."""
    isMissing = isinstance(error, AccessRefused) and error.reason == MISSING and request.identity is None
    return isMissing and chain is not None and chain.takesMessage


class Undecided:
    """The connections of a server that wait for such a message; beyond `Limits.maxUnauthenticated`, the oldest is closed.

    Args:
        runtime: the server's.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._waiting: dict[FirstMessage, None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, one: FirstMessage) -> None:
        """Add one."""
        self._waiting[one] = None
        self.runtime.deciding.add(one)
        if len(self._waiting) > self.runtime.limits.maxUnauthenticated:
            oldest = next(iter(self._waiting))
            oldest.leave(CloseCode.TRY_AGAIN_LATER, "too many are not authenticated")

    def discard(self, one: FirstMessage) -> None:
        """Remove one; do nothing if it is not there."""
        self._waiting.pop(one, None)
        self.runtime.deciding.discard(one)


class FirstMessage:
    """Takes the events of a connection until its client has said who it is; implements `EventReceiver`.

    Args:
        connection: the connection.
        request: its handshake.
        undecided: those that wait like this.
        admit: finds out what a token leads to.
    """

    __slots__ = ("_admit", "_checking", "_connection", "_deliver", "_queue", "_request", "_undecided")

    membership = None

    def __init__(
        self,
        connection: WebSocketConnection,
        request: UpgradeRequest,
        undecided: Undecided,
        admit: Callable[[str], Awaitable[Admission]],
    ) -> None:
        self._connection = connection
        self._request = request
        self._undecided = undecided
        self._admit = admit
        self._checking: Deferred[Any] | None = None
        self._queue: MessageQueue | None = None
        self._deliver: Callable[[str | bytes], None] | None = None  # where messages go afterwards

    @property
    def caller(self) -> FirstMessage:
        """Itself, in place of a caller: messages for all callers are not for it."""
        return self

    def peer(self) -> str:
        """Return what the log calls the client."""
        return peerName(self._request.peerAddress, self._request.peerPort)

    def facts(self) -> dict[str, Any]:
        """Return what the log knows of it as fields."""
        return ofRequest(self._request)

    def opened(self) -> None:
        """Begin to wait."""
        runtime = self._undecided.runtime
        self._undecided.add(self)
        self._connection.remind(runtime.wheel.seconds() + runtime.limits.authDeadline, self._late)

    def _late(self) -> None:
        self.leave(EXPIRED, "not authenticated in time")

    def messageReceived(self, message: str | bytes) -> None:
        """Read the token; what comes after it waits."""
        if self._deliver is not None:  # still of a read that began before
            self._deliver(message)
        elif self._checking is not None:
            if self._queue is None:
                self._queue = MessageQueue(self._connection, self._undecided.runtime.limits.readAhead)
            self._queue.put(message)
        else:
            self._check(message)

    def _check(self, message: str | bytes) -> None:
        try:
            if isinstance(message, bytes) or len(message) > MOST_BYTES + AROUND:
                raise ValueError
            auth = _decoder.decode(message)
        except (ValueError, RecursionError):
            self.leave(EXPIRED, "authenticate first")
            return
        self._connection.remind(None)  # the client has done its part
        self._checking = checking = Deferred.fromCoroutine(self._goOn(auth))
        checking.addErrback(self._failed)

    async def _goOn(self, auth: _Auth) -> None:
        attend, idleTimeout, answer = await self._admit(auth.token)
        if not self._connection.isOpen():
            return
        self._undecided.discard(self)
        if auth.ref is not None:
            answer = answer[:-1] + b',"ref":' + msgspec.json.encode(auth.ref) + b"}"
        self._connection.reply(TEXT, answer.decode())
        self._deliver = self._connection.passOn(attend, idleTimeout)
        queue, self._queue = self._queue, None
        if queue is not None:
            waiting = [queue.take() for _ in range(len(queue))]
            queue.ease()
            for each in waiting:
                self._deliver(each)

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, CancelledError) and not self._connection.isOpen():
            return
        if not isinstance(error, Reject):
            _log.failure("the first message of a connection failed inside the server", failure, event="connection.broken")
            self.leave(CloseCode.INTERNAL_ERROR, "internal error")
            return
        reason = error.reason if isinstance(error, AccessRefused) and error.reason else "refused"
        self._undecided.runtime.throttle.info(
            _log,
            f"first message refused with {error.status}",
            "{client}: {status} {reason} ({path})",
            client=self.peer(),
            status=error.status,
            reason=printable(error.summary),
            **ofRequest(self._request),
            event="handshake.refused",
        )
        self.leave(REFUSED + error.status, reason)

    def leave(self, code: int, reason: str) -> None:
        """Close the connection."""
        self._undecided.discard(self)
        self._connection.startClose(checkClose(code, reason), CLOSING)

    def stop(self, timeout: float) -> Deferred[None]:
        """Close the connection because the server stops (see `twisted_ws.wire.websocket.runtime.OpenResponse`)."""
        self._undecided.discard(self)
        return self._connection.startClose(checkClose(CloseCode.GOING_AWAY, "server stops"), timeout)

    def pingReceived(self, data: bytes) -> bool:
        """Let the connection answer."""
        return False

    def pongReceived(self, data: bytes) -> None:
        """Do nothing."""

    def idle(self) -> None:
        """Do nothing: there is a deadline."""

    def failed(self, error: WebSocketError) -> None:
        """Do nothing: nobody is to be told."""

    def closing(self) -> None:
        """Wait no longer."""
        self._undecided.discard(self)
        if self._checking is not None and self._deliver is None:
            self._checking.cancel()
        if self._queue is not None:
            self._queue.clear()
            self._queue = None

    def closed(self, statusCode: int, reason: str) -> None:
        """Do nothing: there was no caller."""
