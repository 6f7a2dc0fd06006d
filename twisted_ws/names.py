"""The names of channels, and the patterns that stand for many of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from twisted_ws.errors import ChannelError

# Only what a URL, a query, a cookie and a file can hold unescaped, so that there is one form of each name.
_TOKEN = r"[A-Za-z0-9_~-]+"
NAME = rf"{_TOKEN}(?:\.{_TOKEN})*"  # a regular expression that JSON Schema takes, too
_isName = re.compile(NAME).fullmatch
EITHER = rf"{NAME}|(?:{_TOKEN}\.)*\*"  # the same for a name or pattern
_isEither = re.compile(EITHER).fullmatch


def checkName(name: str, longest: int) -> str:
    """Return the name of a channel, checked.

    Args:
        name: tokens of letters, digits, ``_``, ``-`` and ``~``, with ``.`` between them.
        longest: the most characters that it may have.

    Raises:
        ChannelError: not a name, or too long.
    """
    if not isinstance(name, str) or len(name) > longest or not _isName(name):
        raise _badName(longest)
    return name


def checkNameOrPattern(name: str, longest: int) -> str:
    """Return the name of a channel or a pattern (``orders.*``, ``*``), checked as `checkName` does."""
    if not isinstance(name, str) or len(name) > longest or not _isEither(name):
        raise _badName(longest)
    return name


def _badName(longest: int) -> ChannelError:
    return ChannelError("bad-channel", f"A channel name is 1 to {longest} letters, digits, _, - or ~, with single dots between.")


def isPattern(name: str) -> bool:
    """Return whether a checked name is a pattern."""
    return name.endswith("*")


def patternsOf(name: str) -> Iterator[str]:
    """Yield the patterns that match a channel: ``a.b.*``, ``a.*`` and ``*`` for ``a.b.c``.

    There are as many as the name has tokens, so subscribers are found without comparing all patterns with it.
    """
    end = name.rfind(".")
    while end >= 0:
        yield name[: end + 1] + "*"
        end = name.rfind(".", 0, end)
    yield "*"
