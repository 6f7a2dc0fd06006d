"""The examination of a service object: what it handles, and every mistake in it, before the first connection."""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

from twisted_ws.dispatch.binding import Binder
from twisted_ws.dispatch.envelope import Envelope
from twisted_ws.dispatch.handlers import DispatchedHandler, Handlers, handlerName
from twisted_ws.errors import ServiceError
from twisted_ws.service import WebSocketService
from twisted_ws.upgrade import isToken

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
    "onHandOver": ("caller",),
    "onResume": ("caller", "state"),
}
# What these return is not sent, so a generator would never begin to run.
_NO_STREAM = ("onUpgrade", "onError", "onClose", "onHandOver")
_DISPATCHED = ("caller", "message")
_ERROR = ("caller", "error")
# The settings that decide which methods are handlers; the others may differ between objects of one class.
_KEYS = ("dispatcherKey", "dispatcherStreamId")

_MARKED = 'to handle messages under this name, mark it @dispatches("...")'

_LIKENESS = 0.75  # from this ratio of difflib on, a name counts as a misspelt event
_TYPO = 0.9  # the same where any on<Event> is allowed: one wrong letter in a long name


_envelope = lru_cache(64)(Envelope)

# By class; for each, None has the handlers of its methods alone, a pair of settings those with these settings.
_Known = dict[tuple[tuple[str, ...], float] | None, Handlers]
_examined: WeakKeyDictionary[type, _Known] = WeakKeyDictionary()
_SETTINGS = 64  # how many are kept for each class


def examine(service: object) -> Handlers:
    """Return what `service` handles; methods are read once for each class.

    A service with its own handlers or dispatcherKey (attributes of the object, properties) is read each time.

    Raises:
        ServiceError: the service has a mistake, such as a misspelt event; the text names the class, the method and the fix.
    """
    if isinstance(service, type):
        raise ServiceError(f"{service.__name__} is a class: pass an instance, {service.__name__}()")
    kind = type(service)
    own = False
    attributes = getattr(service, "__dict__", {})
    for name in attributes:  # not items(): CPython 3.11 crashes if memory is too short for its iterator
        value = attributes[name]
        if (name[:2] in _ON or name in _KEYS or callable(value)) and _decides(kind, name, value):
            own = True
            break
    known: _Known | None = None if own else _examined.get(kind)
    if known is None:
        examination = _Examination(service)
        known = {None: examination.handlers()}
        if not own and not examination.varies:
            _examined[kind] = known
    try:
        subProtocols, idleTimeout = getattr(service, "subProtocols", ()), getattr(service, "idleTimeout", 0)
    except Exception:  # one is a property that raises: this says which
        subProtocols, idleTimeout = _setting(service, "subProtocols", ()), _setting(service, "idleTimeout", 0)
    # Each handshake comes through here. Exact types only: True equals 1, and a str iterates like a list.
    if subProtocols.__class__ in _LISTS and idleTimeout.__class__ in _NUMBERS:
        try:
            found = known.get((tuple(subProtocols), idleTimeout))
        except TypeError:
            found = None  # not hashable, so not a name either
        if found is not None:
            return found
    subProtocols, idleTimeout = _subProtocols(service, subProtocols), _idleTimeout(service, idleTimeout)
    found = replace(known[None], subProtocols=subProtocols, idleTimeout=idleTimeout)
    if len(known) <= _SETTINGS:
        known[subProtocols, idleTimeout] = found
    return found


_LISTS = frozenset((list, tuple, set, frozenset))
_NUMBERS = frozenset((int, float))
_ON = frozenset(("on", "On", "oN", "ON"))


def _decides(kind: type, name: str, value: object) -> bool:
    """Return whether an attribute of an object gives it other handlers than its class has."""
    if name[:2] in _ON:
        return callable(value) or name in EVENTS or hasattr(kind, name)
    return name in _KEYS or (callable(value) and _mark(value) is not None)


class _Examination:
    """Reads the methods of one service.

    Attributes:
        varies: whether another object of the class may have other handlers.
    """

    def __init__(self, service: object) -> None:
        self._service = service
        self._hooks: Mapping[str, tuple[str, ...]] = _setting(service, "hooks", {})
        self.varies = any(inspect.isdatadescriptor(inspect.getattr_static(service, name, None)) for name in _KEYS)

    def handlers(self) -> Handlers:
        self._checkSettings()
        key = _text(self._service, "dispatcherKey")
        streamId = _text(self._service, "dispatcherStreamId")
        if streamId and not key:
            raise _mistake(self._service, "dispatcherStreamId", "needs a dispatcherKey")
        found = self._candidates()
        for name, parameters in self._hooks.items():
            if name in found:
                self._checkParameters(name, found.pop(name)[0], parameters)
        events = frozenset(name for name in found if name in EVENTS)
        for name in sorted(events):
            if found[name][1] is not None:
                raise self._mistake(name, "is an event of the connection: put @dispatches on another method")
            self._checkParameters(name, found[name][0], EVENTS[name])
            if name in _NO_STREAM and (inspect.isgeneratorfunction(found[name][0]) or inspect.isasyncgenfunction(found[name][0])):
                raise self._mistake(name, "must not yield: it would never run (to wait, make it async or use inlineCallbacks)")
            if name == "onHandOver" and inspect.iscoroutinefunction(found[name][0]):
                raise self._mistake(name, "must not be async: what it returns leaves with the connection")
        for name, kind in ("onTextMessage", str), ("onBinaryMessage", bytes):
            if name in events and self._annotation(name, found[name][0]) not in (kind, Any, object, inspect.Parameter.empty):
                raise self._mistake(name, f"takes {kind.__name__}: for another type write onMessage(caller, message: ...)")
        byValue, byName = self._dispatches({name: found[name] for name in found if name not in EVENTS}, bool(key))
        # A subclass of the base may only listen to broadcasts; an object of another class was hardly meant to be a service.
        if not events and not byValue and not byName and not isinstance(self._service, WebSocketService):
            own = getattr(self._service, "__name__", "")  # if it is a function or a module
            what = f"{type(self._service).__name__} {own}".rstrip()
            raise ServiceError(f"{what} handles no event: it has none of {', '.join(EVENTS)}")
        message = self._binder("onMessage", found["onMessage"][0]) if "onMessage" in events else Binder()
        try:
            envelope = _envelope(key, streamId) if key else None
        except ValueError as error:
            raise _mistake(self._service, "dispatcherKey", f"and dispatcherStreamId must name JSON fields: {error}") from None
        return Handlers(events, message, byValue, byName, envelope=envelope, streamId=streamId)

    def _checkSettings(self) -> None:
        """Refuse an attribute that is meant as a setting but spelt differently, or with a typo.

        Constants, private names and plurals are the service's own; so is anything if the setting itself is set as well.
        """
        kinds = [each for each in type(self._service).__mro__ if not each.__module__.startswith("twisted_ws.")]
        made = {*getattr(self._service, "__dict__", ()), *(name for each in kinds for name in vars(each))}
        for name in dir(self._service):
            if name[0] == "_" or name.isupper() or name in _SPELT.values():
                continue
            near = difflib.get_close_matches(_spelt(name), _SPELT, 1, _TYPO)
            if not near or _SPELT[near[0]] in made or _spelt(name).startswith(near[0] + "s"):
                continue
            raw = inspect.getattr_static(self._service, name, None)
            if not callable(raw) and not isinstance(raw, (staticmethod, classmethod)):
                raise self._mistake(name, f"is not a setting: did you mean {_SPELT[near[0]]}?")

    def _candidates(self) -> dict[str, tuple[Callable[..., Any], str | None]]:
        """Return possible handlers by name, each with its `@dispatches` value."""
        found: dict[str, tuple[Callable[..., Any], str | None]] = {}
        for name in dir(self._service):
            # Without running code: a property is the service's own business unless it has a handler's name.
            raw = inspect.getattr_static(self._service, name, None)
            value = _mark(raw)
            if value is None and name[:2].lower() != "on":
                continue
            self.varies = self.varies or inspect.isdatadescriptor(raw)
            try:
                method = getattr(self._service, name)
            except Exception as error:
                raise self._mistake(name, f"cannot be read: {type(error).__name__}: {error}") from None
            if callable(method):
                found[name] = method, value
            elif name in EVENTS and method is not None:  # None: a subclass drops a handler of its base
                raise self._mistake(name, f"must be a method, not {type(method).__name__}")
        return found

    def _dispatches(
        self, found: dict[str, tuple[Callable[..., Any], str | None]], dispatching: bool
    ) -> tuple[dict[str, DispatchedHandler], dict[str, DispatchedHandler]]:
        named = {
            name: method
            for name, (method, value) in found.items()
            if value is None and not name.endswith("Error") and self._isHandler(name, method, dispatching)
        }
        marked = {name: (method, value) for name, (method, value) in found.items() if value is not None}
        if marked and not dispatching:
            raise self._mistake(next(iter(marked)), "is marked with @dispatches, which needs a dispatcherKey on the class")
        errorsOf = {name: name for name in (*named, *marked)} | {handlerName(value): name for name, (_, value) in marked.items()}
        errors: dict[str, str] = {}
        for name, (method, value) in found.items():
            if value is not None or not name.endswith("Error"):
                continue
            if name[:-5] in errorsOf:
                self._checkParameters(name, method, _ERROR)
                errors[errorsOf[name[:-5]]] = name
            elif self._isHandler(name, method, dispatching):
                what = f"is for the binding errors of {name[:-5]}, which is missing"
                raise self._mistake(name, f"{what} ({_MARKED})")
        byName = {name: self._dispatch(name, method, errors) for name, method in named.items()}
        byValue: dict[str, DispatchedHandler] = {}
        for name, (method, value) in marked.items():
            other = byValue.get(value) or byName.get(handlerName(value))
            if other is not None:
                raise self._mistake(name, f"and {other.name} both handle the messages {value!r}")
            byValue[value] = self._dispatch(name, method, errors)
        return byValue, byName

    def _dispatch(self, name: str, method: Callable[..., Any], errors: dict[str, str]) -> DispatchedHandler:
        self._checkParameters(name, method, _DISPATCHED)
        return DispatchedHandler(name, self._binder(name, method), errors.get(name, ""))

    def _isHandler(self, name: str, method: Callable[..., Any], dispatching: bool) -> bool:
        """Return whether a method that is not an event handles dispatched messages; raise if it is meant as an event.

        Without a dispatcherKey, a name very close to an event's is a mistake; so is a less close one (``onTimeout``, ``onRing``)
        that takes the event's parameters; and any method that takes a `caller` must be meant for messages. Others (``once``,
        ``onBrokerLost(reason)``) are the service's own. With a dispatcherKey every on<Event> is a handler, so only these are
        mistakes: the same letters spelt differently (``on_open``), a typo in a long name (``onMesage``, not ``onMessages``),
        and the parameters of an event (``onClosed(caller, statusCode, reason)``).
        """
        letters = _letters(name)
        known = {**EVENTS, **self._hooks}
        event = max(known, key=lambda each: difflib.SequenceMatcher(None, letters, _letters(each)).ratio())
        likeness = difflib.SequenceMatcher(None, letters, _letters(event)).ratio()
        proper = len(name) > 2 and name.startswith("on") and not name[2].islower() and name[2] != "_"
        fits = _takes(method, _ERROR if name.endswith("Error") else _DISPATCHED)
        if proper and dispatching:
            inflected = name.startswith(event)
            wrong = likeness == 1 or (likeness >= _TYPO and not inflected) or (likeness >= _LIKENESS and not fits)
        else:
            wrong = likeness >= _TYPO or (likeness >= _LIKENESS and _takes(method, known[event]))
        if wrong:
            way = _MARKED if dispatching else "on<Event> methods get messages only with a dispatcherKey"
            raise self._mistake(name, f"is not an event: did you mean {event}? ({way})")
        if proper and dispatching:
            return True
        if next(iter(_parameters(method)), None) == "caller":
            right = handlerName(name[2:])
            if dispatching:
                raise self._mistake(name, f"is never called: to get messages, name it {right}")
            raise self._mistake(
                name, f'is not an event: to dispatch messages to {right}, set dispatcherKey = "..." (a JSON field)'
            )
        return False

    def _checkParameters(self, name: str, method: Callable[..., Any], parameters: tuple[str, ...]) -> None:
        if not _takes(method, parameters):
            taken = str(inspect.signature(method)).partition(" -> ")[0]
            raise self._mistake(name, f"must take ({', '.join(parameters)}), but takes {taken}")

    def _annotation(self, name: str, method: Callable[..., Any]) -> Any:
        """Return the annotation of the second parameter."""
        parameters = list(_parameters(method).values())
        if len(parameters) < 2 or parameters[1].kind is inspect.Parameter.VAR_POSITIONAL:
            return inspect.Parameter.empty
        annotation = parameters[1].annotation
        # Only this one: a Caller that is imported for type checkers only cannot be resolved, and need not be.
        carrier = type("Carrier", (), {"__annotations__": {"it": annotation}})
        kind = type(self._service)
        owner = next((each for each in kind.__mro__ if name in vars(each)), kind)
        try:
            return typing.get_type_hints(carrier, _globals(method), dict(vars(owner)), include_extras=True)["it"]
        except Exception as error:
            shown = annotation if isinstance(annotation, str) else repr(annotation)
            raise self._mistake(name, f"has the annotation {shown}, which cannot be resolved: {error}") from None

    def _binder(self, name: str, method: Callable[..., Any]) -> Binder:
        annotation = self._annotation(name, method)
        try:
            return Binder(annotation)
        except Exception as error:
            raise self._mistake(name, f"has an annotation that cannot be bound: {error}") from None

    def _mistake(self, name: str, what: str) -> ServiceError:
        return _mistake(self._service, name, what)


def _mistake(service: object, name: str, what: str) -> ServiceError:
    # On one line, because it goes to standard error.
    return ServiceError(" ".join(f"{type(service).__name__}.{name} {what}".split()))


def _spelt(name: str) -> str:
    """Return a name without what does not tell two apart: case and underscores."""
    return name.replace("_", "").lower()


# The settings by `_spelt`.
_SPELT = {_spelt(name): name for name in ("subProtocols", "idleTimeout", "resumable", *_KEYS)}


def _letters(name: str) -> str:
    """Return what tells two event names apart: without the "on" that all have."""
    return _spelt(name)[2:]


def _mark(raw: object) -> str | None:
    """Return the value that `@dispatches` put on a method."""
    function = raw.__func__ if isinstance(raw, (staticmethod, classmethod, types.MethodType)) else None
    for each in (raw, function):
        value = inspect.getattr_static(each, "dispatches", None)
        if isinstance(value, str):
            return value
    return None


def _parameters(method: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(method).parameters
    except (TypeError, ValueError):
        return {}  # a builtin without a signature


def _takes(method: Callable[..., Any], parameters: tuple[str, ...]) -> bool:
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):
        return True  # a builtin without a signature: calling it will tell
    try:
        signature.bind(*parameters)
    except TypeError:
        return False
    return True


def _globals(method: Any) -> dict[str, Any]:
    """Return the globals in which a method's annotations are resolved."""
    while True:
        if isinstance(method, functools.partial):
            method = method.func
        elif isinstance(method, types.MethodType):
            method = method.__func__
        elif hasattr(method, "__wrapped__"):
            method = method.__wrapped__
        elif hasattr(method, "__globals__"):
            return typing.cast("dict[str, Any]", method.__globals__)
        elif isinstance(method, (types.BuiltinFunctionType, type)) or not hasattr(type(method).__call__, "__globals__"):
            return {}
        else:
            method = type(method).__call__


def _setting(service: object, name: str, default: Any) -> Any:
    try:
        return getattr(service, name, default)
    except Exception as error:  # raised by a property
        raise _mistake(service, name, f"cannot be read: {type(error).__name__}: {error}") from None


def _text(service: object, name: str) -> str:
    value = _setting(service, name, "")
    if not isinstance(value, str):
        raise _mistake(service, name, f'must be a str ("" for none), not {type(value).__name__}')
    return value


def _idleTimeout(service: object, value: Any) -> float:
    # It is added to a float, and an int may be larger than any float.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= sys.float_info.max:
        raise _mistake(service, "idleTimeout", f"must be a number of seconds, 0 or more (0: never), not {value!r}")
    return value


def _subProtocols(service: object, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise _mistake(service, "subProtocols", f"must be a list of names, not {type(value).__name__}")
    if not value:
        return ()
    for each in value:
        if not isinstance(each, str) or not isToken(each):
            raise _mistake(service, "subProtocols", f"has {each!r}, which is not a token (letters, digits and !#$%&'*+-.^_`|~)")
    if len(set(value)) != len(value):
        raise _mistake(service, "subProtocols", "lists a name twice")
    return tuple(value)
