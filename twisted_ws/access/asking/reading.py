"""What an answer says of a user."""

from __future__ import annotations

from typing import Any

import msgspec

from twisted_ws.errors import ChannelError
from twisted_ws.identity import Grants

# Seconds, ten years: a longer time is a point in time by mistake.
LONGEST_LIFE = 10 * 365 * 86400


class GrantsOf(msgspec.Struct):
    """The member ``grants`` (or a claim) of an answer."""

    subscribe: list[str] = []
    publish: list[str] = []
    info: Any = None

    def parsed(self) -> tuple[Grants, Grants]:
        """Return what may be subscribed to, and published to.

        Raises:
            ValueError: one is neither a name nor a pattern.
        """
        try:
            return Grants(self.subscribe), Grants(self.publish)
        except ChannelError:
            raise ValueError("grants has a value that is neither the name of a channel nor a pattern") from None


def scopesOf(value: str | list[str] | None) -> frozenset[str]:
    """Return scopes from a list or from a text with spaces between (RFC 6749 section 3.3)."""
    return frozenset(value.split() if isinstance(value, str) else value or ())
