"""The names of channels, and the patterns that stand for many of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from twisted_ws.errors import ChannelError

__all__ = ["NAME", "checkName", "checkNameOrPattern", "isPattern", "patternsOf"]

# Only what a URL, a query, a cookie and a file can hold unescaped, so that there is one form of each name.
_TOKEN = r"[A-Za-z0-9_~-]+"
NAME = rf"{_TOKEN}(?:\.{_TOKEN})*"  # a regular expression, as JSON Schema takes them, too
_NAME = re.compile(NAME)
_PATTERN = re.compile(rf"(?:{_TOKEN}\.)*\*")


def checkName(name: str, longest: int) -> str:
    """Return the name of a channel, checked.

    Args:
        name: tokens of letters, digits, ``_``, ``-`` and ``~``, with ``.`` between them.
        longest: how many characters it may have.

    Raises:
        ChannelError: it is none, or too long.
    """
    if not isinstance(name, str) or len(name) > longest or not _NAME.fullmatch(name):
        raise ChannelError(
            "bad-channel", f"A channel is named by 1 to {longest} letters, digits and _ - ~, with single . between."
        )
    return name


def checkNameOrPattern(name: str, longest: int) -> str:
    """Return the name of a channel or a pattern (``orders.*``, ``*``), checked as `checkName` does."""
    if isPattern(name) and len(name) <= longest and _PATTERN.fullmatch(name):
        return name
    return checkName(name, longest)


def isPattern(name: str) -> bool:
    """Say whether a checked name stands for many channels."""
    return isinstance(name, str) and name.endswith("*")


def patternsOf(name: str) -> Iterator[str]:
    """Yield the patterns that stand for a channel, beside others: ``a.b.c`` is in ``a.b.*``, ``a.*`` and ``*``.

    As many as the name has tokens: to find who hears a message, nobody's pattern is compared with it.
    """
    end = name.rfind(".")
    while end >= 0:
        yield name[: end + 1] + "*"
        end = name.rfind(".", 0, end)
    yield "*"
