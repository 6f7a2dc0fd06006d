"""Suggestions for misspelt names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

_UNKNOWN = re.compile(r"option --(\S+) not recognized")


def didYouMean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return the end of a sentence about `name`: ``: did you mean PREFIXport?``, or a full stop if nothing is close."""
    near = get_close_matches(name, known, 1, 0.4)
    return f": did you mean {prefix}{near[0]}?" if near else "."


def explainOption(error: Exception, known: Iterable[str]) -> str:
    """Return what is wrong with a command line, as one line.

    Args:
        error: the error of getopt or `twisted.python.usage`.
        known: the long options, without dashes; a ``=`` at the end is ignored.
    """
    unknown = _UNKNOWN.fullmatch(str(error))
    if unknown is None:
        return str(error).replace("requires argument", "requires an argument")  # getopt's words
    name = unknown[1]
    return f"there is no option --{name}{didYouMean(name, [each.removesuffix('=') for each in known], '--')}".removesuffix(".")
