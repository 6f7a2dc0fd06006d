"""What the holder of an API key may do."""

from __future__ import annotations

from collections.abc import Iterable

from twisted_ws.errors import ChannelError
from twisted_ws.identity import Grants
from twisted_ws.spelling import didYouMean

# What a key may do with the channels that are named after a colon, as in ``publish:orders.*``.
OF_CHANNELS = ("publish", "read", "delete", "unsubscribe")
# What else it may do; ``admin`` is everything.
ADMIN = "admin"
# What an operation asks for that shows who is connected and how the server does: to read all channels.
WATCH = "read:*"
OTHERS = ("broadcast", "disconnect", "revoke", "tickets", "metrics", ADMIN)


class Scopes:
    """The scopes of a key, such as ``publish:orders.*`` and ``broadcast``.

    Args:
        scopes: as they are written.

    Raises:
        ValueError: one of them is not a scope; the text says what it should be.
    """

    __slots__ = ("_grants", "_words")

    def __init__(self, scopes: Iterable[str]) -> None:
        scopes = tuple(scopes)
        words: set[str] = set()
        named: dict[str, list[str]] = {}
        for scope in scopes:
            kind, colon, channel = scope.partition(":")
            if kind in OF_CHANNELS and colon:
                named.setdefault(kind, []).append(channel)
            elif scope in OTHERS:
                words.add(scope)
            elif kind in OF_CHANNELS:
                raise ValueError(f"{scope} needs channels: {scope}:orders.*, or {scope}:* for all")
            else:
                known = [f"{each}:CHANNELS" for each in OF_CHANNELS]
                raise ValueError(f"there is no scope {kind}{didYouMean(scope, (*known, *OTHERS))}".removesuffix("."))
        self._words = frozenset(words)
        try:
            self._grants = {kind: Grants(channels) for kind, channels in named.items()}
        except ChannelError:
            wrong = next(each for each in scopes if ":" in each and not _isGrant(each.partition(":")[2]))
            raise ValueError(f"{wrong} must name a channel or a pattern, such as orders.*") from None

    def allows(self, scope: str, channel: str | None = None) -> bool:
        """Return whether this scope is among them, for a channel if it is one of `OF_CHANNELS`; None: for any channel at all.

        ``admin`` reaches all channels, those of the server (``~...``) too. ``read:*``, as a word of its own, reads all others;
        whoever may do that sees ``metrics``, too.
        """
        if ADMIN in self._words or scope in self._words:
            return True
        if scope in (WATCH, "metrics"):
            scope, channel = "read", "*"
        grants = self._grants.get(scope)
        return grants is not None and (channel is None or grants.allows(channel))

    def may(self) -> list[str]:
        """Return the words of what is allowed at all, for the admin page: ``read`` only if it is for all channels."""
        words = [each for each in (*OF_CHANNELS, *OTHERS) if self.allows(each)]
        return words if self.allows(WATCH) else []

    def __str__(self) -> str:
        """Return them as they are written in the file of keys."""
        named = [f"{kind}:{channel}" for kind, grants in sorted(self._grants.items()) for channel in grants]
        return " ".join([*named, *sorted(self._words)])

    def __repr__(self) -> str:
        return f"<Scopes {self}>"


def _isGrant(name: str) -> bool:
    try:
        Grants([name])
    except ChannelError:
        return False
    return True


EVERYTHING = Scopes([ADMIN])
