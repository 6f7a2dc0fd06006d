"""What the operator says of channels by the beginning of their names: tables, found by prefix. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from twisted_ws.errors import ConfigurationError
from twisted_ws.identity import RESERVED
from twisted_ws.spelling import didYouMean

# What a rule decides on; each names who may, in one word or several, of which one is enough.
ACTIONS = ("subscribe", "publish", "presence")
ASK = "ask"
WORDS = ("anyone", "users", "owner", "granted", "subscribers", ASK, "nobody")
SCOPE = "scope:"
USER = "{user}"
# How many publications a second: of each user, of each address that is nobody's, and with each API key.
PER_USER, PER_IP, PER_KEY = RATES = ("publish-rate-per-user", "publish-rate-per-ip", "publish-rate-per-key")
# What happens to slow subscribers; see `twisted_ws.channels.subscribers.mailbox.Policy`.
POLICIES = ("close", "drop-oldest", "latest")
# Tables: a subscription to a pattern looks at all of them that are within it, a few microseconds each.
MOST_TABLES = 1000
# Messages kept of a channel: to forget the first of so many, the list of them is moved for less than a millisecond.
MOST_MESSAGES = 1_000_000
# Seconds of an option, ten years: more is a slip, and what engines make of it, in milliseconds, stays an exact number.
MOST_SECONDS = 10 * 365 * 24 * 3600
# Combinations of tables that are kept merged: a table with {user} and one without may both hold for a name or not, so there can
# be more combinations than tables, and peers choose the names.
MERGED = 4096

_PATTERN = re.compile(r"\*|(?:[A-Za-z0-9_~-]+|\{user\})(?:\.(?:[A-Za-z0-9_~-]+|\{user\}))*(?:\.\*)?", re.ASCII)


@dataclass(frozen=True, slots=True, eq=False)
class Namespace:
    """What holds for the channels that the same tables stand for; always the same object for these.

    Attributes:
        pattern: of the narrowest of the tables, as the operator wrote it: ``users.{user}.*``; "" if there is none.
        values: the options that a table says, by name.
        said: for each of these the pattern of the table that says so.
    """

    pattern: str
    values: Mapping[str, Any]
    said: Mapping[str, str]

    def owner(self, action: str) -> int | None:
        """Return the index of the token that stands for the user where `action` is for owners; None if there is none."""
        tokens = self.said.get(action, "").split(".")
        return tokens.index(USER) if USER in tokens else None


class Table:
    """One table of the configuration: its pattern in parts, and what it says itself.

    Attributes:
        pattern: as it was written.
        tokens: of the pattern, without ``*``.
        isOpen: whether it stands for all names that begin like this.
        values: by option.
    """

    __slots__ = ("isOpen", "pattern", "tokens", "values")

    def __init__(self, pattern: str, table: Mapping[str, Any]) -> None:
        def wrong(text: str) -> ConfigurationError:
            return ConfigurationError(f'channels."{pattern}"{text}', ("channels", pattern))

        if pattern.startswith(RESERVED) and (USER in pattern or pattern.endswith("*")):
            raise wrong(f": no pattern stands for names that begin with {RESERVED}: name each channel.")
        if not _PATTERN.fullmatch(pattern) or pattern.count(USER) > 1:
            raise wrong(" must be a channel or a pattern, such as orders.*, users.{user}.* or *.")
        if not isinstance(table, Mapping):
            raise wrong(f' must be a table, such as [channels."{pattern}"].')
        self.pattern = pattern
        self.isOpen, self.tokens = partsOf(pattern)
        self.values = {name: _read(self, name, value) for name, value in table.items()}


def _read(table: Table, name: str, value: Any) -> Any:
    where = f'channels."{table.pattern}".{name}'
    try:
        if name not in OPTIONS:
            raise ValueError(f" is not an option{didYouMean(name, OPTIONS)}")
        return OPTIONS[name](table, name, value)
    except ValueError as error:
        raise ConfigurationError(f"{where}{error}", ("channels", table.pattern, name)) from None


# How options are read: the text of each ValueError follows the name of the option.


def _words(table: Table, name: str, value: Any) -> tuple[str, ...]:
    words = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, (list, tuple)) else ()
    if not words or not all(isinstance(word, str) for word in words):
        raise ValueError(f" must be one or several of {', '.join(WORDS)} and {SCOPE}NAME.")
    for word in words:
        if word not in WORDS and not (word.startswith(SCOPE) and len(word) > len(SCOPE)):
            raise ValueError(f": {word!r} is nobody{didYouMean(word, (*WORDS, SCOPE + 'NAME'))}")
        if word == "owner" and USER not in table.tokens:
            raise ValueError(f": an owner needs {USER} in the name of the table.")
        if word == "subscribers" and name == "subscribe":
            raise ValueError(": subscribers are those who may subscribe already.")
        if word == ASK and name == "presence":
            raise ValueError(": the back end is asked who may subscribe and publish; take subscribers.")
    return words


def _switch(table: Table, name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(" must be true or false.")
    return value


def _count(table: Table, name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_MESSAGES:
        raise ValueError(f" must be a whole number of messages, at most {MOST_MESSAGES}, not {value!r}.")
    return value


def _seconds(table: Table, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MOST_SECONDS:
        raise ValueError(f" must be a number of seconds, more than 0 and at most {MOST_SECONDS}, not {value!r}.")
    return value


def _rate(table: Table, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < inf:
        raise ValueError(f" must be a number of messages a second, 0 for no limit, not {value!r}.")
    return value


def _policy(table: Table, name: str, value: Any) -> str:
    if value not in POLICIES:
        raise ValueError(f" must be {', '.join(POLICIES[:-1])} or {POLICIES[-1]}, not {value!r}.")
    return str(value)


OPTIONS: Mapping[str, Callable[[Table, str, Any], Any]] = {
    **dict.fromkeys(ACTIONS, _words),
    "wildcards": _switch,
    "history-messages": _count,
    "history-age": _seconds,
    "policy": _policy,
    "presence-delay": _seconds,
    **dict.fromkeys(RATES, _rate),
}


class _Node:
    """A place in the tree of tables, which a token leads to from another.

    Attributes:
        exact: the table for this name itself.
        open: the one for all names that begin like this.
        literal: the next places, by token.
        user: the next place for any token.
    """

    __slots__ = ("exact", "literal", "open", "user")

    def __init__(self) -> None:
        self.exact: Table | None = None
        self.open: Table | None = None
        self.literal: dict[str, _Node] = {}
        self.user: _Node | None = None

    def next(self, token: str) -> _Node:
        """Return the next place for a token of a table, made if need be."""
        if token != USER:
            return self.literal.setdefault(token, _Node())
        if self.user is None:
            self.user = _Node()
        return self.user

    def below(self) -> Iterator[Table]:
        """Yield the tables of all places further on."""
        pending = [*self.literal.values(), *([] if self.user is None else [self.user])]
        while pending:
            node = pending.pop()
            yield from (each for each in (node.exact, node.open) if each is not None)
            pending += node.literal.values()
            if node.user is not None:
                pending.append(node.user)


class Namespaces:
    """The tables of a server, by pattern; the longest that fits a channel holds, and a literal token wins over ``{user}``.

    What a table does not say comes from the next one that fits all of its names.

    Args:
        tables: by pattern; see `OPTIONS` and `WORDS`.

    Raises:
        ConfigurationError: a table is wrong; the text names it, the option and what is expected.
    """

    def __init__(self, tables: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        tables = tables or {}
        if len(tables) > MOST_TABLES:
            raise ConfigurationError(f"channels: there are more than {MOST_TABLES} tables.", ("channels",))
        self._root = _Node()
        self._reserved: dict[str, Table] = {}
        self._options: set[str] = set()
        self._asking: Table | None = None
        self._merged: dict[tuple[Table, ...], Namespace] = {}
        self._size = len(tables)
        for pattern, each in tables.items():
            self._add(Table(pattern, each))

    def _add(self, table: Table) -> None:
        self._options.update(table.values)
        if any(ASK in table.values.get(action, ()) for action in ACTIONS):
            self._asking = self._asking or table
        if table.pattern.startswith(RESERVED):
            self._reserved[table.pattern] = table
            return
        node = self._root
        for token in table.tokens:
            node = node.next(token)
        if table.isOpen:
            node.open = table
        else:
            node.exact = table

    def __len__(self) -> int:
        return self._size

    def says(self, *options: str) -> bool:
        """Return whether any table says one of these options."""
        return not self._options.isdisjoint(options)

    @property
    def asking(self) -> str | None:
        """The pattern of a table that leaves something to the back end (``ask``); None if none does."""
        return None if self._asking is None else self._asking.pattern

    def find(self, channel: str) -> Namespace:
        """Return what holds for a channel, or, for a pattern, for the names that it stands for and no narrower table does."""
        if channel.startswith(RESERVED):
            own = self._reserved.get(channel)
            return self._merge(() if own is None else (own,))
        return self._merge(self._fitting(*partsOf(channel)))

    def narrower(self, pattern: str) -> Iterator[Namespace]:
        """Yield what holds for the names of a pattern that have tables of their own."""
        _, tokens = partsOf(pattern)
        nodes = [self._root]
        for token in tokens:
            # A table with {user} in this place stands for some of the pattern's names only if it is longer.
            nodes = [found for node in nodes for found in (node.literal.get(token), node.user) if found is not None]
        for node in nodes:
            for table in node.below():
                yield self._merge(self._fitting(table.isOpen, table.tokens))

    def _fitting(self, isOpen: bool, tokens: Sequence[str]) -> tuple[Table, ...]:
        """Return the tables that stand for a name, or for all names of a pattern: the best first."""
        levels: list[list[Table]] = []
        nodes = [self._root]  # those with a literal token first, at the first token where two differ
        for token in tokens:
            levels.append([node.open for node in nodes if node.open is not None])
            if len(nodes) == 1:
                (node,) = nodes
                literal, user = node.literal.get(token), node.user
                nodes = [] if literal is None else [literal]
                if user is not None:
                    nodes.append(user)
            else:
                nodes = [found for node in nodes for found in (node.literal.get(token), node.user) if found is not None]
        # orders.* does not stand for orders, but orders.* as a pattern is all that it stands for.
        levels.append([found for node in nodes if (found := node.open if isOpen else node.exact) is not None])
        return tuple([table for level in reversed(levels) for table in level])

    def _merge(self, tables: tuple[Table, ...]) -> Namespace:
        found = self._merged.get(tables)
        if found is None:
            values: dict[str, Any] = {}
            said: dict[str, str] = {}
            for table in reversed(tables):  # the best last
                values.update(table.values)
                said.update(dict.fromkeys(table.values, table.pattern))
            if len(self._merged) >= MERGED:
                self._merged.clear()
            found = self._merged[tables] = Namespace(tables[0].pattern if tables else "", values, said)
        return found


def partsOf(channel: str) -> tuple[bool, list[str]]:
    """Return whether a name is a pattern, and its tokens without ``*``."""
    isOpen = channel.endswith("*")
    rest = channel.removesuffix("*").removesuffix(".") if isOpen else channel
    return isOpen, rest.split(".") if rest else []
