"""The lines of a configuration file, for what is said about its keys."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any


def lineOf(text: str, *keys: str) -> int | None:
    """Return the line, from 1, on which a TOML document begins with a table or value; None if it does not have it.

    However the document is written, the parser finds the key as soon as it has read that line.

    Args:
        text: the document, which is valid.
        keys: the names of the tables, and of the key in the last one.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    for number, line in enumerate(lines, 1):
        if keys[-1] not in line:
            continue
        before = _parsed(lines[: number - 1])
        if before is None or _has(before, keys):
            continue  # within a value of several lines, or a comment behind what was looked for
        ends = (_parsed(lines[:end]) for end in range(number, len(lines) + 1))
        after = next((each for each in ends if each is not None), None)
        if after is not None and _has(after, keys):
            return number
    return None


def _parsed(lines: Sequence[str]) -> dict[str, Any] | None:
    try:
        return tomllib.loads("\n".join(lines))
    except (ValueError, RecursionError):
        return None


def _has(table: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(table, dict) or key not in table:
            return False
        table = table[key]
    return True
