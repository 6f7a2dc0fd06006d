"""Large JSON texts: their values are counted before any object is made of them.

A decoder makes an object of each value in one call, during which nobody else is served: a megabyte of brackets takes a fifth of a
second. Only the number of values matters: a text that is one string, or a few hundred, costs next to nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

# From this size in bytes on, a text is counted and decoded by `decodeLarge`.
LARGE = 16 * 1024


def decodeLarge(decode: Callable[[Any], Any], text: str | bytes) -> Any:
    """Return what `decode` makes of a large text, with the garbage collector off.

    The collector would scan everything again and again, for objects of which none is garbage yet: that takes many times as
    long as making them.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return decode(text)
    finally:
        if collects:
            gc.enable()


def hasMoreValues(text: str | bytes, most: int) -> bool:
    """Return whether a JSON text has more than `most` values, nested values and field names included.

    It takes a few passes over the text in C, whatever is in it; text that is not JSON is counted as if it were.
    """
    if len(text) <= 2 * most:
        return False  # each value has at least a byte, and a byte separates it from the next
    # A mark precedes each value but the first. Strings may contain more marks.
    if isinstance(text, str):
        marks = text.count(",") + text.count(":") + text.count("[") + text.count("{")
    else:
        marks = text.count(b",") + text.count(b":") + text.count(b"[") + text.count(b"{")
    return marks >= most and _count(text.encode(errors="replace") if isinstance(text, str) else text, most) > most


def _count(text: bytes, most: int) -> int:
    """Return the number of values; if there are more strings than `most`, their number."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = text.count(b'"') // 2
    if strings > most:
        return strings
    bare = b"0".join(text.split(b'"')[::2]).translate(None, b" \t\r\n")
    marks = bare.count(b",") + bare.count(b":") + bare.count(b"[") + bare.count(b"{")
    return 1 + marks - bare.count(b"[]") - bare.count(b"{}")
