"""A configuration file with every key that there is: what is set, and as comments what could be, with its default."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from twisted_ws.daemon.groups import groups
from twisted_ws.daemon.settings import Key, Settings
from twisted_ws.limits import Limits

_WIDTH = 100


def configuration(head: str, values: Mapping[str, Any], tables: str) -> str:
    """Return the text of a TOML file.

    Args:
        head: comments for the beginning, without their signs.
        values: the keys that are set, by name.
        tables: what follows the keys: services, authenticators, channels.
    """
    lines = [*_comment(head)]
    for title, keys in groups():
        lines += ["", f"# --- {title} ---"]
        for key in keys:
            lines += ["", *_comment(_help(key)), *_key(key, values)]
    lines += ["", tables.strip(), "", "# --- All other limits: their reasons are in the documentation. ---", "", "[limits]"]
    flags = {key.field for _, keys in groups() for key in keys if key.isLimit}
    for each in fields(Limits):
        if each.name not in flags:
            lines += [*_comment(f"{each.metadata['unit']}: {each.metadata['reason']}"), f"# {each.name} = {each.default!r}"]
    return "\n".join(lines) + "\n"


def defaultOf(key: Key) -> str | None:
    """Return the default of a setting as TOML has it; None if there is none."""
    default = getattr(Limits() if key.isLimit else Settings(), key.field)
    if default is None:
        return None
    if key.isList and not default:
        return "[]"
    # As a person writes it, if that means the same: 1MiB, off.
    plain = [key.default] if key.default.isdigit() else []
    for text in (*plain, json.dumps(key.default), json.dumps(default) if isinstance(default, (bool, int, float, str)) else ""):
        try:
            if text and key.read(json.loads(text)) == default:
                return text
        except ValueError:
            pass
    raise AssertionError(f"{key.name} has a default that nobody can write")


def _key(key: Key, values: Mapping[str, Any]) -> Iterator[str]:
    if key.name in values:
        yield f"{key.name} = {json.dumps(values[key.name])}"
        return
    default = defaultOf(key)
    yield f"# {key.name} = {_example(key) if default is None else default}"


def _example(key: Key) -> str:
    """Return what could be there, for a setting without a default."""
    return '"PATH"' if key.isPath else "0" if key.name == "workers" else '""'


def _help(key: Key) -> str:
    # An option has two dashes where it is used, and none here; what is repeatable there is a list here.
    text = key.help.replace("--", "").removesuffix("; repeatable")
    text = text[0].upper() + text[1:]
    unset = key.default and defaultOf(key) in (None, "[]")
    return f"{text}{'; a list' if key.isList else ''}{f' [{key.default}]' if unset else ''}."


def _comment(text: str) -> list[str]:
    return [f"# {line}".rstrip() for part in text.splitlines() for line in textwrap.wrap(part, _WIDTH) or [""]]
