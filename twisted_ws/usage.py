"""The options of a command line as they are, for its help, the manual page and the completion of shells. Pure."""

from __future__ import annotations

import inspect
import os
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from twisted.python.usage import CompleteDirs, CompleteFiles, Options

# What an option takes, by the end of its name; the first that fits.
_VALUES = (
    ("FILE", "file|config|certificate|chain|private-key|key-store|trust-store|client-ca|audit-log|grants|token"),
    ("DIRECTORY", "directory"),
    ("PORT", "port|listen"),
    ("URL", "url|engine|outbox"),
    ("SECONDS", "seconds|timeout|interval|wait|expiry|ping"),
    ("SIZE", "size|buffer"),
    ("NUMBER", "connections|connections-per-ip|workers|rate|process"),
    ("ADDRESS", "interface"),
)
_OTHERWISE = "VALUE"
# Columns: where the text of an option begins, and how long lines are if nothing is known.
_TEXT = 30
_WIDTH = 80
# Options that come last, whatever the group.
_LAST = ("help", "version")


class Option(NamedTuple):
    """One option.

    Attributes:
        name: without its dashes.
        short: the same in one letter; "" without.
        value: what it takes, such as FILE; "" for nothing.
        help: what it means, on one line, with its default in brackets.
        choices: the values that there are; () for others.
        repeats: whether it may be given several times.
    """

    name: str
    short: str
    value: str
    help: str
    choices: tuple[str, ...] = ()
    repeats: bool = False

    @property
    def spelt(self) -> str:
        """How it is written: ``-b, --binary``, ``--port=PORT``."""
        return f"{f'-{self.short}, ' if self.short else ''}--{self.name}{f'={self.value}' if self.value else ''}"


def optionsOf(options: Options) -> list[Option]:
    """Return the options of a command.

    The class may have `takes`, what some of them take by name, where the name does not say it, and `choices`, the values that
    there are.
    """
    takes: Mapping[str, str] = getattr(options, "takes", {})
    known: Mapping[str, Sequence[str]] = getattr(options, "choices", {})
    shorts = {long: short for short, long in options.synonyms.items() if len(short) == 1}
    actions: Mapping[str, Any] = getattr(getattr(options, "compData", None), "optActions", {})
    found = []
    for spelt in options.longOpt:
        name = spelt.removesuffix("=")
        text = inspect.cleandoc(options.docs.get(name) or "")
        head, colon, rest = text.partition(": ")
        value = ""
        if spelt.endswith("="):
            if colon and re.fullmatch(r"[A-Z=:]+", head):  # PATH=TARGET: let a service ...
                value, text = head, rest
            else:
                value = takes.get(name) or _valueOf(name, actions.get(name))
        words = " ".join(text.split()).removesuffix(".")
        if words[1:2].islower():  # not PEM, and not WebSocket either
            words = words[0].lower() + words[1:] if words.split()[0].isalpha() and words.split()[0][1:].islower() else words
        choices = tuple(known.get(name, ()))
        if choices and sum(map(len, choices)) < 12:
            value = "|".join(choices)
        found.append(Option(name, shorts.get(name, ""), value, words, choices, "repeatable" in words))
    return found


def _valueOf(name: str, action: Any) -> str:
    otherwise = "FILE" if isinstance(action, CompleteFiles) else "DIRECTORY" if isinstance(action, CompleteDirs) else _OTHERWISE
    return next((value for value, ends in _VALUES if re.search(rf"(?:^|-)(?:{ends})$", name)), otherwise)


def grouped(options: Iterable[Option], groups: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, list[Option]]]:
    """Yield the options by group, each once: those that are in none come last.

    Args:
        options: the options.
        groups: the names in each group, by its title.
    """
    left = {each.name: each for each in options}
    last = [left.pop(name) for name in _LAST if name in left]
    for title, names in groups.items():
        found = [left.pop(name) for name in names if name in left]
        if found:
            yield title, found
    if left or last:
        yield ("More" if groups else "Options"), [*left.values(), *last]


def width() -> int:
    """Return how wide the help may be."""
    columns = os.environ.get("COLUMNS", "")
    return max(int(columns), 40) if columns.isascii() and columns.isdigit() else _WIDTH


def shown(groups: Iterable[tuple[str, list[Option]]], columns: int) -> Iterator[str]:
    """Yield the lines of a help for options by group."""
    for title, options in groups:
        yield f"{title}:"
        for option in options:
            yield from entry(f"  {'' if option.short else '    '}{option.spelt}", option.help, columns)
        yield ""


def entry(head: str, text: str, columns: int, at: int = _TEXT) -> Iterator[str]:
    """Yield the lines for something and what it means, in two columns, of which the second begins at `at`."""
    lines = textwrap.wrap(text, columns - at, break_on_hyphens=False) or [""]
    if len(head) > at - 2:
        yield head
    else:
        yield f"{head:<{at}}{lines.pop(0)}".rstrip()
    for line in lines:
        yield " " * at + line
