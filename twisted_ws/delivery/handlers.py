"""What a service object handles: read once from its class, every mistake named before the first connection."""

from __future__ import annotations

import difflib
import inspect
import math
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from twisted_ws.delivery.binding import Binder
from twisted_ws.errors import ServiceError
from twisted_ws.upgrade import isToken

__all__ = ["EVENTS", "Dispatch", "Handlers", "examine", "handlerName"]

# Each event, and the parameters of its handler.
EVENTS = {
    "onUpgrade": ("request",),
    "onOpen": ("caller",),
    "onTextMessage": ("caller", "text"),
    "onBinaryMessage": ("caller", "data"),
    "onMessage": ("caller", "message"),
    "onPing": ("caller", "data"),
    "onPong": ("caller", "data"),
    "onIdleTimeout": ("caller",),
    "onError": ("caller", "error"),
    "onClose": ("caller", "statusCode", "reason"),
}
_DISPATCHED = ("caller", "message")
_ERROR = ("caller", "error")
_EVENT_NAME = re.compile(r"on[A-Z0-9]\w*")


@dataclass(frozen=True, slots=True)
class Dispatch:
    """One handler of dispatched messages.

    Attributes:
        name: the method.
        binder: decodes the message.
        errorName: the method that takes its binding errors, "" without one.
    """

    name: str
    binder: Binder
    errorName: str = ""


@dataclass(frozen=True, slots=True)
class Handlers:
    """What a service object handles.

    Attributes:
        events: the events it has a method for.
        message: decodes for onMessage.
        byValue: dispatched handlers marked with `@dispatches`, by value.
        byName: the other dispatched handlers, by method name.
        subProtocols: what it speaks.
        idleTimeout: seconds, 0 for none.
        dispatcherKey: the field that names the event, "" without dispatching.
        streamId: the field that is copied into replies, "" without.
    """

    events: frozenset[str]
    message: Binder = field(default_factory=Binder)
    byValue: dict[str, Dispatch] = field(default_factory=dict)
    byName: dict[str, Dispatch] = field(default_factory=dict)
    subProtocols: tuple[str, ...] = ()
    idleTimeout: float = 0
    dispatcherKey: str = ""
    streamId: str = ""

    def dispatch(self, value: str) -> Dispatch | None:
        """Return the handler for a value of the dispatcher field; what a peer sends is only ever looked up."""
        return self.byValue.get(value) or self.byName.get(handlerName(value))


def handlerName(value: str) -> str:
    """Return the method name for a value of the dispatcher field: "un subscribe" is onUnSubscribe."""
    return "on" + "".join(part[0].upper() + part[1:] for part in re.split(r"[^0-9A-Za-z]+", value) if part)


_examined: WeakKeyDictionary[type, Handlers] = WeakKeyDictionary()


def examine(service: object) -> Handlers:
    """Return what `service` handles; the result is kept for its class.

    Raises:
        ServiceError: the service has a mistake; the text names the class, the method and what would be right.
    """
    kind = type(service)
    # Settings and handlers may also stand on the instance: then what is known of the class does not count.
    own = any(name.startswith("on") or name in _SETTINGS for name in getattr(service, "__dict__", ()))
    if not own and kind in _examined:
        return _examined[kind]
    handlers = _Examination(service).handlers()
    if not own:
        _examined[kind] = handlers
    return handlers


_SETTINGS = ("subProtocols", "idleTimeout", "dispatcherKey", "dispatcherStreamId")


class _Examination:
    def __init__(self, service: object) -> None:
        if isinstance(service, type):
            raise ServiceError(f"{service.__name__} is a class: mount an object of it, {service.__name__}()")
        self._service = service
        self._name = type(service).__name__

    def handlers(self) -> Handlers:
        dispatcherKey = self._text("dispatcherKey")
        streamId = self._text("dispatcherStreamId")
        if streamId and not dispatcherKey:
            raise self._mistake("dispatcherStreamId", "needs a dispatcherKey")
        found = self._methods()
        events = frozenset(found) & EVENTS.keys()
        for name in events:
            self._checkParameters(name, found[name], EVENTS[name])
        self._checkAnnotation("onTextMessage", found, (str,))
        self._checkAnnotation("onBinaryMessage", found, (bytes,))
        byValue: dict[str, Dispatch] = {}
        byName: dict[str, Dispatch] = {}
        errorNames = {name for name in found if name.endswith("Error") and name[:-5] in found and name not in EVENTS}
        for name in errorNames:
            self._checkParameters(name, found[name], _ERROR)
        for name, method in found.items():
            if name in events or name in errorNames:
                continue
            value = getattr(method, "dispatches", None)
            if not dispatcherKey:
                if value is not None:
                    raise self._mistake(name, "@dispatches needs a dispatcherKey on the class")
                raise self._misspelt(name)
            self._checkDispatched(name, value)
            self._checkParameters(name, method, _DISPATCHED)
            dispatch = Dispatch(name, self._binder(name, method), f"{name}Error" if f"{name}Error" in errorNames else "")
            if value is None:
                byName[name] = dispatch
            elif value in byValue:
                raise self._mistake(name, f"{byValue[value].name} dispatches {value!r} already")
            else:
                byValue[value] = dispatch
        for value, dispatch in byValue.items():
            other = byName.get(handlerName(value))
            if other is not None:
                raise self._mistake(dispatch.name, f"{other.name} dispatches {value!r} already, by its name")
        if not events and not byName and not byValue:
            raise ServiceError(f"{self._name} handles no event: it has none of {', '.join(EVENTS)}")
        message = self._binder("onMessage", found["onMessage"]) if "onMessage" in events else Binder()
        return Handlers(events, message, byValue, byName, self._subProtocols(), self._idleTimeout(), dispatcherKey, streamId)

    def _methods(self) -> dict[str, Callable[..., Any]]:
        found = {}
        for name in dir(self._service):
            if name.startswith("_"):
                continue
            plain = name.replace("_", "").lower()
            marked = getattr(getattr(self._service, name, None), "dispatches", None) is not None
            if not (_EVENT_NAME.fullmatch(name) or marked or plain in _PLAIN):
                continue
            method = getattr(self._service, name)
            if callable(method):
                found[name] = method
            elif name in EVENTS:
                raise self._mistake(name, f"is no method but {type(method).__name__}")
        return found

    def _checkDispatched(self, name: str, value: object) -> None:
        # With dispatching, any on<Event> is a handler: a misspelt event is one whose spelling differs in case or a letter.
        if value is None and (name.replace("_", "").lower() in _PLAIN or difflib.get_close_matches(name, EVENTS, 1, 0.94)):
            raise self._misspelt(name)

    def _misspelt(self, name: str) -> ServiceError:
        plain = name.replace("_", "").lower()
        near = _PLAIN.get(plain) or next(iter(difflib.get_close_matches(name, EVENTS, 1, 0.5)), None)
        hint = f"did you mean {near}?" if near else f"the events are {', '.join(EVENTS)}"
        return self._mistake(name, f"is no event: {hint} (messages reach on<Event> methods with a dispatcherKey)")

    def _checkParameters(self, name: str, method: Callable[..., Any], parameters: tuple[str, ...]) -> None:
        try:
            signature = inspect.signature(method)
        except (TypeError, ValueError):
            return  # a builtin that does not say: it will be called and seen
        try:
            signature.bind(*parameters)
        except TypeError:
            raise self._mistake(name, f"must take ({', '.join(parameters)}), and takes {signature}") from None

    def _annotation(self, name: str, method: Callable[..., Any]) -> Any:
        """Return the annotation of the second parameter."""
        function = inspect.unwrap(method)
        try:
            parameters = list(inspect.signature(method).parameters.values())
            hints = typing.get_type_hints(getattr(function, "__func__", function), include_extras=True)
        except NameError as error:
            raise self._mistake(name, f"has an annotation that cannot be resolved: {error}") from None
        except (TypeError, ValueError):
            return inspect.Parameter.empty
        if len(parameters) < 2 or parameters[1].kind is inspect.Parameter.VAR_POSITIONAL:
            return inspect.Parameter.empty
        return hints.get(parameters[1].name, inspect.Parameter.empty)

    def _binder(self, name: str, method: Callable[..., Any]) -> Binder:
        annotation = self._annotation(name, method)
        try:
            return Binder(annotation)
        except TypeError as error:
            raise self._mistake(name, f"has an annotation that cannot be bound: {error}") from None

    def _checkAnnotation(self, name: str, found: dict[str, Callable[..., Any]], allowed: tuple[type, ...]) -> None:
        if name not in found:
            return
        annotation = self._annotation(name, found[name])
        if annotation not in (*allowed, Any, object, inspect.Parameter.empty):
            raise self._mistake(name, f"takes {allowed[0].__name__}: for other types write onMessage(caller, message: ...)")

    def _text(self, name: str) -> str:
        value = getattr(self._service, name, "") or ""
        if not isinstance(value, str):
            raise self._mistake(name, f"must be a str, not {type(value).__name__}")
        return value

    def _idleTimeout(self) -> float:
        value = getattr(self._service, "idleTimeout", 0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0 or math.isinf(value):
            raise self._mistake("idleTimeout", f"must be a number of seconds, 0 or more, not {value!r}")
        return value

    def _subProtocols(self) -> tuple[str, ...]:
        value = getattr(self._service, "subProtocols", ())
        if isinstance(value, (str, bytes)) or not isinstance(value, (list, tuple)):
            raise self._mistake("subProtocols", f"must be a list of names, not {type(value).__name__}")
        for each in value:
            if not isinstance(each, str) or not isToken(each):
                raise self._mistake("subProtocols", f"{each!r} is no token (letters, digits and !#$%&'*+-.^_`|~)")
        if len(set(value)) != len(value):
            raise self._mistake("subProtocols", "names one twice")
        return tuple(value)

    def _mistake(self, name: str, what: str) -> ServiceError:
        return ServiceError(f"{self._name}.{name} {what}")


_PLAIN = {name.lower(): name for name in EVENTS}
