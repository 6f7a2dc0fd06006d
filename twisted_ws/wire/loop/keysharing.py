"""What an object costs that there is one of for each connection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

__all__ = ["shareNames"]

T = TypeVar("T")


def shareNames(kind: type[T], names: Iterable[str]) -> type[T]:
    """Have the instances of `kind`, which is returned, share one table of the names of their attributes.

    CPython does so for the names that the first few instances have set, and for at most 30. When a thousand connections come
    before the first of them gets its later attributes, each would have a table of its own, of half a kilobyte and more, for ever.

    Args:
        kind: a class without ``__slots__`` whose instances nobody has made yet.
        names: all attributes that an instance may get in the life of a connection.
    """
    first: object = object.__new__(kind)
    for name in names:
        object.__setattr__(first, name, None)
    return kind
