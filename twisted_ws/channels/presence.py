"""Presence: the users among the subscribers of this server, and the subscribers that are told who comes and goes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from twisted_ws.channels.options import ChannelOptions
from twisted_ws.channels.subscribers.subscriber import Subscriber
from twisted_ws.engines.contract import Engine, Member
from twisted_ws.frames import OutgoingMessage
from twisted_ws.limits import Limits
from twisted_ws.message import TEXT
from twisted_ws.wire.loop.wheel import Wheel
from twisted_ws.wire.websocket.crowd import Crowd, Group
from twisted_ws.wire.websocket.fanout import OWN_WAY, STEPS, FanOuts

# Seconds of rest for each watcher after telling all took more than one turn of the reactor: ten times what it took.
REST = 0.0001


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

    def __contains__(self, subscriber: object) -> bool:
        return subscriber in self._places

    @property
    def isTelling(self) -> bool:
        """Whether there is anything that not all have been told."""
        return bool(self._changes) or (self._isTelling and bool(self._fanOuts.pending))

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
        self._number += 1
        change = self._number, kind, _notice(kind, self.channel, user, info)
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


class News:
    """Who has come and gone since somebody asked for a list of the users on a channel, until it has it.

    The two may come by different ways: what is told before the list comes may be newer than it.

    Args:
        recent: the last changes on the channel.
        close: is called at the end.
    """

    __slots__ = ("_close", "_recent", "_since")

    def __init__(self, recent: _Recent, close: Callable[[], object]) -> None:
        self._recent = recent
        self._since = recent.number
        self._close = close
        recent.waiting += 1

    def tell(self, subscriber: Subscriber, who: dict[str, Any], after: str | None = None) -> None:
        """Tell a subscriber what it cannot see in the list, which it has just been sent.

        Args:
            subscriber: the subscriber.
            who: the list (see `Channels.who`).
            after: the user that it begins after, for a subscriber that was told each change already; None: it was told none.
        """
        changes = self._recent.since(self._since)
        if not changes:
            return
        listed = {each.user: bytes(each.info) for each in who["members"]}
        last = next(reversed(listed), "") if "next" in who else None
        notices = []
        for user, kind, info in changes:
            if after is not None and (user <= after or (last is not None and user > last)):
                continue
            if listed.get(user) != info if kind == "join" else user in listed:
                notices.append(OutgoingMessage(TEXT, _notice(kind, self._recent.channel, user, info)))
        if notices:
            subscriber.tell(notices)

    def end(self) -> None:
        """Note nothing any more."""
        self._recent.waiting -= 1
        if not self._recent.waiting:
            self._close()


class _Recent:
    """The last change of each user of a channel, while lists of them are awaited: however many are, there is one of these.

    Attributes:
        channel: its name.
        number: of the last change.
        waiting: how many lists are awaited.
    """

    __slots__ = ("_changes", "channel", "number", "waiting")

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.number = 0
        self.waiting = 0
        self._changes: dict[str, tuple[int, str, bytes]] = {}  # by user, the last change last: number, kind, info

    def add(self, kind: str, user: str, info: bytes) -> None:
        """Note a change."""
        self.number += 1
        self._changes.pop(user, None)
        self._changes[user] = self.number, kind, info

    def since(self, number: int) -> list[tuple[str, str, bytes]]:
        """Return the changes after one, in order: user, kind, info."""
        found = []
        for user, (place, kind, info) in reversed(self._changes.items()):
            if place <= number:
                break
            found.append((user, kind, info))
        return found[::-1]


def _notice(kind: str, channel: str, user: str, info: bytes) -> bytes:
    return msgspec.json.encode({"type": kind, "channel": channel, "member": {"user": user, "info": msgspec.Raw(info)}})


class Presence:
    """The part of this server in presence: which of its subscribers are users on a channel, and who is told about others.

    A caller counts as a user if its `user` is a str. The engine knows the users of all servers.

    Args:
        engine: the engine.
        wheel: the server's.
        fanOuts: what it sends to many.

    Attributes:
        options: what the operator says of channels by their names; None for nothing.
    """

    def __init__(self, engine: Engine, wheel: Wheel, fanOuts: FanOuts) -> None:
        self._engine = engine
        self._fanOuts = fanOuts
        self._wheel = wheel
        self.options: ChannelOptions | None = None
        # What each one entered with: the service may have given its caller another user since.
        self._entered: dict[tuple[str, Subscriber], tuple[str, bytes]] = {}
        self._watchers: dict[str, _Watchers] = {}
        self._recent: dict[str, _Recent] = {}  # by channel, while lists of its users are awaited

    def __len__(self) -> int:
        return len(self._entered)

    def entered(self) -> list[tuple[str, str, str, bytes]]:
        """Return channel, connection id, user and info of all that are here (see `Node.presence`)."""
        return [
            (channel, subscriber.caller.connectionId, user, info) for (channel, subscriber), (user, info) in self._entered.items()
        ]

    def watch(self, channel: str, subscriber: Subscriber) -> None:
        """Tell a subscriber of the channel who comes and goes, until it leaves the channel."""
        watchers = self._watchers.get(channel)
        if watchers is None:
            watchers = self._watchers[channel] = _Watchers(channel, self._fanOuts, self._wheel)
        watchers.add(subscriber)

    def follow(self, channel: str) -> News:
        """Note who comes and goes on a channel that the engine watches: to be called before it is asked who is there."""
        recent = self._recent.get(channel)
        if recent is None:
            recent = self._recent[channel] = _Recent(channel)
        return News(recent, partial(self._recent.pop, channel))

    def isWatching(self, channel: str, subscriber: Subscriber) -> bool:
        """Return whether a subscriber is told who comes and goes."""
        watchers = self._watchers.get(channel)
        return watchers is not None and subscriber in watchers

    def unwatch(self, channel: str, subscriber: Subscriber) -> None:
        """Tell a subscriber no more; do nothing if it is not told anything."""
        watchers = self._watchers.get(channel)
        if watchers is not None:
            watchers.discard(subscriber)
            if not watchers:
                del self._watchers[channel]

    def enter(self, channel: str, subscriber: Subscriber, info: Any) -> None:
        """Note a subscription, and tell the engine if it is a user's."""
        user = subscriber.caller.user
        if isinstance(user, str):
            json = _NO_INFO if info is None else msgspec.json.encode(info)
            self._entered[channel, subscriber] = user, json
            self._engine.enter(channel, subscriber.caller.connectionId, user, json)

    def isTelling(self, channel: str) -> bool:
        """Return whether those that watch a channel have not been told everything."""
        watchers = self._watchers.get(channel)
        return watchers is not None and watchers.isTelling

    def depart(self, channel: str, subscriber: Subscriber) -> tuple[str, bytes] | None:
        """Forget a subscription that goes on in another process; return user and info, None if it is no user's."""
        self.unwatch(channel, subscriber)
        return self._entered.pop((channel, subscriber), None)

    def arrive(self, channel: str, subscriber: Subscriber, user: str, info: bytes) -> None:
        """Note a subscription that comes from there."""
        self._entered[channel, subscriber] = user, info
        self._engine.enter(channel, subscriber.caller.connectionId, user, info)

    def departed(self, channel: str, connection: str) -> None:
        """Tell the engine that a connection is a user of this server no longer, because another has it."""
        self._engine.leave(channel, connection)

    def leave(self, channel: str, subscriber: Subscriber) -> None:
        """Note the end of a subscription."""
        self.unwatch(channel, subscriber)
        if self._entered.pop((channel, subscriber), None) is not None:
            delay = None if self.options is None else self.options.presenceDelay(channel)
            if delay is None:
                self._engine.leave(channel, subscriber.caller.connectionId)
            else:
                self._engine.leave(channel, subscriber.caller.connectionId, delay)

    def joined(self, channel: str, member: Member) -> None:
        """Tell those that watch the channel that a user has come."""
        self._tell(channel, "join", member)

    def left(self, channel: str, member: Member) -> None:
        """Tell them that a user has left."""
        self._tell(channel, "leave", member)

    def tellOne(self, channel: str, subscriber: Subscriber, what: str, user: str, info: bytes) -> None:
        """Tell one subscriber, if it watches the channel, that a user has "joined" or "left"."""
        if self.isWatching(channel, subscriber):
            subscriber.tell([OutgoingMessage(TEXT, _notice("join" if what == "joined" else "leave", channel, user, info))])

    def _tell(self, channel: str, what: str, member: Member) -> None:
        recent = self._recent.get(channel)
        if recent is not None:
            recent.add(what, member.user, bytes(member.info))
        watchers = self._watchers.get(channel)
        if watchers is not None:
            watchers.tell(what, member.user, bytes(member.info))
