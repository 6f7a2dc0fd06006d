"""Iterators that a handler returns: sent item by item, at the pace the peer takes them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from twisted_ws.errors import ConnectionClosed

__all__ = ["isStream", "sendStream"]

# A fast iterator lets the reactor turn after this many items, or this many seconds.
ITEMS = 64
SECONDS = 0.01


def isStream(value: object) -> bool:
    """Say whether a returned value is sent item by item: an iterator (not any iterable: a list is JSON)."""
    return isinstance(value, (Iterator, AsyncIterator))


async def sendStream(
    items: Iterator[Any] | AsyncIterator[Any], send: Callable[[Any], Deferred[None] | None], reactor: Any
) -> None:
    """Send each item, and close the iterator at the end, however it comes.

    Args:
        items: what the handler returned; what it raises is raised.
        send: writes one item and returns when it was handed to the kernel; None ends the stream.
        reactor: turns between the items.
    """
    count, begin = 0, reactor.seconds()
    try:
        while True:
            try:
                item = await items.__anext__() if isinstance(items, AsyncIterator) else next(items)
            except (StopIteration, StopAsyncIteration):
                return
            written = send(item)
            if written is None:
                return
            await written
            count += 1
            if count == ITEMS or reactor.seconds() - begin > SECONDS:
                await deferLater(reactor, 0)
                count, begin = 0, reactor.seconds()
    except ConnectionClosed:
        return  # the peer has gone; onClose tells
    finally:
        close = getattr(items, "aclose", None) or getattr(items, "close", None)
        if close is not None:
            ended = close()
            if ended is not None:
                await ended
