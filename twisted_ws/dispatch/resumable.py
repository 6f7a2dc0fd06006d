"""Whether the connections of a service can go on in another process."""

from __future__ import annotations

from typing import Any

from twisted_ws.dispatch.handlers import Handlers
from twisted_ws.dispatch.interceptors import Intercepted

# Who has one of these may have taken note of a caller, and would not be told that it has gone.
_NOTING = ("onOpen", "onClose", "onUnsubscribe")
# Without any other event, a service is never given a caller to take note of.
_WITHOUT_CALLER = frozenset(("onUpgrade", "onError", "onHandOver"))


def isResumable(service: Any, handlers: Handlers) -> bool:
    """Return whether a service says that its connections can go on in another process (see `WebSocketService.resumable`)."""
    service = original(service)
    if "onResume" in handlers.events:
        return True
    own = getattr(service, "__dict__", {}).get("resumable")
    if own is not None:
        return bool(own)
    for kind in type(service).__mro__:
        said = vars(kind).get("resumable")
        if said is not None:
            return bool(said)
        if any(name in vars(kind) for name in _NOTING):
            return False
    return not (handlers.byName or handlers.byValue or handlers.events - _WITHOUT_CALLER)


def original(service: Any) -> Any:
    """Return the service itself, where its handlers are behind interceptors."""
    return service._service if isinstance(service, Intercepted) else service
