"""Calls into user code, and what comes back from them: now, later, or as an exception."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.delivery.handlers import examine
from twisted_ws.errors import ServiceError
from twisted_ws.logs import printable
from twisted_ws.upgrade import Reject, UpgradeRequest, checkHeaders

__all__ = ["Upgrade", "asDeferred", "callUpgrade"]

_log = Logger()

Upgrade = tuple[object, tuple[tuple[str, str], ...]]

# Headers of the 101 that are the handshake's own; a service that could set them could break it.
_OWN_HEADERS = frozenset(
    {"upgrade", "connection", "content-length", "transfer-encoding", "sec-websocket-accept"}
    | {"sec-websocket-protocol", "sec-websocket-extensions", "sec-websocket-version", "sec-websocket-key"}
)


def asDeferred(result: Any) -> Deferred[Any] | None:
    """Return a Deferred for what a handler returned when it is awaitable, None when it is a value."""
    if isinstance(result, Deferred):
        return result
    if asyncio.isfuture(result):
        return Deferred.fromFuture(result)
    if asyncio.iscoroutine(result):
        return Deferred.fromCoroutine(result)
    if isinstance(result, Awaitable):
        return Deferred.fromCoroutine(_wait(result))
    return None


async def _wait(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def callUpgrade(service: object, request: UpgradeRequest) -> Deferred[Upgrade]:
    """Ask `service` about a handshake.

    Returns:
        A Deferred of the service object for the connection, examined, and the headers for the 101. It fails with `Reject`, and
        when it is cancelled with `CancelledError`; nothing else.
    """
    onUpgrade = getattr(service, "onUpgrade", None)
    if onUpgrade is None:
        return succeed((service, ()))
    try:
        result = onUpgrade(request)
        deferred = asDeferred(result)
        if deferred is None:
            return succeed(_checked(result, service))
    except Exception:
        return fail(_refusal(Failure(), service, request))
    return deferred.addCallback(_checked, service).addErrback(_refusal, service, request)


def _checked(result: Any, service: object) -> Upgrade:
    headers: Mapping[str, str] | None = None
    if isinstance(result, tuple) and len(result) == 2:
        result, headers = result
    if result is None or isinstance(result, (str, bytes, bool, int, dict, list, tuple)):
        raise ServiceError(
            f"{type(service).__name__}.onUpgrade must return a service object, or (service, headers), not {type(result).__name__}"
        )
    examine(result)
    checked = checkHeaders(headers)
    for name, _ in checked:
        if name.lower() in _OWN_HEADERS:
            raise ServiceError(f"{type(service).__name__}.onUpgrade must not set the header {name}: it belongs to the handshake")
    return result, checked


def _refusal(failure: Failure, service: object, request: UpgradeRequest) -> Failure:
    """Return what the front door should answer: a Reject as it is; anything else is the service's, and tells the peer nothing."""
    if failure.check(Reject, CancelledError):
        return failure
    _log.failure("{service}.onUpgrade failed for {path}", failure, service=type(service).__name__, path=printable(request.path))
    return Failure(Reject(500, "Internal server error."))
