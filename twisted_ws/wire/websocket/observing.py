"""Looking at the messages of one connection: only a connection that is looked at pays for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from twisted_ws.frames import OutgoingMessage
from twisted_ws.message import CLOSE, TEXT


class Observer(Protocol):
    """Whoever looks; nothing here may raise."""

    def received(self, message: str | bytes) -> None:
        """A message has come from the peer, and is about to be handled."""

    def sent(self, opcode: int, payload: bytes | str | memoryview, publication: Any) -> None:
        """A message goes to the peer; `publication` is what it was made of, None for one to this peer alone."""

    def ended(self, code: int, reason: str) -> None:
        """The connection is closed."""


class _Receiver:
    """Stands before the receiver of a connection that is observed."""

    def __init__(self, receiver: Any, observers: list[Observer]) -> None:
        self.receiver = receiver
        self._observers = observers

    def __getattr__(self, name: str) -> Any:
        return getattr(self.receiver, name)

    def messageReceived(self, message: str | bytes) -> None:
        for each in self._observers:
            each.received(message)
        self.receiver.messageReceived(message)

    def closed(self, statusCode: int, reason: str) -> None:
        for each in self._observers:
            each.ended(statusCode, reason)
        self.receiver.closed(statusCode, reason)


def _observed(kind: Any) -> type:
    """Return the class of a connection that is observed; its instances are laid out as those of `kind`, and become each other."""
    known = vars(kind).get("_observedClass")
    if known is not None:
        return cast("type", known)

    class Observed(kind):  # type: ignore[misc]
        __slots__ = ()
        isObserved = True

        def _said(self, opcode: int, payload: Any, publication: Any = None) -> None:
            for each in self._observers:
                each.sent(opcode, payload, publication)

        def writeFrame(self, opcode: int, payload: bytes) -> Any:
            if opcode < CLOSE:
                self._said(opcode, payload)
            return super().writeFrame(opcode, payload)

        def reply(self, opcode: int, payload: str | bytes) -> None:
            self._said(opcode, payload)
            super().reply(opcode, payload)

        def sendText(self, payload: bytes) -> bool:
            self._said(TEXT, payload)
            return bool(super().sendText(payload))

        def send(self, message: OutgoingMessage) -> bool:
            return self.sendAll((message,))

        def sendAll(self, messages: Sequence[OutgoingMessage]) -> bool:
            for each in messages:
                self._said(each.opcode, each.payload, getattr(each, "publication", None))
            return bool(super().sendAll(messages))

    Observed.__name__, Observed.__qualname__, Observed.__module__ = kind.__name__, kind.__qualname__, kind.__module__
    kind._observedClass = Observed  # each server has a class of its own, with which this goes
    return Observed


def observe(connection: Any, observer: Observer) -> Callable[[], None]:
    """Let an observer have what a connection receives and sends from now on; return what ends that.

    Until then, a message to many goes to this connection by itself, and not together with others.
    """
    if not isObserved(connection):
        connection._observers = []
        connection._wasOpen = connection.sender.open
        connection.sender.open = False
        connection.__class__ = _observed(type(connection))
        if hasattr(connection, "_receiver"):
            connection.replaceReceiver(_Receiver(connection._receiver, connection._observers))
    connection._observers = [*connection._observers, observer]
    _tell(connection)

    def stop() -> None:
        if observer in getattr(connection, "_observers", ()):
            connection._observers = [each for each in connection._observers if each is not observer]
            _tell(connection)
            if not connection._observers:
                _release(connection)

    return stop


def isObserved(connection: Any) -> bool:
    """Return whether anybody looks at a connection."""
    return hasattr(connection, "isObserved")


def unobserve(connection: Any) -> None:
    """Let a connection be as it was made, before it goes on in another process; whoever looks finds it there."""
    if isObserved(connection):
        connection._observers = []
        _release(connection)


def _tell(connection: Any) -> None:
    receiver = getattr(connection, "_receiver", None)
    if isinstance(receiver, _Receiver):
        receiver._observers = connection._observers


def _release(connection: Any) -> None:
    connection.__class__ = type(connection).__base__
    if connection.isOpen():
        connection.sender.open = connection._wasOpen
    receiver = getattr(connection, "_receiver", None)
    if isinstance(receiver, _Receiver):
        connection.replaceReceiver(receiver.receiver)
    del connection._observers, connection._wasOpen
