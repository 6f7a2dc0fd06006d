"""The handlers of a service, by event."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from twisted_ws.dispatch.binding import Binder
from twisted_ws.dispatch.envelope import Envelope

_LONGEST = 256  # characters of a value that may name a method: splitting a megabyte of blanks takes a tenth of a second


@dataclass(frozen=True, slots=True)
class DispatchedHandler:
    """One handler of dispatched messages.

    Attributes:
        name: the method.
        binder: decodes the message.
        errorName: the method that takes its binding errors; "" if there is none.
    """

    name: str
    binder: Binder
    errorName: str = ""


@dataclass(frozen=True, slots=True)
class Handlers:
    """What a service object handles.

    Attributes:
        events: the events that it has a method for.
        message: decodes for onMessage.
        byValue: dispatched handlers marked with `@dispatches`, by value.
        byName: the other dispatched handlers, by method name.
        subProtocols: the subprotocols that it speaks.
        idleTimeout: seconds; 0 for none.
        envelope: reads the field that names the event, and `streamId`; None if nothing is dispatched.
        streamId: the field that is copied into replies; "" if there is none.
    """

    events: frozenset[str]
    message: Binder = field(default_factory=Binder)
    byValue: dict[str, DispatchedHandler] = field(default_factory=dict)
    byName: dict[str, DispatchedHandler] = field(default_factory=dict)
    subProtocols: tuple[str, ...] = ()
    idleTimeout: float = 0
    envelope: Envelope | None = None
    streamId: str = ""

    def find(self, value: str) -> DispatchedHandler | None:
        """Return the handler for a value of the dispatcher field, None if there is none."""
        return self.byValue.get(value) or (self.byName.get(handlerName(value)) if len(value) <= _LONGEST else None)


def handlerName(value: str) -> str:
    """Return the method name for a value of the dispatcher field: "un subscribe" is onUnSubscribe."""
    return "on" + "".join(part[0].upper() + part[1:] for part in re.split(r"[\W_]+", value) if part)
