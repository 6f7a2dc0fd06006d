"""Who is on a channel: users, what a service says of them, and who wants to be told of their coming and going."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from twisted_ws.delivery.subscriber import Subscriber
from twisted_ws.wire.wheel import Wheel

__all__ = ["Member", "Presence"]


@dataclass(frozen=True, slots=True)
class Member:
    """One user on a channel.

    Attributes:
        user: the `user` of the callers.
        info: what the service says of it, any JSON value.
        connections: how many of them there are; 0 when it has just left, and nobody was told yet.
    """

    user: str
    info: Any
    connections: int


class _Present:
    __slots__ = ("connections", "info", "leftAt")

    def __init__(self, info: Any) -> None:
        self.info = info
        self.connections = 0
        self.leftAt = 0.0


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
        self._users: dict[str, dict[str, _Present]] = {}  # by channel
        # As whom each one has entered: a service may give its caller another user since.
        self._entered: dict[tuple[str, Subscriber], str] = {}
        self._watchers: dict[str, dict[Subscriber, None]] = {}
        self._leaving: deque[tuple[float, str, str]] = deque()  # when, channel, user; all wait equally long
        self.wheelSlot: int | None = None

    def members(self, channel: str) -> list[Member]:
        """Return the users on a channel, in the order in which they came."""
        return [Member(user, present.info, present.connections) for user, present in self._users.get(channel, {}).items()]

    def watch(self, channel: str, subscriber: Subscriber) -> None:
        """Tell a subscriber of the channel who comes and goes, until it leaves itself."""
        self._watchers.setdefault(channel, {})[subscriber] = None

    def enter(self, channel: str, subscriber: Subscriber, info: Any) -> None:
        """Note a subscription; tell the others when it is its user's first."""
        user = subscriber.caller.user
        if not isinstance(user, str):
            return
        users = self._users.setdefault(channel, {})
        present = users.get(user)
        if present is None:
            present = users[user] = _Present(info)
            self._tell(channel, "join", user, info)
        elif not present.connections:
            present.info = info  # it is back: nobody knows that it was away
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
        while self._leaving and self._leaving[0][0] + self._delay <= now:
            leftAt, channel, user = self._leaving.popleft()
            users = self._users.get(channel, {})
            present = users.get(user)
            if present is None or present.connections or present.leftAt != leftAt:
                continue
            del users[user]
            if not users:
                del self._users[channel]
            self._tell(channel, "leave", user, present.info)
        if self._leaving:
            self._wheel.set(self, self._leaving[0][0] + self._delay)

    def _tell(self, channel: str, what: str, user: str, info: Any) -> None:
        watchers = self._watchers.get(channel)
        if watchers:
            frame = msgspec.json.encode({"type": what, "channel": channel, "member": {"user": user, "info": info}})
            for watcher in tuple(watchers):
                watcher.notice(frame)
