"""What handlers return: values now, values later, and iterators that are sent item by item."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import lru_cache
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from twisted_ws.caller import Caller
from twisted_ws.errors import ConnectionClosed
from twisted_ws.message import TEXT
from twisted_ws.service import CloseFrame
from twisted_ws.wire.loop.turns import STEP, Turns

__all__ = ["Replies", "Stream", "asDeferred"]

# Steps of `Turns` that an item is, beside those for the time that it takes.
ITEM = 3

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NONE = msgspec.Raw()


def asDeferred(result: Any) -> Deferred[Any] | None:
    """Return a Deferred for what a handler returned when it is awaitable, None when it is a value."""
    if not hasattr(result.__class__, "__await__"):
        return None
    if isinstance(result, Deferred):
        return result
    if asyncio.isfuture(result):
        return Deferred.fromFuture(result)
    return Deferred.fromCoroutine(result if asyncio.iscoroutine(result) else _await(result))


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


class Stream:
    """Sends the items of one iterator, each when the peer has taken the one before, and closes the iterator at the end.

    Args:
        items: what the handler returned.
        send: writes one item; its Deferred fires when the item was handed to the kernel. None: no item can follow.
        turns: the budget of what all send in one turn of the reactor.
    """

    __slots__ = ("_items", "_send", "_stopped", "_turns", "_waiting")

    def __init__(self, items: Any, send: Callable[[Any], Deferred[None] | None], turns: Turns) -> None:
        self._items = items
        self._send = send
        self._turns = turns
        self._stopped = False
        self._waiting: Deferred[Any] | None = None

    def start(self) -> Deferred[None]:
        """Send the first items now; return a Deferred for the end, which fails with what the iterator raises."""
        return Deferred.fromCoroutine(self._run())

    def stop(self) -> None:
        """Send no more; an async iterator is cancelled where it waits."""
        self._stopped = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def _run(self) -> None:
        items = self._items
        if hasattr(items, "__aiter__"):
            items = aiter(items)
        try:
            if not self._stopped:
                await self._sendAll(items)
        except (CancelledError, asyncio.CancelledError):
            if not self._stopped:
                raise
        except GeneratorExit:
            items = None  # it never ends, and is collected with all that waits for it: nothing can be awaited any more
            raise
        finally:
            # Whatever it holds (a file, a cursor, a subscription) is given back now, not when it is collected.
            close = getattr(items, "aclose", None) or getattr(items, "close", None)
            ended = None if close is None else asDeferred(close())
            if ended is not None:
                await ended

    async def _sendAll(self, items: Any) -> None:
        # Both live in the loop, so that an endless iterator of None, too, lets others have their turn.
        turns, isAsync = self._turns, hasattr(items, "__anext__")
        share = turns.share()
        while True:
            begin = turns.seconds()
            try:
                if isAsync:
                    pending = self._next(items)
                    self._spend(begin)
                    item = await self._wait(pending)
                    begin = turns.seconds()
                else:
                    item = next(items)
            except (StopIteration, StopAsyncIteration):
                return
            if self._stopped:
                return
            written = None if item is None else self._send(item)
            if item is not None and written is None:
                return
            self._spend(begin, ITEM)
            if written is not None:
                try:
                    await self._wait(written)
                except ConnectionClosed:
                    return  # the peer has gone; onClose tells
            if turns.isOver(share):
                await self._wait(turns.next())
                share = turns.share()

    def _spend(self, begin: float, steps: int = 0) -> None:
        """Count steps against this turn of the reactor, and the time since `begin`: the code of a service may take any."""
        self._turns.spend(steps + int((self._turns.seconds() - begin) / STEP))

    def _next(self, items: AsyncIterator[Any]) -> Deferred[Any]:
        pending = asDeferred(items.__anext__())
        if pending is None:
            raise TypeError(f"{type(items).__name__}.__anext__ returned no awaitable")
        return pending

    async def _wait(self, deferred: Deferred[Any]) -> Any:
        self._waiting = deferred
        try:
            return await deferred
        finally:
            self._waiting = None


class Replies:
    """Sends what handlers return to one caller.

    Args:
        caller: to whom.
        idField: the field of a reply that a stream id goes into.
        limit: how many iterators are sent at the same time.
        turns: the budget of what all send in one turn of the reactor.
        failed: told of what an iterator raised, and of its event.
        released: told that the iterator which was one too many has begun.
    """

    __slots__ = ("_caller", "_failed", "_held", "_idField", "_limit", "_released", "_streams", "_turns")

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
        self._streams: dict[Stream, str] = {}
        self._held: tuple[Stream, str, int] | None = None

    def send(self, value: Any, event: str, streamId: msgspec.Raw | None = None, mayHold: bool = True) -> bool:
        """Send what the handler of `event` returned.

        Args:
            value: any value; one for a closed caller is dropped, and an iterator closed.
            event: the name of the handler.
            streamId: JSON, which goes into replies that are JSON objects; None for nothing.
            mayHold: whether an iterator over the limit can wait for one of the others to end.

        Returns:
            False when it waits; `released` is called later.

        Raises:
            RuntimeError: it is over the limit and may not wait.
            Exception: the value cannot be sent.
        """
        if value is None:
            return True
        if not _isStream(value):
            self._write(value, streamId)
            return True
        stream = Stream(value, lambda item: self._write(item, streamId), self._turns)
        size = 0 if streamId is None else len(streamId)  # of a megabyte, if the peer likes: it counts for as long as it is held
        self._caller._connection.keep(size)
        if len(self._streams) < self._limit or not self._caller.isOpen():
            self._start(stream, event, size)
            return True
        if mayHold:
            self._held = stream, event, size
            return False
        stream.stop()
        self._start(stream, event, size)
        raise RuntimeError(f"more than {self._limit} returned iterators at once")

    def stop(self) -> None:
        """End every iterator: the caller has left."""
        streams = [*self._streams.items()]
        if self._held is not None:
            streams.append(self._held[:2])
        for stream, event in streams:
            try:
                stream.stop()
            except BaseException:  # the canceller of a Deferred that it waits for
                self._failed(Failure(), event)
        self._release()

    def _start(self, stream: Stream, event: str, size: int) -> None:
        self._streams[stream] = event
        if not self._caller.isOpen():
            stream.stop()

        def ended(failure: Failure | None) -> None:
            del self._streams[stream]
            self._caller._connection.keep(-size)
            if failure is not None:
                self._failed(failure, event)
            self._release()

        stream.start().addBoth(ended)

    def _release(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._start(*held)
            self._released()

    def _write(self, value: Any, streamId: msgspec.Raw | None) -> Deferred[None] | None:
        """Send one value; None when nothing can follow it."""
        caller = self._caller
        if not caller.isOpen():
            return None
        if isinstance(value, CloseFrame):
            caller.close(value.code, value.reason)
            return None
        if streamId is not None and not isinstance(value, (str, bytes, bytearray, memoryview)):
            # Into what is written, so that the handler's own object stays as it is.
            return caller._connection.writeFrame(TEXT, _withId(value, self._idField, streamId))
        return caller.writeMessage(value)


def _withId(value: Any, name: str, streamId: msgspec.Raw) -> bytes:
    """Return the JSON of a value; of an object, with this field."""
    text = msgspec.json.encode(value)
    if not text.startswith(b"{"):
        return text
    if isinstance(value, msgspec.Raw) or _ids(name).decode(text).id is not _NONE:
        return msgspec.json.encode({**_fields.decode(text), name: streamId})
    # By far the most: nothing is made of the other fields.
    return b"".join((text[:-1], b"," if len(text) > 2 else b"", msgspec.json.encode(name), b":", streamId, b"}"))


@lru_cache(64)
def _ids(name: str) -> msgspec.json.Decoder[Any]:
    """Return what finds a field of this name in an object."""
    return msgspec.json.Decoder(msgspec.defstruct("Fields", [("id", msgspec.Raw, msgspec.field(name=name, default=_NONE))]))


def _isStream(value: Any) -> bool:
    """Say whether a returned value is sent item by item: an iterator, or async iterable (a list is JSON)."""
    kind = value.__class__
    return hasattr(kind, "__next__") or hasattr(kind, "__anext__") or hasattr(kind, "__aiter__")
