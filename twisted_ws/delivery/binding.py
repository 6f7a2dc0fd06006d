"""Data binding: a message as the annotation of its handler has it."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from typing import Any

import msgspec

from twisted_ws.errors import BindingError
from twisted_ws.logs import printable

__all__ = ["Binder", "parseObject"]

# " - at `$.order.items[0].price`", as msgspec ends its messages.
_PATH = re.compile(r"^(?P<what>.*?)(?: - at `(?:key in )?\$(?P<path>[^`]*)`)?$", re.DOTALL)

_AS_IT_CAME = (Any, object, inspect.Parameter.empty)


class Binder:
    """Decodes messages for one annotation.

    ==============================  ===================================================
    annotation                      takes
    ==============================  ===================================================
    none, Any, object, str | bytes  text as str, binary as bytes
    str                             text only
    bytes                           binary only
    anything else                   JSON, in text or binary, checked against the type
    ==============================  ===================================================

    Args:
        annotation: a type that msgspec knows: dict, list, dataclass, TypedDict, msgspec.Struct, unions, Annotated with Meta.

    Raises:
        TypeError: it is no such type.
    """

    __slots__ = ("_annotation", "_decoder", "_takes")

    def __init__(self, annotation: Any = Any) -> None:
        self._annotation = annotation
        self._decoder: msgspec.json.Decoder[Any] | None = None
        self._takes: tuple[type, ...] = (str, bytes)
        if annotation in (str, bytes):
            self._takes = (annotation,)
        elif not (any(annotation is each for each in _AS_IT_CAME) or _isUnionOfBoth(annotation)):
            if not _isType(annotation):
                raise TypeError(f"{annotation!r} is no type")
            self._decoder = msgspec.json.Decoder(annotation)

    @property
    def bindsJSON(self) -> bool:
        """Whether messages are decoded as JSON."""
        return self._decoder is not None

    def bind(self, message: str | bytes) -> Any:
        """Return the message as the handler wants it.

        Raises:
            BindingError: it does not fit; names the field.
        """
        if self._decoder is None:
            if isinstance(message, self._takes):
                return message
            wanted = "text" if self._takes == (str,) else "binary"
            raise BindingError(f"the handler takes {wanted} messages only", f"bad data: {wanted} expected")
        try:
            return self._decoder.decode(message)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise _misfit(error) from None

    def convert(self, value: Any, message: str | bytes) -> Any:
        """Return a message that was parsed already; see `bind`.

        Args:
            value: what JSON made of it.
            message: the message itself, for a handler that wants it as it came.
        """
        if self._decoder is None:
            return self.bind(message) if self._annotation in (str, bytes) else message
        try:
            return msgspec.convert(value, self._annotation)
        except (msgspec.ValidationError, RecursionError) as error:
            raise _misfit(error) from None


def parseObject(message: str | bytes) -> dict[str, Any] | None:
    """Return a message that is a JSON object, None for any other."""
    try:
        value = msgspec.json.decode(message)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _misfit(error: Exception) -> BindingError:
    if not isinstance(error, msgspec.ValidationError):
        return BindingError("the message is no JSON", "bad data: JSON expected")
    match = _PATH.match(str(error))
    field = printable((match and match["path"]) or "", 60).lstrip(".")
    return BindingError(printable(error), f"bad data: {field or 'the message'}", field)


def _isUnionOfBoth(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType) and set(typing.get_args(annotation)) == {str, bytes}


def _isType(annotation: Any) -> bool:
    return (
        annotation is None
        or isinstance(annotation, (type, typing.TypeVar, types.UnionType, types.GenericAlias))
        or typing.get_origin(annotation) is not None
        or dataclasses.is_dataclass(annotation)
        or typing.is_typeddict(annotation)
    )
