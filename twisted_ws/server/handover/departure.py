"""The process that callers leave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from twisted_ws.channels.moving import Expectation
from twisted_ws.channels.subscribers.buffered import BufferedSubscriber
from twisted_ws.channels.subscribers.websocket import JsonSubscriber, RawSubscriber
from twisted_ws.dispatch.dispatcher import Dispatcher
from twisted_ws.dispatch.examination import examine
from twisted_ws.dispatch.resumable import isResumable, original
from twisted_ws.engines.journal import Journal
from twisted_ws.engines.memory import MemoryEngine
from twisted_ws.logs import printable
from twisted_ws.names import isPattern
from twisted_ws.server.handover.states import (
    CallerState,
    NotPortable,
    encode,
    identityState,
    pack,
    requestState,
)
from twisted_ws.service import Stay
from twisted_ws.wire.websocket import moving
from twisted_ws.wire.websocket.moving import Obstacle
from twisted_ws.wire.websocket.observing import unobserve

if TYPE_CHECKING:
    from twisted_ws.caller import Caller
    from twisted_ws.server.server import WebSocketServer

_log = Logger()

_KINDS: dict[type[Any], str] = {RawSubscriber: "raw", JsonSubscriber: "json", BufferedSubscriber: "plain"}


class Departure:
    """Takes callers out of a server, each with all that it needs elsewhere.

    Args:
        server: the server.
        expectation: see `Expectation`.
        journal: what the engine tells; None if it does not number that.

    Attributes:
        isExact: whether it is known what a subscriber of a pattern has got.
    """

    def __init__(self, server: WebSocketServer, expectation: Expectation, journal: Journal | None) -> None:
        self._server = server
        self._expectation = expectation
        self._journal = journal
        # Else nobody knows what a caller has got of a pattern, which has no positions.
        self.isExact = journal is not None or isinstance(server.engine, MemoryEngine)
        self._told: set[tuple[str, str]] = set()

    def obstacle(self, caller: Caller, ready: set[str] | None = None) -> Obstacle | None:
        """Return why a caller does not leave now; None if it can.

        Args:
            caller: an open one.
            ready: the channels that the other process watches; None: all.
        """
        connection: Any = caller._connection
        unobserve(connection)  # a tail is no reason to stay
        found = moving.obstacle(connection)
        if found is not None and not found.passes:
            return found
        dispatcher = connection._receiver
        if not isinstance(dispatcher, Dispatcher):
            return Obstacle.HANDLER  # nobody knows yet who it is
        if not self._isResumable(caller, dispatcher):
            return Obstacle.SERVICE
        if caller.request.clientCertificate is not None:
            return Obstacle.TLS
        subscriber: Any = caller.membership
        if subscriber is not None:
            if type(subscriber) not in _KINDS:
                return Obstacle.SERVICE
            if not self.isExact and any(map(isPattern, caller.channels)):
                return Obstacle.STATE
        if found is not None:
            return found
        if not dispatcher.isIdle:
            return Obstacle.HANDLER
        if subscriber is not None and not self._expectation.canDepart(subscriber, ready):
            return Obstacle.WAITS
        return None

    def _isResumable(self, caller: Caller, dispatcher: Dispatcher) -> bool:
        match = self._server.match(caller.request.target.partition("?")[0])
        service = original(dispatcher.service)
        # One that an onUpgrade has chosen is known to nobody there.
        return match is not None and match.value.service is service and isResumable(service, examine(service))

    def depart(self, caller: Caller, ready: set[str] | None = None) -> tuple[bytes, Any] | Obstacle:
        """Take a caller out of the server.

        Returns:
            Its state and its socket (see `twisted_ws.wire.websocket.moving.depart`); or why it stays: if that does not pass, its
            connection has to be closed.
        """
        server = self._server
        if server.runtime.fanOuts.pending:
            server.runtime.fanOuts.catchUp(caller)
        found = self.obstacle(caller, ready)
        if found is not None:
            return found
        connection: Any = caller._connection
        dispatcher: Dispatcher = connection._receiver
        name = type(original(dispatcher.service)).__name__
        try:
            self._parts(caller, name)  # before the service is told that it leaves
            answer = dispatcher.handOver()
        except (Stay, NotPortable):
            return Obstacle.STATE
        try:
            said = self.packed(answer, name, "what onHandOver returns")
            user, requestUser, attributes, identity = self._parts(caller, name)
            found = self.obstacle(caller, ready)
        except NotPortable:
            found = Obstacle.STATE
        if found is not None:
            dispatcher.stay(answer)  # the service thinks that it has gone
            return Obstacle.STATE if found.passes else found
        subscriber: Any = caller.membership
        terms = [] if caller.life is None else [(channel, *term) for channel, term in caller.life.terms()]
        subscriptions = [] if subscriber is None else self._expectation.depart(subscriber)
        dispatcher.depart()
        state, left = moving.depart(connection)
        moved = CallerState(
            0 if self._journal is None else self._journal.number,
            state,
            caller.connectionId,
            caller.since,
            caller.negotiatedSubProtocol,
            requestState(caller.request),
            identity,
            user,
            requestUser,
            attributes,
            said,
            "" if subscriber is None else _KINDS[type(subscriber)],
            0.0 if subscriber is None else subscriber.held,
            subscriptions,
            terms,
        )
        return encode(moved), left

    def _parts(self, caller: Caller, name: str) -> tuple[bytes, bytes, bytes, Any]:
        attributes = caller._attributes
        if attributes:
            for key, value in attributes.items():
                self.packed(value, name, f"attributes[{printable(repr(key))}]")
        try:
            identity = identityState(caller.identity, self._server.limits.handOverState)
        except NotPortable as error:
            self._tell(name, "identity.info", error)
            raise
        return (
            self.packed(caller.user, name, "user"),
            self.packed(caller.request.user, name, "request.user"),
            self.packed(attributes, name, "attributes"),
            identity,
        )

    def packed(self, value: Any, name: str, what: str) -> bytes:
        """Return a value as msgpack; log once if it has no form.

        Args:
            value: the value.
            name: the class of the service.
            what: what the value is, for the log.

        Raises:
            NotPortable: it has none.
        """
        try:
            return pack(value, self._server.limits.handOverState)
        except NotPortable as error:
            self._tell(name, what, error)
            raise

    def _tell(self, name: str, what: str, error: NotPortable) -> None:
        if (name, what) not in self._told:
            self._told.add((name, what))
            _log.warn(
                "{service}: callers do not go on in the new process, because {what} cannot go with them ({reason})",
                service=name,
                what=what,
                reason=printable(error),
                event="handover.kept",
            )
