"""onUpgrade: a service decides, before there is a connection, whether a handshake goes on and with which object."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.dispatch.awaitables import asDeferred
from twisted_ws.dispatch.examination import examine
from twisted_ws.errors import ServiceError
from twisted_ws.logs import ofRequest, printable
from twisted_ws.telemetry import tracing
from twisted_ws.upgrade import Reject, UpgradeRequest, checkHeaders

# Headers that belong to the handshake, like all Sec-WebSocket ones: a service that could set them could break it.
_OWN_HEADERS = frozenset({"upgrade", "connection", "content-length", "transfer-encoding"})

MayLog = Callable[[str], int]

Upgrade = tuple[object, tuple[tuple[str, str], ...]]

_log = Logger()


def callUpgrade(service: object, request: UpgradeRequest, mayLog: MayLog) -> Upgrade | Deferred[Upgrade]:
    """Ask `service` about a handshake.

    Args:
        service: the service.
        request: the handshake.
        mayLog: says whether one more line of a kind may be written (see `twisted_ws.logs.Throttle.allows`).

    Returns:
        The service object for the connection, examined, and the checked headers for the 101; or a Deferred of both if onUpgrade
        is awaitable. It fails only with `Reject`, or with CancelledError after its own `cancel`, which also cancels what
        onUpgrade waits for and is not logged.

    Raises:
        Reject: the handshake is refused.
    """
    try:
        onUpgrade = getattr(service, "onUpgrade", None)
        if onUpgrade is None:
            return service, ()
        result = onUpgrade(request) if tracing.tracer is None else tracing.traced("onUpgrade", onUpgrade, request)
        pending = asDeferred(result)
        if pending is None:
            return _checked(result, service)
    except BaseException:
        raise refusal(Failure(), service, request, mayLog) from None
    cancelled = False

    def cancel(answer: Deferred[Upgrade]) -> None:
        # The peer has left or the deadline has passed: the answer is given, and what onUpgrade still does is ignored.
        nonlocal cancelled
        cancelled = True
        answer.errback(Failure(CancelledError()))
        try:
            pending.cancel()
        except BaseException:
            refusal(Failure(), service, request, mayLog)

    def checked(result: Any) -> Upgrade | None:
        return None if cancelled else _checked(result, service)

    def failed(failure: Failure) -> Failure | None:
        if cancelled and failure.check(Reject, CancelledError, asyncio.CancelledError):
            return None
        return Failure(refusal(failure, service, request, mayLog))

    def answered(result: Any) -> None:
        if not cancelled:
            answer.callback(result)

    answer: Deferred[Upgrade] = Deferred(cancel)
    pending.addCallback(checked).addErrback(failed).addCallbacks(answered, answered)
    return answer


def _checked(result: Any, service: object) -> Upgrade:
    name = f"{type(service).__name__}.onUpgrade"
    headers: Mapping[str, str] | None = None
    if isinstance(result, tuple) and len(result) == 2:
        result, headers = result
    if result is None or isinstance(result, (str, bytes, int, float, dict, list, tuple)):
        raise ServiceError(f"{name} must return a service object, or (service, headers), not {type(result).__name__}")
    if result is not service:  # which was examined when it was mounted
        examine(result)
    if not isinstance(headers, (Mapping, type(None))):
        raise ServiceError(f"{name} must return its headers as a dict, not {type(headers).__name__}")
    try:
        checked = checkHeaders(headers)
    except ValueError as error:
        raise ServiceError(f"{name} returns headers that cannot be sent: {error}") from None
    for header, _ in checked:
        if header.lower() in _OWN_HEADERS or header.lower().startswith("sec-websocket-"):
            raise ServiceError(f"{name} must not set the header {header}: it belongs to the handshake")
    return result, checked


def refusal(failure: Failure, service: object, request: UpgradeRequest, mayLog: MayLog) -> Reject:
    """Return what the front door should answer: a Reject as it is; for anything else a 500 that tells the peer nothing."""
    if isinstance(failure.value, Reject):
        return failure.value
    name = type(service).__name__
    turn = mayLog(f"{name}.onUpgrade raised {type(failure.value).__name__}")
    if not turn:
        pass  # logged often enough
    elif failure.check(ServiceError):
        # The message is enough; no traceback.
        _log.error(
            "{path} is answered with 500: {reason}",
            reason=printable(failure.value),
            event="handler.failed",
            service=name,
            handler="onUpgrade",
            status=500,
            **ofRequest(request),
            suppressed=turn - 1,
        )
    else:
        _log.failure(
            "{service}.{handler} raised, {path} is answered with 500",
            failure,
            event="handler.failed",
            service=name,
            handler="onUpgrade",
            status=500,
            **ofRequest(request),
            suppressed=turn - 1,
        )
    return Reject(500, "Internal server error.")
