"""Data binding: messages decoded as their handler's annotation says."""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from typing import Any

import msgspec

from twisted_ws.dispatch.largejson import LARGE, decodeLarge, hasMoreValues
from twisted_ws.errors import BindingError
from twisted_ws.logs import printable

# How msgspec ends an error about a value inside: " - at `$.order.items[0].price`".
_PATH = re.compile(r" - at `(?:key in )?\$([^`]*)`\Z")
# For a missing or unknown field, the path names only the object around it; the text names the field.
_FIELD = re.compile(r"Object (?:missing required|contains unknown) field `(.*?)`", re.DOTALL)

_AS_IT_CAME = (Any, object, inspect.Parameter.empty)


class Binder:
    """Decodes messages for one annotation.

    ==============================  ========================================================================
    annotation                      takes
    ==============================  ========================================================================
    none, Any, object, str | bytes  text as str, binary as bytes
    str                             text only; ``Annotated[str, Meta(...)]`` and ``str | None`` likewise
    bytes                           binary only; likewise
    anything else                   JSON, in text or binary, checked against the type and its `Meta`
    ==============================  ========================================================================

    Args:
        annotation: a type that msgspec knows: dict, list, dataclass, TypedDict, msgspec.Struct, unions, Annotated with Meta.

    Raises:
        TypeError: msgspec does not know the type, or one inside it.
        NameError: a type inside it is not defined.
    """

    __slots__ = ("_annotation", "_checked", "_counted", "_decoder", "_takes")

    def __init__(self, annotation: Any = Any) -> None:
        self._annotation = annotation
        self._decoder: msgspec.json.Decoder[Any] | None = None
        self._checked = False
        plain = _plain(annotation)
        self._counted = plain is not msgspec.Raw
        if plain is bytearray or plain is memoryview:
            raise TypeError("binary messages come as bytes")
        self._takes: tuple[type, ...] = (str, bytes) if any(plain is each for each in _AS_IT_CAME) else _messages(plain)
        if self._takes:
            self._checked = typing.get_origin(annotation) is typing.Annotated
            return
        self._decoder = msgspec.json.Decoder(annotation)
        # msgspec would accept any class here, and then no message would fit.
        for kind in _kinds(msgspec.inspect.type_info(annotation)):
            if isinstance(kind, msgspec.inspect.CustomType) and kind.cls is not object:
                raise TypeError(f"JSON has no form for {kind.cls.__module__}.{kind.cls.__qualname__}")

    @property
    def annotation(self) -> Any:
        """The type that messages are checked against."""
        return Any if self._annotation is inspect.Parameter.empty else self._annotation

    def bind(self, message: str | bytes, most: int = sys.maxsize) -> Any:
        """Return the message as the handler takes it.

        Args:
            message: text or binary.
            most: how many JSON values it may have (`Limits.jsonValues`).

        Raises:
            BindingError: it does not fit (the error names the field), or has too many values.
            Exception: what a ``__post_init__`` of the type raised, except ValueError and TypeError, which mean "does not fit".
        """
        try:
            if self._decoder is not None:
                if len(message) > LARGE or len(message) > most:
                    if self._counted and hasMoreValues(message, most):
                        raise BindingError(f"the message has more than {most} JSON values", "bad data: too many values")
                    return decodeLarge(self._decoder.decode, message)
                return self._decoder.decode(message)
            if not isinstance(message, self._takes):
                wanted = "text" if str in self._takes else "binary"
                raise BindingError(f"the handler takes {wanted} messages only", f"bad data: {wanted} expected")
            return msgspec.convert(message, self._annotation) if self._checked else message
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise _misfit(error) from None


def _misfit(error: Exception) -> BindingError:
    """Return the error for a message that does not fit: the peer is told the field, onError and the log the rest."""
    if not isinstance(error, msgspec.ValidationError):
        return BindingError("the message is not JSON, or is nested too deeply", "bad data: JSON expected")
    text = str(error)
    path = _PATH.search(text)
    field = path[1].lstrip(".") if path else ""
    named = _FIELD.match(text)
    if named:
        field = f"{field}.{named[1]}" if field else named[1]
    # It may contain a key that the peer made up.
    field = printable(field, 60)
    return BindingError(printable(error), f"bad data: {field or 'the message'}", field)


def _plain(annotation: Any) -> Any:
    """Return an annotation without its wrappers: Annotated, NewType, the alias of a ``type`` statement."""
    while True:
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        else:
            return annotation


def _messages(annotation: Any) -> tuple[type, ...]:
    """Return which of str and bytes an annotation consists of; () if it has anything else except None."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = set(typing.get_args(annotation)) - {type(None)}
    else:
        parts = {annotation} if isinstance(annotation, type) else set()
    return tuple(parts) if parts <= {str, bytes} else ()


def _kinds(node: Any) -> list[msgspec.inspect.Type]:
    """Return every type inside a type."""
    found: dict[int, msgspec.inspect.Type] = {}
    left = [node]
    while left:
        node = left.pop()
        if isinstance(node, tuple):
            left += node
        elif isinstance(node, (msgspec.inspect.Type, msgspec.inspect.Field)) and id(node) not in found:
            found[id(node)] = node  # type: ignore[assignment]  # Fields too, so that recursive types end
            left += [getattr(node, name) for name in node.__struct_fields__]
    return list(found.values())
