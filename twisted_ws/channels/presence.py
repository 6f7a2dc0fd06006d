"""Who is on a channel: its users, what a service says of them, and the subscribers that are told who comes and goes."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from twisted_ws.channels.subscriber import Subscriber
from twisted_ws.engines.names import SortedNames
from twisted_ws.frames import OutgoingMessage
from twisted_ws.limits import Limits
from twisted_ws.message import TEXT
from twisted_ws.wire.loop.wheel import Wheel
from twisted_ws.wire.websocket.crowd import Crowd, Group
from twisted_ws.wire.websocket.fanout import OWN_WAY, STEPS, FanOuts

# Seconds of rest for each watcher after telling all took more than one turn of the reactor: ten times what it took.
REST = 0.0001
# Leaves that are reported in one turn of the wheel.
LEAVES = 512
# Bytes of a member in an answer besides its user and info.
OVERHEAD = 40
# Up to this many users of a channel are sorted when they are asked for; more of them are kept sorted.
FEW = 64


class Member(msgspec.Struct, frozen=True):
    """One user on a channel.

    Attributes:
        user: the `user` of the callers.
        info: what the service says of it, any JSON value.
        connections: how many of them there are; 0 if the user has just left, and nobody has been told yet.
    """

    user: str
    info: msgspec.Raw
    connections: int


class AnswerBudget:
    """What one answer still has room for.

    Attributes:
        members: how many.
        bytes: about how many; the first member is taken whatever its size.
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


class _Watchers:
    """The subscribers that are told who comes and goes on one channel.

    A change is told at once. With many watchers that takes several turns, and then a rest; what changes meanwhile is told
    together in the next round: ten thousand watchers that come one by one would be a hundred million notices.

    Args:
        channel: its name.
        fanOuts: sends the notices.
        wheel: the server's.
    """

    __slots__ = ("_changes", "_crowd", "_fanOuts", "_isTelling", "_number", "_places", "_since", "_wheel", "channel", "wheelSlot")

    def __init__(self, channel: str, fanOuts: FanOuts, wheel: Wheel) -> None:
        self.channel = channel
        self._fanOuts = fanOuts
        self._wheel = wheel
        self._crowd = Crowd()
        self._places: dict[Subscriber, Group] = {}
        self._changes: dict[str, list[tuple[int, str, bytes]]] = {}  # by user: number, kind, notice
        self._number = 0
        self._since: dict[Subscriber, int] = {}  # watchers that came while changes wait: the last change each knows
        self._isTelling = False
        self.wheelSlot: int | None = None

    def __len__(self) -> int:
        return len(self._places)

    def add(self, subscriber: Subscriber) -> None:
        """Add one; do nothing if it is there."""
        if subscriber not in self._places:
            self._places[subscriber] = self._crowd.add(subscriber)
            if self._changes:
                self._since[subscriber] = self._number

    def discard(self, subscriber: Subscriber) -> None:
        """Remove one; do nothing if it is not there."""
        place = self._places.pop(subscriber, None)
        if place is not None:
            self._crowd.remove(subscriber, place)
            self._since.pop(subscriber, None)
            if not self._places:
                self._wheel.drop(self)

    def tell(self, kind: str, user: str, info: bytes) -> None:
        """Report a join or leave, now or in the next round."""
        before = self._changes.get(user)
        if before and before[-1][1] != kind and not self._since:
            # The user came and went, or left and came back, before anybody was told.
            before.pop()
            if not before:
                del self._changes[user]
            return
        said = {"type": kind, "channel": self.channel, "member": {"user": user, "info": msgspec.Raw(info)}}
        self._number += 1
        change = self._number, kind, msgspec.json.encode(said)
        if before is None:
            self._changes[user] = [change]
        else:
            before.append(change)
        if not self._isTelling:
            self._tellAll()

    def deadlineReached(self, now: float) -> None:
        """Go on after a rest; called by the wheel."""
        self._isTelling = False
        self._tellAll()

    def _tellAll(self) -> None:
        """Begin a round."""
        if not self._changes:
            return
        changes = sorted([change for some in self._changes.values() for change in some])
        since, self._since, self._changes = self._since, {}, {}
        notices = [OutgoingMessage(TEXT, notice) for _, _, notice in changes]
        first = changes[0][0]

        def deliver(member: Subscriber, notices: Any) -> bool:
            if member not in self._places:
                return False  # it has left
            known = since.get(member, 0)
            if known >= first:
                notices = [each for (number, _, _), each in zip(changes, notices, strict=True) if number > known]
            member.tell(notices)
            return True

        self._isTelling = True
        steps = STEPS + OWN_WAY + len(notices) // 8
        parts = [(run, notices, steps) for run in self._crowd.runs()]
        told = self._fanOuts.send(parts, (), lambda person: None, sum([len(each.payload) for each in notices]), deliver=deliver)
        if isinstance(told, int):
            self._isTelling = False
            self._tellAll()
        else:
            told.addCallback(self._told)

    def _told(self, count: int) -> None:
        self._wheel.set(self, self._wheel.now + count * REST)


class Presence:
    """The users on all channels; a caller counts as a user if its `user` is a str.

    A join is reported at once, a leave when the user has not come back for `delay` seconds.

    Args:
        delay: seconds.
        wheel: the server's.
        fanOuts: what it sends to many.
    """

    def __init__(self, delay: float, wheel: Wheel, fanOuts: FanOuts) -> None:
        self._fanOuts = fanOuts
        self._delay = delay
        self._wheel = wheel
        self._users: dict[str, _Users] = {}  # by channel
        # The user each one entered as: the service may have given its caller another since.
        self._entered: dict[tuple[str, Subscriber], str] = {}
        self._watchers: dict[str, _Watchers] = {}
        self._leaving: deque[tuple[float, str, str]] = deque()  # when, channel, user; all wait the same time
        self.wheelSlot: int | None = None

    def members(self, channel: str, room: AnswerBudget, after: str = "") -> tuple[list[Member], str | None]:
        """Return the users on a channel by name, as many as there is room for.

        Args:
            channel: its name.
            room: reduced by what is returned.
            after: the user after which to begin.

        Returns:
            The users, and the one to continue after, None if these are all.
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
        """Tell a subscriber of the channel who comes and goes, until it leaves the channel."""
        watchers = self._watchers.get(channel)
        if watchers is None:
            watchers = self._watchers[channel] = _Watchers(channel, self._fanOuts, self._wheel)
        watchers.add(subscriber)

    def enter(self, channel: str, subscriber: Subscriber, info: Any) -> None:
        """Note a subscription; tell the others if it is the first of its user."""
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
            present.info = json  # the user is back before anybody was told of the leave
        present.connections += 1
        self._entered[channel, subscriber] = user

    def leave(self, channel: str, subscriber: Subscriber) -> None:
        """Note the end of a subscription; tell the others if its user does not come back."""
        watchers = self._watchers.get(channel)
        if watchers is not None:
            watchers.discard(subscriber)
            if not watchers:
                del self._watchers[channel]
        user = self._entered.pop((channel, subscriber), None)
        if user is None:
            return
        present = self._users[channel][user]
        present.connections -= 1
        if not present.connections:
            present.leftAt = self._wheel.seconds()
            self._leaving.append((present.leftAt, channel, user))
            if self.wheelSlot is None:
                self._wheel.set(self, present.leftAt + self._delay)

    def deadlineReached(self, now: float) -> None:
        """Report the users that have not come back; called by the wheel."""
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
        if watchers is not None:
            watchers.tell(what, user, info)
