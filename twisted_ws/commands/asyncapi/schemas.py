"""The schemas of messages, from the annotations of handlers."""

from __future__ import annotations

import collections.abc
import re
import types
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from twisted.internet.defer import Deferred

from twisted_ws.service import CloseFrame

_TEMPLATE = "#/components/schemas/{name}"
_LATER = (collections.abc.Awaitable, collections.abc.Coroutine, Deferred)
_MANY = (
    *(collections.abc.Iterator, collections.abc.Iterable, collections.abc.Generator),
    *(collections.abc.AsyncIterator, collections.abc.AsyncIterable, collections.abc.AsyncGenerator),
)
_ANYTHING = (Any, object)
# Names that tools take for something other than that of a property: a reference, the prototype of an object. As patterns, they
# mean the same.
_TAKEN = ("$ref", "__proto__")


class Content(NamedTuple):
    """What a message has in it.

    Attributes:
        kind: "text", "binary" or "json"; "any" for text or binary.
        annotation: the type that it is checked against.
    """

    kind: str
    annotation: Any = Any


def contentOf(annotation: Any) -> Content:
    """Return what a message for an annotation has in it, as `twisted_ws.dispatch.binding.Binder` reads it."""
    plain = typing.get_args(annotation)[0] if typing.get_origin(annotation) is typing.Annotated else annotation
    parts = _parts(plain) - {type(None)}
    if parts == {str}:
        return Content("text", annotation)
    if parts == {bytes}:
        return Content("binary", annotation)
    if parts == {str, bytes} or any(plain is each for each in _ANYTHING):
        return Content("any")
    return Content("json", annotation)


class Reply(NamedTuple):
    """What a handler answers.

    Attributes:
        content: of each message.
        isStream: whether there may be several.
    """

    content: Content
    isStream: bool = False


def replyOf(method: Callable[..., Any]) -> Reply | None:
    """Return what a handler says that it returns; None if it does not say, or if that is not sent."""
    try:
        annotation = typing.get_type_hints(method, include_extras=True).get("return", Any)
    except Exception:  # names that are only there for type checkers, or anything that an annotation can do
        return None
    isStream = False
    while True:
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin in _LATER and arguments:
            annotation = arguments[-1]
        elif origin in _MANY and arguments:
            if origin is collections.abc.Generator and _isDeferred(arguments[0]):  # inlineCallbacks
                annotation = arguments[-1]
            else:
                annotation, isStream = arguments[0], True
        else:
            break
    kept = [each for each in _parts(annotation) if each not in (type(None), CloseFrame)]
    if not kept or any(annotation is each for each in _ANYTHING):
        return None
    if len(kept) < len(_parts(annotation)):
        annotation = typing.Union[tuple(kept)]  # noqa: UP007 - of any number
    content = contentOf(annotation)
    return None if content.kind == "any" else Reply(content, isStream)


def _isDeferred(annotation: Any) -> bool:
    return annotation is Deferred or typing.get_origin(annotation) is Deferred


def _parts(annotation: Any) -> set[Any]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return set(typing.get_args(annotation))
    return {type(None) if annotation is None else annotation}


def schemasOf(annotations: list[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return a schema for each type, and those that they refer to, by name; `{}`, which allows anything, where there is none."""
    usable = [each for each in annotations if _hasSchema(each)]
    found, components = msgspec.json.schema_components(usable, ref_template=_TEMPLATE)
    schemas = iter(found)
    made = [next(schemas) if any(each is one for one in usable) else {} for each in annotations]
    return [draft7(each) for each in made], {name: draft7(each) for name, each in components.items()}


def _hasSchema(annotation: Any) -> bool:
    try:
        msgspec.json.schema_components([annotation])
    except Exception:  # a type that JSON has no form for, which no handler takes but may say that it returns
        return False
    return True


def draft7(schema: Any) -> Any:
    """Return a schema as AsyncAPI has it, which is a superset of draft 7: tuples are `items`, a discriminator is a name."""
    if isinstance(schema, list):
        return [draft7(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {}
    for word, value in schema.items():
        if word == "discriminator":
            made[word] = value["propertyName"]
        elif word == "prefixItems":
            made["items"] = draft7(value)
        elif word == "items" and "prefixItems" in schema:
            made["additionalItems"] = draft7(value)
        elif word == "properties":
            made[word] = {name: draft7(each) for name, each in value.items() if name not in _TAKEN}
            patterns = {f"^{re.escape(name)}$": draft7(each) for name, each in value.items() if name in _TAKEN}
            if patterns:
                made["patternProperties"] = patterns
        elif word in ("required", "const", "enum", "default", "examples"):
            made[word] = value
        else:
            made[word] = draft7(value)
    return made
