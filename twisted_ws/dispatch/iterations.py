"""Iterators returned by handlers, whose items are sent one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from twisted_ws.caller import Caller
from twisted_ws.dispatch.awaitables import asDeferred
from twisted_ws.dispatch.replies import encodeReply
from twisted_ws.errors import ConnectionClosed
from twisted_ws.wire.loop.turns import STEP, Turns

# The steps of `Turns` for an item, in addition to those for the time that it takes.
ITEM = 3


def isIterator(value: Any) -> bool:
    """Return whether a returned value is sent item by item: an iterator or an async iterable (a list is JSON)."""
    kind = value.__class__
    return hasattr(kind, "__next__") or hasattr(kind, "__anext__") or hasattr(kind, "__aiter__")


class Iteration:
    """Sends the items of one iterator, each when the peer has taken the previous one, and closes the iterator at the end.

    Args:
        items: what the handler returned.
        send: writes one item; returns a Deferred that fires when the kernel has taken it, or None if no item can follow.
        turns: the budget for what all iterations send in one turn of the reactor.
    """

    __slots__ = ("_items", "_send", "_stopped", "_turns", "_waiting")

    def __init__(self, items: Any, send: Callable[[Any], Deferred[None] | None], turns: Turns) -> None:
        self._items = items
        self._send = send
        self._turns = turns
        self._stopped = False
        self._waiting: Deferred[Any] | None = None

    def start(self) -> Deferred[None]:
        """Send the first items now; return a Deferred that fires at the end, or fails with what the iterator raises."""
        return Deferred.fromCoroutine(self._run())

    def stop(self) -> None:
        """Send no more; cancel what an async iterator is waiting for."""
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
            items = None  # it never ended and is being garbage collected: nothing can be awaited any more
            raise
        finally:
            # What it holds (a file, a cursor, a subscription) is released now, not when it is garbage collected.
            close = getattr(items, "aclose", None) or getattr(items, "close", None)
            ended = None if close is None else asDeferred(close())
            if ended is not None:
                await ended

    async def _sendAll(self, items: Any) -> None:
        # Both kinds share this loop, so that even an endless iterator of None lets others have their turn.
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
                    return  # the peer has gone; onClose tells the service
            if turns.isOver(share):
                await self._wait(turns.next())
                share = turns.share()

    def _spend(self, begin: float, steps: int = 0) -> None:
        """Count steps, and the time since `begin`, against this turn of the reactor: a service's code may take any time."""
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


class Iterations:
    """Sends the iterators that handlers return to one caller.

    Args:
        caller: the recipient.
        idField: the field of a reply that takes the stream id.
        limit: how many iterators may be sent at the same time.
        turns: the budget for what all send in one turn of the reactor.
        failed: called with the failure of an iterator, and its event.
        released: called when an iterator that had to wait has begun.
    """

    __slots__ = ("_caller", "_failed", "_held", "_idField", "_limit", "_released", "_running", "_turns")

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
        self._running: dict[Iteration, str] = {}
        self._held: tuple[Iteration, str, int] | None = None

    @property
    def isEmpty(self) -> bool:
        """Whether nothing is being sent or waits."""
        return not self._running and self._held is None

    def start(self, items: Any, event: str, streamId: msgspec.Raw | None = None, mayHold: bool = True) -> bool:
        """Send the items of an iterator that the handler of `event` returned; if the caller is closed, only close the iterator.

        Args:
            items: the iterator.
            event: the name of the handler.
            streamId: JSON that goes into items that are JSON objects; None for none.
            mayHold: whether an iterator over the limit may wait for one of the others to end.

        Returns:
            False if it has to wait; `released` is called later.

        Raises:
            RuntimeError: the iterator is over the limit and may not wait.
        """
        iteration = Iteration(items, lambda item: self._write(item, streamId), self._turns)
        size = 0 if streamId is None else len(streamId)  # the peer may make it a megabyte: it counts while it is held
        self._caller._connection.keep(size)
        if len(self._running) < self._limit or not self._caller.isOpen():
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
        iterations = [*self._running.items()]
        if self._held is not None:
            iterations.append(self._held[:2])
        for iteration, event in iterations:
            try:
                iteration.stop()
            except BaseException:  # from the canceller of a Deferred that it awaits
                self._failed(Failure(), event)
        self._release()

    def _start(self, iteration: Iteration, event: str, size: int) -> None:
        self._running[iteration] = event
        if not self._caller.isOpen():
            iteration.stop()

        def ended(failure: Failure | None) -> None:
            del self._running[iteration]
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
        """Send one item; return None if nothing can follow it."""
        reply = encodeReply(self._caller, value, self._idField, streamId)
        return None if reply is None else self._caller._connection.writeFrame(*reply)
