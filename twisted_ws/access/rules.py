"""Who may do what with channels: rules by the names of channels, and one decision for every transport. Pure."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted_ws.errors import ConfigurationError
from twisted_ws.identity import RESERVED, Identity
from twisted_ws.spelling import didYouMean

# What a rule decides on; each names who may, in one word or several, of which one is enough.
ACTIONS = ("subscribe", "publish", "presence")
WORDS = ("anyone", "users", "owner", "granted", "subscribers", "nobody")
SCOPE = "scope:"
USER = "{user}"
# Longer tokens would leave no room in a name for anything else.
LONGEST_TOKEN = 64

_PATTERN = re.compile(r"\*|(?:[A-Za-z0-9_~-]+|\{user\})(?:\.(?:[A-Za-z0-9_~-]+|\{user\}))*(?:\.\*)?", re.ASCII)
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


def channelToken(user: str) -> str:
    """Return a user's name as a token of a channel's name, such as the second one of ``users.ann~40example~2Eorg.orders``.

    Letters, digits, ``_`` and ``-`` stay; every other byte of its UTF-8 becomes ``~`` and two hexadecimal digits. What would be
    longer than 64 characters is ``~h`` and a part of its SHA-256. No two users have the same token.

    Raises:
        ValueError: the name is empty, or has a lone surrogate.
    """
    if not user:
        raise ValueError("nobody has no token")
    data = user.encode()
    token = "".join([chr(byte) if byte in _PLAIN else f"~{byte:02X}" for byte in data])
    if len(token) <= LONGEST_TOKEN:
        return token
    return "~h" + base64.b32encode(hashlib.sha256(data).digest()).decode("ascii").lower()[:26]


@dataclass(frozen=True, slots=True)
class Namespace:
    """What holds for the channels that a pattern stands for.

    Attributes:
        pattern: as the operator wrote it: ``users.{user}.*``.
        words: who may, by action.
        wildcards: whether patterns may be subscribed to.
        said: for each option the pattern of the table that says so; "" for a default.
    """

    pattern: str
    words: Mapping[str, tuple[str, ...]]
    wildcards: bool = False
    said: Mapping[str, str] = field(default_factory=dict)

    def owner(self, action: str) -> int | None:
        """Return the index of the token that stands for the user where `action` is for owners; None if there is none."""
        tokens = self.said.get(action, "").split(".")
        return tokens.index(USER) if USER in tokens else None


class _Table:
    """One table of the configuration: its pattern in parts, and what it says itself."""

    __slots__ = ("isOpen", "pattern", "said", "tokens")

    def __init__(self, pattern: str, table: Mapping[str, Any]) -> None:
        where = f'channels."{pattern}"'
        if pattern.startswith(RESERVED) and (USER in pattern or pattern.endswith("*")):
            raise ConfigurationError(f"{where}: no pattern stands for names that begin with {RESERVED}: name each channel.")
        if not _PATTERN.fullmatch(pattern) or pattern.count(USER) > 1:
            raise ConfigurationError(f"{where} must be a channel or a pattern, such as orders.*, users.{{user}}.* or *.")
        if not isinstance(table, Mapping):
            raise ConfigurationError(f'{where} must be a table, such as [channels."{pattern}"].')
        self.pattern = pattern
        self.isOpen = pattern.endswith("*")
        self.tokens = pattern.removesuffix("*").removesuffix(".").split(".") if pattern != "*" else []
        self.said: dict[str, Any] = {}
        for name, value in table.items():
            if name in ACTIONS:
                self.said[name] = _words(f"{where}.{name}", value, self)
            elif name == "wildcards":
                if not isinstance(value, bool):
                    raise ConfigurationError(f"{where}.wildcards must be true or false.")
                self.said[name] = value
            else:
                raise ConfigurationError(f"{where}.{name} is not an option{didYouMean(name, (*ACTIONS, 'wildcards'))}")

    def fits(self, tokens: Sequence[str], isOpen: bool) -> bool:
        """Return whether this stands for a name, or for all names of a pattern, given in parts."""
        if len(tokens) < len(self.tokens) or (len(tokens) > len(self.tokens) and not self.isOpen) or (isOpen and not self.isOpen):
            return False
        if self.isOpen and not isOpen and len(tokens) == len(self.tokens):
            return False  # orders.* does not stand for orders
        # {user} stands for any token; a literal one not for {user} of a narrower table.
        return all(mine in (USER, theirs) for mine, theirs in zip(self.tokens, tokens, strict=False))

    def isBelow(self, tokens: Sequence[str]) -> bool:
        """Return whether a pattern, given by its tokens, stands for any of these names."""
        if len(self.tokens) < len(tokens) or (len(self.tokens) == len(tokens) and not self.isOpen):
            return False
        return all(USER in (mine, theirs) or mine == theirs for mine, theirs in zip(self.tokens, tokens, strict=False))

    @property
    def rank(self) -> tuple[int, list[bool], bool]:
        """What puts the table first that is to be preferred: the longest, then the one that is literal first."""
        return -len(self.tokens), [token == USER for token in self.tokens], self.isOpen


def _words(where: str, value: Any, table: _Table) -> tuple[str, ...]:
    words = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, (list, tuple)) else ()
    if not words or not all(isinstance(word, str) for word in words):
        raise ConfigurationError(f"{where} must be one or several of {', '.join(WORDS)} and {SCOPE}NAME.")
    for word in words:
        if word not in WORDS and not (word.startswith(SCOPE) and len(word) > len(SCOPE)):
            raise ConfigurationError(f"{where}: {word!r} is nobody{didYouMean(word, (*WORDS, SCOPE + 'NAME'))}")
        if word == "owner" and USER not in table.tokens:
            raise ConfigurationError(f"{where}: an owner needs {USER} in the name of the table.")
        if word == "subscribers" and where.endswith(".subscribe"):
            raise ConfigurationError(f"{where}: subscribers are those who may subscribe already.")
    return words


class Rules:
    """The rules of a server, by pattern; the longest that fits a channel holds, and a literal token wins over ``{user}``.

    What a table does not say comes from the next one that fits all of its names, and at last from the service.

    Args:
        tables: by pattern; see `ACTIONS` and `WORDS`.

    Raises:
        ConfigurationError: a table is wrong; the text names it, the option and what is expected.
    """

    def __init__(self, tables: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._tables = sorted((_Table(pattern, table) for pattern, table in (tables or {}).items()), key=lambda each: each.rank)

    def __len__(self) -> int:
        return len(self._tables)

    def namespace(self, channel: str, defaults: Namespace) -> Namespace:
        """Return what holds for a channel, or, for a pattern, for the names that it stands for and no narrower table does."""
        isOpen, tokens = _parts(channel)
        fitting = [each for each in self._tables if self._reaches(each, channel) and each.fits(tokens, isOpen)]
        return _merged(fitting, defaults)

    def narrower(self, pattern: str, defaults: Namespace) -> Iterator[Namespace]:
        """Yield what holds for the names of a pattern that have tables of their own."""
        _, tokens = _parts(pattern)
        for table in self._tables:
            # One that fits all of the pattern's names holds for all of them (see `namespace`), or has given way to a better one.
            if table.isBelow(tokens) and not table.fits(tokens, True) and not table.pattern.startswith(RESERVED):
                yield _merged([each for each in self._tables if each.fits(table.tokens, table.isOpen)], defaults)

    @staticmethod
    def _reaches(table: _Table, channel: str) -> bool:
        return not channel.startswith(RESERVED) or table.pattern == channel


def _parts(channel: str) -> tuple[bool, list[str]]:
    isOpen = channel.endswith("*")
    rest = channel.removesuffix("*").removesuffix(".") if isOpen else channel
    return isOpen, rest.split(".") if rest else []


def _merged(tables: Sequence[_Table], defaults: Namespace) -> Namespace:
    words, said, wildcards = dict(defaults.words), dict.fromkeys((*ACTIONS, "wildcards"), ""), defaults.wildcards
    for table in reversed(tables):  # the narrowest last
        for name, value in table.said.items():
            said[name] = table.pattern
            if name == "wildcards":
                wildcards = value
            else:
                words[name] = value
    return Namespace(tables[0].pattern if tables else "", words, wildcards, said)


class ChannelAccess:
    """Decides who may do what with the channels of one service.

    Args:
        rules: the server's.
        isAuthenticated: whether clients are asked for credentials: then what no rule says is left to their grants.
        publish, presence, wildcards: what the service allows by itself where no rule says otherwise.
    """

    __slots__ = ("_defaults", "_rules")

    def __init__(self, rules: Rules, isAuthenticated: bool, publish: bool, presence: bool, wildcards: bool) -> None:
        usual = "granted" if isAuthenticated else "anyone"
        words = {
            "subscribe": (usual,),
            "publish": ("anyone",) if publish else ("granted",) if isAuthenticated else ("nobody",),
            "presence": ("anyone",) if presence else ("nobody",),
        }
        self._rules = rules
        self._defaults = Namespace("", words, wildcards)

    def decide(
        self,
        action: str,
        channel: str,
        identity: Identity | None,
        subscribed: Sequence[str] = (),
        steps: list[str] | None = None,
        isGranted: bool = False,
    ) -> bool:
        """Return whether somebody may.

        Args:
            action: one of `ACTIONS`.
            channel: a name; for "subscribe" also a pattern.
            identity: who; None where nobody is asked.
            subscribed: what they are subscribed to.
            steps: gets a line for each step of the decision.
            isGranted: whether a subscription token grants it.
        """
        tell = _ignore if steps is None else steps.append
        isPattern = channel.endswith("*")
        reserved = channel.startswith(RESERVED)
        namespace = self._rules.namespace(channel, self._defaults)
        if reserved and not namespace.pattern:
            tell(f"{channel} is the server's: no pattern and no default reaches names that begin with {RESERVED}")
            return False
        tell(f'{channel} falls under channels."{namespace.pattern}"' if namespace.pattern else f"no table fits {channel}")
        if isPattern:
            tell(f"wildcards = {str(namespace.wildcards).lower()} ({_source(namespace, 'wildcards')})")
            if not namespace.wildcards:
                return False
        if not self._allows(namespace, action, channel, identity, subscribed, tell, isGranted):
            return False
        for each in self._rules.narrower(channel, self._defaults) if isPattern else ():
            tell(f'the pattern also stands for names under channels."{each.pattern}"')
            if not each.wildcards:
                tell(f"wildcards = false ({_source(each, 'wildcards')})")
                return False
            if not self._allows(each, action, channel, identity, subscribed, tell, isGranted):
                return False
        return True

    def _allows(
        self,
        namespace: Namespace,
        action: str,
        channel: str,
        identity: Identity | None,
        subscribed: Sequence[str],
        tell: Any,
        isGranted: bool,
    ) -> bool:
        words = namespace.words[action]
        for word in words:
            if _means(word, namespace, action, channel, identity, subscribed, isGranted):
                tell(f"{action} = {_shown(words)} ({_source(namespace, action)}): {word}, yes")
                return True
        tell(f"{action} = {_shown(words)} ({_source(namespace, action)}): no")
        return False


def _means(
    word: str,
    namespace: Namespace,
    action: str,
    channel: str,
    identity: Identity | None,
    subscribed: Sequence[str],
    isGranted: bool,
) -> bool:
    if word == "anyone":
        return True
    if word == "subscribers":
        return channel in subscribed
    if identity is None or word == "nobody":
        return False
    if word == "users":
        return bool(identity.user)
    if word == "granted":
        grants = identity.publish if action == "publish" else identity.subscribe
        return isGranted or grants.allows(channel)
    if word == "owner":
        owner, tokens = namespace.owner(action), _parts(channel)[1]
        if owner is None or not identity.user or owner >= len(tokens):
            return False
        return tokens[owner] == channelToken(identity.user)
    return word.removeprefix(SCOPE) in identity.scopes


def _shown(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"[{', '.join(words)}]"


def _source(namespace: Namespace, name: str) -> str:
    said = namespace.said.get(name, "")
    return f'channels."{said}"' if said else "by default"


def _ignore(step: str) -> None:
    pass
