"""Who is on a channel: users, what a service says of them, and who wants to be told of their coming and going."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from twisted_ws.delivery.names import SortedNames
from twisted_ws.delivery.subscriber import Subscriber
from twisted_ws.limits import Limits
from twisted_ws.wire.wheel import Wheel

__all__ = ["Member", "Presence", "Room"]

# Leaves that are told of in one turn of the wheel.
LEAVES = 512
# What a member has in an answer beside its user and info.
OVERHEAD = 40
# Users on one channel that are put in order when they are asked for; more of them are kept in order.
FEW = 64


class Member(msgspec.Struct, frozen=True):
    """One user on a channel.

    Attributes:
        user: the `user` of the callers.
        info: what the service says of it, any JSON value.
        connections: how many of them there are; 0 when it has just left, and nobody was told yet.
    """

    user: str
    info: msgspec.Raw
    connections: int


class Room:
    """What one answer still has room for.

    Attributes:
        members: how many.
        bytes: what they may have, about; the first one is taken whatever it has.
    """

    __slots__ = ("bytes", "members")

    def __init__(self, limits: Limits) -> None:
        self.members = limits.answerMessages
        self.bytes = limits.answerBytes


_NO_INFO = b"null"


class _Present:
    __slots__ = ("connections", "info", "leftAt")

    def __init__(self, info: bytes) -> None:
        self.info = info  # JSON
        self.connections = 0
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


class Presence:
    """The users on all channels; one whose `user` is no str is nobody here.

    A join is told at once; a leave when the user has not come back for `delay` seconds.

    Args:
        delay: seconds.
        wheel: the server's.
        seconds: its clock.
    """

    def __init__(self, delay: float, wheel: Wheel, seconds: Callable[[], float]) -> None:
        self._delay = delay
        self._wheel = wheel
        self._seconds = seconds
        self._users: dict[str, _Users] = {}  # by channel
        # As whom each one has entered: a service may give its caller another user since.
        self._entered: dict[tuple[str, Subscriber], str] = {}
        self._watchers: dict[str, dict[Subscriber, None]] = {}
        self._leaving: deque[tuple[float, str, str]] = deque()  # when, channel, user; all wait equally long
        self.wheelSlot: int | None = None

    def members(self, channel: str, room: Room, after: str = "") -> tuple[list[Member], str | None]:
        """Return users on a channel, by name, as many as there is room for.

        Args:
            channel: its name.
            room: is given less, by what is returned.
            after: the user after which to begin.

        Returns:
            They, and after whom to go on, None when that is all.
        """
        users = self._users.get(channel)
        found: list[Member] = []
        if users is None:
            return [], None
        last = after
        names = users.page(after, room.members + 1)
        for user in names[: room.members]:
            present = users[user]
            if found and room.bytes <= 0:
                break
            room.bytes -= len(user) + len(present.info) + OVERHEAD
            found.append(Member(user, msgspec.Raw(present.info), present.connections))
            last = user
        room.members -= len(found)
        return found, last if len(found) < len(names) else None

    def watch(self, channel: str, subscriber: Subscriber) -> None:
        """Tell a subscriber of the channel who comes and goes, until it leaves itself."""
        self._watchers.setdefault(channel, {})[subscriber] = None

    def enter(self, channel: str, subscriber: Subscriber, info: Any) -> None:
        """Note a subscription; tell the others when it is its user's first."""
        user = subscriber.caller.user
        if not isinstance(user, str):
            return
        json = _NO_INFO if info is None else msgspec.json.encode(info)
        users = self._users.get(channel)
        if users is None:
            users = self._users[channel] = _Users()
        present = users.get(user)
        if present is None:
            present = users[user] = _Present(json)
            self._tell(channel, "join", user, json)
        elif not present.connections:
            present.info = json  # it is back: nobody knows that it was away
        present.connections += 1
        self._entered[channel, subscriber] = user

    def leave(self, channel: str, subscriber: Subscriber) -> None:
        """Note the end of a subscription; tell the others when its user does not come back."""
        watchers = self._watchers.get(channel)
        if watchers is not None:
            watchers.pop(subscriber, None)
            if not watchers:
                del self._watchers[channel]
        user = self._entered.pop((channel, subscriber), None)
        if user is None:
            return
        present = self._users[channel][user]
        present.connections -= 1
        if not present.connections:
            present.leftAt = self._seconds()
            self._leaving.append((present.leftAt, channel, user))
            if self.wheelSlot is None:
                self._wheel.set(self, present.leftAt + self._delay)

    def deadlineReached(self, now: float) -> None:
        """Tell of those who have not come back; called by the wheel."""
        for _ in range(LEAVES):
            if not self._leaving or self._leaving[0][0] + self._delay > now:
                break
            leftAt, channel, user = self._leaving.popleft()
            users = self._users.get(channel)
            present = None if users is None else users.get(user)
            if users is None or present is None or present.connections or present.leftAt != leftAt:
                continue
            del users[user]
            if not users:
                del self._users[channel]
            self._tell(channel, "leave", user, present.info)
        if self._leaving:
            self._wheel.set(self, self._leaving[0][0] + self._delay)

    def _tell(self, channel: str, what: str, user: str, info: bytes) -> None:
        watchers = self._watchers.get(channel)
        if watchers:
            frame = msgspec.json.encode({"type": what, "channel": channel, "member": {"user": user, "info": msgspec.Raw(info)}})
            for watcher in tuple(watchers):
                watcher.notice(frame)
