"""YAML of what JSON can say, as any parser of YAML 1.1 or 1.2 reads it. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

# What is a string for every parser without quotes: not y, no, null, 1e3, 12:30, 2027-01-31 or anything with a sign in it.
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:[ /.-][A-Za-z0-9_]+)*")
_WORDS = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"))
# What JSON leaves as it is, and YAML does not have in a text of one line.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def asYAML(value: Any) -> str:
    """Return a document for a value of dicts with str keys, lists, str, int, float, bool and None."""
    return "\n".join(_lines(value, 0)) + "\n"


def _lines(value: Any, depth: int) -> Iterator[str]:
    indent = "  " * depth
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _entry(f"{indent}{_text(key)}:", each, depth)
    elif isinstance(value, list) and value:
        for each in value:
            first, *rest = _lines(each, depth + 1)
            yield f"{indent}- {first.lstrip(' ')}"
            yield from rest
    else:
        yield indent + _scalar(value)


def _entry(head: str, value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, (dict, list)) and value:
        yield head
        yield from _lines(value, depth + 1)
    else:
        yield f"{head} {_scalar(value)}"


def _scalar(value: Any) -> str:
    return _text(value) if isinstance(value, str) else json.dumps(value)  # {} and [] too


def _text(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))
