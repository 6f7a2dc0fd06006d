"""How many values a JSON text has, before any object is made of them.

A decoder makes an object of each value in one call, in which nobody else is served: a megabyte of brackets takes a fifth of a
second. Only their number tells: one that is a single string, or a few hundred, costs next to nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

__all__ = ["LARGE", "decodeLarge", "hasMoreValues"]

# Bytes from which on a text is counted, and decoded by `decodeLarge`.
LARGE = 16 * 1024


def decodeLarge(decode: Callable[[Any], Any], text: str | bytes) -> Any:
    """Return what `decode` makes of a large text, without the collector.

    It would look at everything that there is again and again, for objects of which none is garbage yet: that takes many times as
    long as to make them.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return decode(text)
    finally:
        if collects:
            gc.enable()


def hasMoreValues(text: str | bytes, most: int) -> bool:
    """Say whether a JSON text has more than `most` values, those within others and the names of fields included.

    It takes a few passes over the text in C, whatever is in it; what is no JSON is counted as if it were.
    """
    if len(text) <= 2 * most:
        return False  # each has a byte, and one more between it and the next
    # A mark stands before each but the first. There may be more of them in strings.
    if isinstance(text, str):
        marks = text.count(",") + text.count(":") + text.count("[") + text.count("{")
    else:
        marks = text.count(b",") + text.count(b":") + text.count(b"[") + text.count(b"{")
    return marks >= most and _count(text.encode(errors="replace") if isinstance(text, str) else text, most) > most


def _count(text: bytes, most: int) -> int:
    """Return how many values there are; of more strings than `most`, the number of these."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = text.count(b'"') // 2
    if strings > most:
        return strings
    bare = b"0".join(text.split(b'"')[::2]).translate(None, b" \t\r\n")
    marks = bare.count(b",") + bare.count(b":") + bare.count(b"[") + bare.count(b"{")
    return 1 + marks - bare.count(b"[]") - bare.count(b"{}")
