"""Memory of objects that exist once for each connection: they share the table of their attributes' names (PEP 412)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def shareKeys(kind: type[T], names: Iterable[str]) -> type[T]:
    """Make the instances of `kind` share one table of attribute names, and return `kind`.

    CPython shares the names that the first few instances have set, at most 30. If a thousand connections come before the first of
    them gets its later attributes, each keeps a table of its own, of half a kilobyte or more.

    Args:
        kind: a class without ``__slots__`` that has no instances yet.
        names: every attribute that an instance may get during a connection.
    """
    first: object = object.__new__(kind)
    for name in names:
        object.__setattr__(first, name, None)
    return kind
