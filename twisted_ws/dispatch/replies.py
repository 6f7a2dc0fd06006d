"""What handlers return, as replies: values, and iterators that are sent item by item."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from twisted_ws.caller import Caller
from twisted_ws.dispatch.iteration import Iteration, isIterator
from twisted_ws.message import TEXT
from twisted_ws.service import CloseFrame
from twisted_ws.wire.loop.turns import Turns

__all__ = ["Replies"]

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NONE = msgspec.Raw()


class Replies:
    """Sends what handlers return to one caller.

    Args:
        caller: the recipient.
        idField: the field of a reply that takes the stream id.
        limit: how many iterators may be sent at the same time.
        turns: the budget for what all send in one turn of the reactor.
        failed: called with the failure of an iterator, and its event.
        released: called when an iterator that had to wait has begun.
    """

    __slots__ = ("_caller", "_failed", "_held", "_idField", "_iterations", "_limit", "_released", "_turns")

    def __init__(
        self,
        caller: Caller,
        idField: str,
        limit: int,
        turns: Turns,
        failed: Callable[[Failure, str], object],
        released: Callable[[], object],
    ) -> None:
        self._caller = caller
        self._idField = idField
        self._limit = limit
        self._turns = turns
        self._failed = failed
        self._released = released
        self._iterations: dict[Iteration, str] = {}
        self._held: tuple[Iteration, str, int] | None = None

    def send(self, value: Any, event: str, streamId: msgspec.Raw | None = None, mayHold: bool = True) -> bool:
        """Send what the handler of `event` returned.

        Args:
            value: any value; if the caller is closed, it is dropped, and an iterator is closed.
            event: the name of the handler.
            streamId: JSON that goes into replies that are JSON objects; None for none.
            mayHold: whether an iterator over the limit may wait for one of the others to end.

        Returns:
            False if it has to wait; `released` is called later.

        Raises:
            RuntimeError: an iterator is over the limit and may not wait.
            Exception: the value cannot be sent.
        """
        if value is None:
            return True
        if not isIterator(value):
            self._write(value, streamId)
            return True
        iteration = Iteration(value, lambda item: self._write(item, streamId), self._turns)
        size = 0 if streamId is None else len(streamId)  # the peer may make it a megabyte: it counts while it is held
        self._caller._connection.keep(size)
        if len(self._iterations) < self._limit or not self._caller.isOpen():
            self._start(iteration, event, size)
            return True
        if mayHold:
            self._held = iteration, event, size
            return False
        iteration.stop()
        self._start(iteration, event, size)
        raise RuntimeError(f"more than {self._limit} returned iterators at once")

    def stop(self) -> None:
        """End every iterator: the caller has left."""
        iterations = [*self._iterations.items()]
        if self._held is not None:
            iterations.append(self._held[:2])
        for iteration, event in iterations:
            try:
                iteration.stop()
            except BaseException:  # from the canceller of a Deferred that it awaits
                self._failed(Failure(), event)
        self._release()

    def _start(self, iteration: Iteration, event: str, size: int) -> None:
        self._iterations[iteration] = event
        if not self._caller.isOpen():
            iteration.stop()

        def ended(failure: Failure | None) -> None:
            del self._iterations[iteration]
            self._caller._connection.keep(-size)
            if failure is not None:
                self._failed(failure, event)
            self._release()

        iteration.start().addBoth(ended)

    def _release(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._start(*held)
            self._released()

    def _write(self, value: Any, streamId: msgspec.Raw | None) -> Deferred[None] | None:
        """Send one value; return None if nothing can follow it."""
        caller = self._caller
        if not caller.isOpen():
            return None
        if isinstance(value, CloseFrame):
            caller.close(value.code, value.reason)
            return None
        if streamId is not None and not isinstance(value, (str, bytes, bytearray, memoryview)):
            # Added to the JSON, so that the handler's object is not changed.
            return caller._connection.writeFrame(TEXT, _withId(value, self._idField, streamId))
        return caller.writeMessage(value)


def _withId(value: Any, name: str, streamId: msgspec.Raw) -> bytes:
    """Return a value as JSON; an object gets this field."""
    text = msgspec.json.encode(value)
    if not text.startswith(b"{"):
        return text
    if isinstance(value, msgspec.Raw) or _ids(name).decode(text).id is not _NONE:
        return msgspec.json.encode({**_fields.decode(text), name: streamId})
    # The common case: the other fields are not decoded.
    return b"".join((text[:-1], b"," if len(text) > 2 else b"", msgspec.json.encode(name), b":", streamId, b"}"))


@lru_cache(64)
def _ids(name: str) -> msgspec.json.Decoder[Any]:
    """Return a decoder that finds a field of this name in an object."""
    return msgspec.json.Decoder(msgspec.defstruct("Fields", [("id", msgspec.Raw, msgspec.field(name=name, default=_NONE))]))
