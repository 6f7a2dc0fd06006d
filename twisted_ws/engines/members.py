"""Who is on the channels: users, and what the service says of each; who comes and goes is told."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import msgspec

from twisted_ws.engines.contract import Member
from twisted_ws.engines.sortednames import SortedNames
from twisted_ws.wire.loop.wheel import Wheel

# Leaves that are told in one turn of the wheel.
LEAVES = 512
# Bytes of a member in an answer besides its user and info.
OVERHEAD = 40
# Up to this many users of a channel are sorted when they are asked for; more of them are kept sorted.
FEW = 64


class _Present:
    __slots__ = ("connections", "info", "leftAt")

    def __init__(self, info: bytes) -> None:
        self.info = info  # JSON
        self.connections = 1
        self.leftAt = 0.0


class _Users(dict[str, _Present]):
    """The users on one channel."""

    __slots__ = ("_names",)

    def __init__(self) -> None:
        super().__init__()
        self._names: SortedNames | None = None

    def __setitem__(self, user: str, present: _Present) -> None:
        """Add a user."""
        super().__setitem__(user, present)
        if self._names is not None:
            self._names.add(user)
        elif len(self) > FEW:
            self._names = SortedNames()
            for name in self:
                self._names.add(name)

    def __delitem__(self, user: str) -> None:
        """Take a user away."""
        super().__delitem__(user)
        if self._names is not None:
            self._names.remove(user)

    def page(self, after: str, limit: int) -> list[str]:
        """Return the first `limit` users after one, by name."""
        if self._names is None:
            return sorted([user for user in self if user > after])[:limit]
        return self._names.page("", after, limit)


class MemberTable:
    """The users on all channels, each for as long as it has connections there, and for a while after that.

    Args:
        delay: so many seconds, unless the leave says otherwise.
        wheel: the server's.
        joined: called with channel and member when the first connection of a user has come.
        left: the same when a user has left, and has not come back in time.
    """

    def __init__(
        self,
        delay: float,
        wheel: Wheel,
        joined: Callable[[str, Member], object],
        left: Callable[[str, Member], object],
    ) -> None:
        self._delay = delay
        self._wheel = wheel
        self._joined = joined
        self._left = left
        self._users: dict[str, _Users] = {}  # by channel
        # The user that each connection entered as: the service may have given it another since.
        self._entered: dict[tuple[str, str], str] = {}
        # When, channel and user of leaves, by the seconds that they wait.
        self._leaving: dict[float, deque[tuple[float, str, str]]] = {}
        self._due = 0.0  # when the first is told
        self.wheelSlot: int | None = None

    def enter(self, channel: str, connection: str, user: str, info: bytes) -> None:
        """Note that a connection of a user is on a channel (see `Engine.enter`); as another user, it leaves first."""
        place = channel, connection
        if place in self._entered:
            if self._entered[place] == user:
                return
            self.leave(channel, connection)
        self._entered[place] = user
        users = self._users.get(channel)
        if users is None:
            users = self._users[channel] = _Users()
        present = users.get(user)
        if present is None:
            users[user] = _Present(info)
            self._joined(channel, Member(user, msgspec.Raw(info), 1))
            return
        if not present.connections:
            present.info = info  # the user is back before anybody was told of the leave
        present.connections += 1

    def leave(self, channel: str, connection: str, delay: float | None = None) -> None:
        """Note that a connection is no longer on a channel (see `Engine.leave`); do nothing if it was not."""
        user = self._entered.pop((channel, connection), None)
        if user is None:
            return
        present = self._users[channel][user]
        present.connections -= 1
        if not present.connections:
            present.leftAt = self._wheel.seconds()
            wait = self._delay if delay is None else delay
            leaving = self._leaving.get(wait)
            if leaving is None:
                leaving = self._leaving[wait] = deque()
            leaving.append((present.leftAt, channel, user))
            if self.wheelSlot is None or present.leftAt + wait < self._due:
                self._wait(present.leftAt + wait)

    def places(self) -> Iterator[tuple[str, str, str, bytes]]:
        """Yield channel, connection, user and info of all that are here."""
        for (channel, connection), user in self._entered.items():
            yield channel, connection, user, self._users[channel][user].info

    def leaves(self) -> Iterator[tuple[str, str, bytes, float, float]]:
        """Yield channel, user, info, when (the wheel's seconds) and the wait of leaves that are not told yet."""
        for wait, leaving in self._leaving.items():
            for leftAt, channel, user in leaving:
                present = self._users.get(channel, _Users()).get(user)
                if present is not None and not present.connections and present.leftAt == leftAt:
                    yield channel, user, present.info, leftAt, wait

    def restore(self, channel: str, connection: str, user: str, info: bytes) -> None:
        """Know of a connection from another process, and tell nobody."""
        self._entered[channel, connection] = user
        users = self._users.setdefault(channel, _Users())
        present = users.get(user)
        if present is None:
            users[user] = _Present(info)
        else:
            present.connections += 1

    def restoreLeave(self, channel: str, user: str, info: bytes, leftAt: float, wait: float) -> None:
        """Know of a leave from another process; the rest of the wait begins."""
        present = _Present(info)
        present.connections, present.leftAt = 0, leftAt
        self._users.setdefault(channel, _Users())[user] = present
        self._leaving.setdefault(wait, deque()).append((leftAt, channel, user))
        if self.wheelSlot is None or leftAt + wait < self._due:
            self._wait(leftAt + wait)

    def page(self, channel: str, after: str, limit: int, size: int) -> tuple[list[Member], str | None]:
        """Return some users on a channel by name, and the one to continue after, None if these are the last.

        Args:
            channel: its name.
            after: the user after which to begin.
            limit: the most users.
            size: about the most bytes; the first user is there whatever it takes.
        """
        users = self._users.get(channel)
        if users is None:
            return [], None
        found: list[Member] = []
        last = after
        names = users.page(after, limit + 1)
        for user in names[:limit]:
            present = users[user]
            if found and size <= 0:
                break
            size -= len(user) + len(present.info) + OVERHEAD
            found.append(Member(user, msgspec.Raw(present.info), present.connections))
            last = user
        return found, last if len(found) < len(names) else None

    def deadlineReached(self, now: float) -> None:
        """Tell of the users that have not come back; called by the wheel."""
        room = LEAVES
        for wait, leaving in tuple(self._leaving.items()):
            while room and leaving and leaving[0][0] + wait <= now:
                room -= 1
                self._tell(*leaving.popleft())
            if not leaving:
                del self._leaving[wait]
        if self._leaving:
            self._wait(min([leaving[0][0] + wait for wait, leaving in self._leaving.items()]))

    def _wait(self, due: float) -> None:
        self._due = due
        self._wheel.set(self, due)

    def _tell(self, leftAt: float, channel: str, user: str) -> None:
        """Tell that a user has left, unless it is back."""
        users = self._users.get(channel)
        present = None if users is None else users.get(user)
        if users is None or present is None or present.connections or present.leftAt != leftAt:
            return
        del users[user]
        if not users:
            del self._users[channel]
        self._left(channel, Member(user, msgspec.Raw(present.info), 0))
