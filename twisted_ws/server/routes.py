"""Which service answers which path: ``/ws``, ``/rooms/{room}``, ``/orders/{id:int}``. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import unquote_to_bytes

from twisted_ws.errors import ConfigurationError

T = TypeVar("T")

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([a-z]+))?\}")


def _toInt(text: str) -> int:
    # int() also takes "+1", "1_0", " 1" and digits of other scripts; each would be another spelling of the same path.
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise ValueError(text)
    return int(text)


_KINDS: dict[str, Callable[[str], Any]] = {"str": str, "int": _toInt}


@dataclass(slots=True)
class Match(Generic[T]):
    """The route that matched a path.

    Attributes:
        value: the value that was added.
        parameters: the path's parameters, decoded.
        rest: the decoded segments under the path that was added: ``["b", ""]`` for ``/a/b/`` under ``/a``.
    """

    value: T
    parameters: dict[str, Any]
    rest: list[str]


@dataclass(frozen=True, slots=True)
class _Route(Generic[T]):
    path: str
    segments: tuple[str | tuple[str, str], ...]
    value: T

    def match(self, segments: list[str]) -> dict[str, Any] | None:
        if len(segments) < len(self.segments):
            return None
        parameters = {}
        for wanted, segment in zip(self.segments, segments, strict=False):
            if isinstance(wanted, str):
                if wanted != segment:
                    return None
                continue
            name, kind = wanted
            if not segment:
                return None
            try:
                parameters[name] = _KINDS[kind](segment)
            except ValueError:
                return None
        return parameters


class Routes(Generic[T]):
    """Values by path: the longest path wins, and a literal segment wins over a parameter."""

    def __init__(self) -> None:
        self._routes: list[_Route[T]] = []
        # Routes without parameters, by path: one that is equal to a whole path is the longest match, and wins over parameters.
        self._literal: dict[str, _Route[T]] = {}

    def add(self, path: str, value: T) -> None:
        """Let `value` answer `path` and everything under it.

        Args:
            path: begins with "/"; a segment may be a parameter, ``{name}`` or ``{name:int}``.
            value: what `find` returns for it.

        Raises:
            ConfigurationError: the path is malformed or already taken, even by one that differs in names of parameters.
        """
        route = _Route(path, _parse(path), value)
        shape = [s if isinstance(s, str) else None for s in route.segments]
        for other in self._routes:
            if [s if isinstance(s, str) else None for s in other.segments] == shape:
                by = f" by {other.path}" if other.path != path else ""
                raise ConfigurationError(f"the path {path} is already taken{by}.")
        self._routes.append(route)
        literal = "/" + "/".join([segment for segment in route.segments if isinstance(segment, str)])
        if None not in shape and _split(literal) == shape:
            self._literal[literal] = route
        # Longest first; of equal length, the one that is literal where they first differ.
        self._routes.sort(key=lambda r: (-len(r.segments), [not isinstance(s, str) for s in r.segments]))

    def replace(self, path: str, value: T) -> T:
        """Let another value answer a path that was added; return the value before.

        Raises:
            KeyError: it was not added.
        """
        for at, route in enumerate(self._routes):
            if route.path == path:
                self._routes[at] = new = _Route(path, route.segments, value)
                for literal in [literal for literal, each in self._literal.items() if each is route]:
                    self._literal[literal] = new
                return route.value
        raise KeyError(path)

    def find(self, path: str) -> Match[T] | None:
        """Return the match for a URL path as it came (percent-encoded), None if there is none."""
        literal = self._literal.get(path)
        if literal is not None:
            return Match(literal.value, {}, [])
        segments = _split(path)
        if segments is None:
            return None
        for route in self._routes:
            parameters = route.match(segments)
            if parameters is not None:
                return Match(route.value, parameters, segments[len(route.segments) :])
        return None

    def pathOf(self, path: str) -> str | None:
        """Return the path that was added and by which `find` finds this one; None if it finds nothing."""
        found = self.find(path)
        return None if found is None else next(route.path for route in self._routes if route.value is found.value)

    def __iter__(self) -> Iterator[tuple[str, T]]:
        return ((route.path, route.value) for route in self._routes)

    def __len__(self) -> int:
        return len(self._routes)


# A path without percent-encoding.
_PLAIN = re.compile(r"/[!-$&-~]*").fullmatch


def _parse(path: str) -> tuple[str | tuple[str, str], ...]:
    if not path.startswith("/") or "//" in path or "?" in path or "#" in path:
        raise ConfigurationError(f"{path!r} is not a path: it must begin with a single / and have no ? or #.")
    segments: list[str | tuple[str, str]] = []
    names = set()
    for segment in path.strip("/").split("/"):
        match = _PARAMETER.fullmatch(segment)
        if match is None:
            if "{" in segment or "}" in segment:
                raise ConfigurationError(f"in the path {path}, {segment} is not a parameter: write {{name}} or {{name:int}}.")
            if "%" in segment or segment in (".", ".."):
                raise ConfigurationError(f"the path {path} must be written decoded, and have no . or .. as a segment.")
            if segment:
                segments.append(segment)
            continue
        name, kind = match[1], match[2] or "str"
        if kind not in _KINDS:
            raise ConfigurationError(f"in the path {path}, {kind} is not a type of parameter: use int or str.")
        if name in names:
            raise ConfigurationError(f"in the path {path}, the parameter {name} appears twice.")
        names.add(name)
        segments.append((name, kind))
    return tuple(segments)


def _split(path: str) -> list[str] | None:
    """Return the decoded segments of a URL path, None if no route may match it."""
    if _PLAIN(path) and "/." not in path:
        return path[1:].split("/")
    segments = []
    for raw in path.removeprefix("/").split("/"):
        try:
            segment = unquote_to_bytes(raw).decode()
        except UnicodeDecodeError:
            return None
        # A proxy resolves dot segments before it applies its rules; we do not, so they match nothing. Nor do controls.
        if segment in (".", "..") or any(c < " " or c == "\x7f" for c in segment):
            return None
        segments.append(segment)
    return segments
