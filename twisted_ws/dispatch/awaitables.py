"""Awaitables of every kind as Deferreds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from twisted.internet.defer import Deferred


def asDeferred(result: Any) -> Deferred[Any] | None:
    """Return a Deferred for what a handler returned if it is awaitable, None if it is a value."""
    if not hasattr(result.__class__, "__await__"):
        return None
    if isinstance(result, Deferred):
        return result
    if asyncio.isfuture(result):
        return Deferred.fromFuture(result)
    return Deferred.fromCoroutine(result if asyncio.iscoroutine(result) else _await(result))


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
