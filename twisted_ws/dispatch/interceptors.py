"""Interceptors: what every service needs around its handlers, such as counting, logging and checking, in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from twisted_ws.dispatch.awaitables import asDeferred
from twisted_ws.dispatch.handlers import Handlers
from twisted_ws.errors import ServiceError

# Called as interceptor(event, caller, call); see `intercept`.
Interceptor = Callable[[str, Any, "Call"], Any]


class Call:
    """The rest of a call: the interceptors that follow, and the handler.

    Call it to go on, at most once; what it returns is what the handler returns, which may be something to await.

    Attributes:
        event: the handler's name, such as "onTextMessage".
        caller: the caller, or visitor; for onUpgrade the request.
        arguments: the handler's other arguments.
    """

    __slots__ = ("_next", "arguments", "caller", "event")

    def __init__(self, event: str, caller: Any, arguments: tuple[Any, ...], following: Callable[[], Any]) -> None:
        self.event = event
        self.caller = caller
        self.arguments = arguments
        self._next = following

    def __call__(self) -> Any:
        """Go on, and return what the handler returns."""
        return self._next()

    async def finish(self) -> Any:
        """Go on, and return what the handler returns in the end; for interceptors that are async."""
        result = self._next()
        pending = asDeferred(result)
        return result if pending is None else await pending


def checkInterceptors(interceptors: Iterable[Interceptor]) -> tuple[Interceptor, ...]:
    """Return interceptors as a tuple.

    Raises:
        ServiceError: one of them cannot be called.
    """
    found = tuple(interceptors)
    for each in found:
        if not callable(each):
            raise ServiceError(f"an interceptor must be callable with (event, caller, call), which {type(each).__name__} is not")
    return found


def intercept(interceptors: Sequence[Interceptor], event: str, handler: Callable[..., Any], caller: Any, *arguments: Any) -> Any:
    """Call a handler through interceptors, the first outermost, and return what the first returns."""

    def go(index: int) -> Any:
        if index == len(interceptors):
            return handler(caller, *arguments)
        return interceptors[index](event, caller, Call(event, caller, arguments, lambda: go(index + 1)))

    return go(0)


class Intercepted:
    """A service whose handlers are called through interceptors; everything else is the service's own.

    Args:
        service: the service.
        names: the handlers.
        interceptors: the first is outermost.
    """

    def __init__(self, service: Any, names: Iterable[str], interceptors: Sequence[Interceptor]) -> None:
        self._service = service
        for name in names:
            setattr(self, name, _through(interceptors, name, getattr(service, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)


def _through(interceptors: Sequence[Interceptor], name: str, handler: Callable[..., Any]) -> Callable[..., Any]:
    def through(caller: Any, *arguments: Any) -> Any:
        return intercept(interceptors, name, handler, caller, *arguments)

    return through


@lru_cache(256)
def _kind(name: str) -> type[Intercepted]:
    """Return the class of intercepted services with this class's name, which is what logs and errors say."""
    return type(name, (Intercepted,), {})


def intercepted(service: object, handlers: Handlers, interceptors: Sequence[Interceptor]) -> object:
    """Return the service with all of its handlers behind interceptors."""
    dispatched = [*handlers.byValue.values(), *handlers.byName.values()]
    names = {*handlers.events, *(each.name for each in dispatched), *(each.errorName for each in dispatched if each.errorName)}
    return _kind(type(service).__name__)(service, names - {"onUpgrade"}, interceptors)


def interceptedUpgrade(service: object, interceptors: Sequence[Interceptor]) -> object:
    """Return the service, which has one, with its onUpgrade behind interceptors."""
    return _kind(type(service).__name__)(service, ("onUpgrade",), interceptors)
