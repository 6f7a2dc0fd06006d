"""Who is behind a request or connection, and what they may do with channels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from twisted_ws.names import checkNameOrPattern, isPattern, patternsOf

# The most characters of a user's name: as many as a channel's name may have by default.
LONGEST_USER = 128
# Characters of the id of a token or session: a UUID has 36.
LONGEST_TOKEN_ID = 256
# A grant may be longer than the names of a server with small limits: then it allows nothing there.
LONGEST_GRANT = 4096
# Names that begin with this belong to the server: no pattern of a grant or a rule matches them.
RESERVED = "~"
# Bytes of a name in a set, and of a decoded JSON value for each character of its text; both were measured.
_ITEM = 125
_VALUE = 25


class Grants:
    """Names and patterns of channels that somebody may use: ``orders.42``, ``orders.*``, ``*``.

    A pattern stands for every name that begins as it does, by whole tokens, except those that begin with ``~``.

    Args:
        names: the names and patterns.

    Raises:
        ChannelError: one of them is neither a name nor a pattern.
    """

    __slots__ = ("_names", "_patterns")

    def __init__(self, names: Iterable[str] = ()) -> None:
        checked = [checkNameOrPattern(name, LONGEST_GRANT) for name in names]
        self._names = frozenset(name for name in checked if not isPattern(name))
        self._patterns = frozenset(name for name in checked if isPattern(name))

    def allows(self, channel: str) -> bool:
        """Return whether these include a channel, or, for a pattern, all that it stands for."""
        if channel in self._names:
            return True
        if not self._patterns or channel.startswith(RESERVED):
            return False
        return not self._patterns.isdisjoint(patternsOf(channel))

    @property
    def size(self) -> int:
        """The bytes of memory that these take, roughly."""
        return len(self) * _ITEM

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names | self._patterns))

    def __len__(self) -> int:
        return len(self._names) + len(self._patterns)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grants) and (self._names, self._patterns) == (other._names, other._patterns)

    def __hash__(self) -> int:
        return hash((self._names, self._patterns))

    def __repr__(self) -> str:
        return f"Grants({list(self)})"


NOTHING = Grants()


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is behind a request, as an authenticator has found out; shared by all requests with the same credentials.

    Attributes:
        user: the name of the user, 1 to 128 characters; "" for a guest.
        subscribe: the channels that the credentials themselves allow to subscribe to.
        publish: those that they allow to publish to.
        scopes: what else they allow; a service may require one (``scopes``), and a rule may ask for one (``scope:NAME``).
        info: what presence tells others of the user, any JSON value.
        expiresAt: when this ends, and every connection with it, in Unix time; None for never. An authenticator has added its
            leeway already.
        issuedAt: when the credentials were issued, in Unix time; None if unknown.
        tokenId: the id of the token (``jti``) or session, by which it can be revoked; None without one.
        by: the name of the authenticator that accepted the credentials; the chain sets it.
        isAmbient: whether a browser sends the credentials by itself (a cookie, a certificate, a password): then a request has to
            come from a page that may make it.
        payload: the JSON object that `claims` are read from; b"" without one.

    Raises:
        ValueError: `user` is longer than 128 characters.
        TypeError: `user` is not a str.
    """

    user: str
    subscribe: Grants = NOTHING
    publish: Grants = NOTHING
    scopes: frozenset[str] = frozenset()
    info: Any = None
    expiresAt: float | None = None
    issuedAt: float | None = None
    tokenId: str | None = None
    by: str = ""
    isAmbient: bool = False
    payload: bytes = b""
    _size: int = field(default=-1, init=False, repr=False, compare=False)  # once somebody has asked

    def __post_init__(self) -> None:
        if not isinstance(self.user, str):
            raise TypeError(f"the user must be a str, not {type(self.user).__name__}")
        if len(self.user) > LONGEST_USER:
            raise ValueError(f"the name of a user has at most {LONGEST_USER} characters")

    @property
    def isGuest(self) -> bool:
        """Whether nobody is known to be behind the request."""
        return not self.user

    @property
    def size(self) -> int:
        """The bytes of memory that this takes, roughly: a token of 8 KiB can become a quarter of a megabyte."""
        if self._size < 0:
            grants = self.subscribe.size + self.publish.size + len(self.scopes) * _ITEM
            size = len(self.payload) + grants + (0 if self.info is None else self._infoSize())
            object.__setattr__(self, "_size", size)
        return self._size

    def _infoSize(self) -> int:
        try:
            return len(msgspec.json.encode(self.info)) * _VALUE
        except (TypeError, ValueError, RecursionError):  # an object of an authenticator's own, or nested too deeply
            return len(self.payload) * _VALUE

    @property
    def claims(self) -> Mapping[str, Any]:
        """What the credentials say, such as the claims of a token; decoded at each access, because it is seldom looked at."""
        claims: dict[str, Any] = msgspec.json.decode(self.payload) if self.payload else {}
        return claims

    def __repr__(self) -> str:
        # Without claims and info, which may be personal data.
        return f"<Identity {self.user!r} by {self.by or 'nobody'}>"


GUEST = Identity("")
