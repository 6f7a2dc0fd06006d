"""Who is on channels here, and what of it the server has not been told."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

# Changes in one command: the server does nothing else meanwhile.
TOGETHER = 100


class _Present:
    """A user on a channel.

    Attributes:
        count: how many connections.
        info: the JSON of what the service says of it.
    """

    __slots__ = ("count", "info")

    def __init__(self, info: bytes) -> None:
        self.count = 0
        self.info = info


class Presence:
    """The users on channels through connections of this node.

    The server is told how many there are, not that one has come: to be told twice changes nothing.
    """

    def __init__(self) -> None:
        self._users: dict[tuple[str, str], _Present] = {}  # by channel and user
        self._entered: dict[tuple[str, str], str] = {}  # the user, by channel and connection
        # Of these, the server has to be told; with the delay of a leave, None for the usual one.
        self._dirty: dict[tuple[str, str], float | None] = {}

    def __bool__(self) -> bool:
        return bool(self._dirty)

    def enter(self, channel: str, connection: str, user: str, info: bytes) -> None:
        """Note a connection."""
        self.leave(channel, connection)
        present = self._users.get((channel, user))
        if present is None:
            present = self._users[channel, user] = _Present(info)
        present.count += 1
        self._entered[channel, connection] = user
        self._dirty[channel, user] = None

    def leave(self, channel: str, connection: str, delay: float | None = None) -> None:
        """Note the end of one that had entered (see `Engine.leave`)."""
        user = self._entered.pop((channel, connection), None)
        if user is None:
            return
        present = self._users[channel, user]
        present.count -= 1
        if not present.count:
            del self._users[channel, user]
        self._dirty[channel, user] = delay

    def tellAll(self) -> None:
        """Tell everything again."""
        self._dirty |= dict.fromkeys(self._users)

    def tell(self, places: Mapping[tuple[str, str], float | None]) -> None:
        """Tell of these channels and users again, with the delays of leaves; what has happened since stays as it is."""
        self._dirty = {**places, **self._dirty}

    def isThere(self, channel: str, user: str) -> bool:
        """Return whether a user is on a channel."""
        return (channel, user) in self._users

    def take(self) -> list[tuple[str, str, int, bytes, float | None]]:
        """Return some of what the server has not been told: channel, user, connections, info, delay."""
        found: list[tuple[str, str, int, bytes, float | None]] = []
        for channel, user in [*islice(self._dirty, TOGETHER)]:
            present = self._users.get((channel, user))
            delay = self._dirty.pop((channel, user))
            count, info = (0, b"") if present is None else (present.count, present.info)
            found.append((channel, user, count, info, delay))
        return found
