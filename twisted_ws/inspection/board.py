"""The channels of the server itself, ``~server.*``: figures, warnings and tails, made while somebody watches.

They are channels as any others, but of the broadcast site alone: no service, rule, pattern or back end reaches them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import copy
from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from twisted_ws import __version__
from twisted_ws.channels.channels import Channels
from twisted_ws.engines.contract import HistoryLimits
from twisted_ws.engines.memory import MemoryEngine
from twisted_ws.errors import ChannelError
from twisted_ws.inspection import log, tails
from twisted_ws.inspection.asking import askAll
from twisted_ws.inspection.looking import KIND as LOOK
from twisted_ws.inspection.looking import look
from twisted_ws.inspection.stats import Look, Watch
from twisted_ws.limits import MIB
from twisted_ws.message import Kind, Message
from twisted_ws.server.callers import OpenCallers
from twisted_ws.server.node import LocalNode
from twisted_ws.telemetry.counts import Counts
from twisted_ws.telemetry.records import RECENT
from twisted_ws.wire.websocket.fanout import FanOuts

if TYPE_CHECKING:
    from twisted_ws.server.server import WebSocketServer
    from twisted_ws.wire.websocket.runtime import Runtime

STATS, LOG, TAIL = "~server.stats", "~server.log", "~server.tail."
# Seconds between two figures, and after which a tail ends that nobody watches.
SECOND = 1.0
UNWATCHED = 10.0
# What is kept of each channel: of warnings as many as a process keeps, of figures and tails none that anybody would miss.
KEPT = {LOG: HistoryLimits(RECENT, 86400.0, MIB)}
BRIEF = HistoryLimits(10, 10.0, MIB)

_isTail = re.compile(re.escape(TAIL) + r"[0-9]{1,15}").fullmatch
_log = Logger()
_encode = msgspec.json.Encoder().encode
_decodeLook = msgspec.json.Decoder(Look).decode
_decodeLog = msgspec.json.Decoder(log.Answer).decode
_decodeTails = msgspec.json.Decoder(tails.Answer).decode


class Followed:
    """One tail that this site has begun.

    Attributes:
        number: the last part of its channel's name.
        kind, name: what it follows.
        at: the server that follows a channel.
        by: the name of the key that has begun it; "" where nobody needs one.
        unwatched: since when nobody watches it.
    """

    __slots__ = ("at", "by", "kind", "name", "number", "unwatched")

    def __init__(self, number: int, kind: str, name: str, at: str, by: str, now: float) -> None:
        self.number = number
        self.kind = kind
        self.name = name
        self.at = at
        self.by = by
        self.unwatched: float | None = now

    @property
    def channel(self) -> str:
        """The channel with its lines."""
        return f"{TAIL}{self.number}"


class Board:
    """Makes what is watched on the channels of one broadcast site.

    Args:
        server: its server, which asks all others.
        warnings: the warnings of this process; None if nobody keeps them.

    Attributes:
        channels: the channels; nobody else has them.
        runtime: what they share with all connections, but for what is counted.
        tails: those that have begun, by number.
    """

    def __init__(self, server: WebSocketServer, warnings: log.Warnings | None = None) -> None:
        self._server = server
        self._warnings = warnings
        self.runtime: Runtime = copy(server.runtime)
        self.runtime.counts = Counts()  # who watches is no caller, and what they get is no message of anybody's
        self.runtime.fanOuts = FanOuts(self.runtime)
        engine = MemoryEngine(server.limits, self.runtime.wheel, self.runtime.wheel.seconds)
        self.channels = Channels(engine, self.runtime)
        node = LocalNode(OpenCallers(self.runtime.fanOuts), self.runtime.turns, __version__)
        node.attach(self.channels)
        engine.start(node)
        self.tails: dict[int, Followed] = {}
        self._numbers = count(1)
        self._watch = Watch()
        self._seen: dict[str, int] = {}
        self._call: Any = None
        self._isWorking = False
        self._figuresAt = 0.0
        self.watchers: dict[Any, Callable[[], bool]] = {}

    # Who watches.

    def has(self, channel: str) -> bool:
        """Return whether there is such a channel."""
        return channel in (STATS, LOG) or (_isTail(channel) is not None and int(channel[len(TAIL) :]) in self.tails)

    async def prepare(self, channel: str) -> None:
        """Get what somebody who comes now is to find: the last warnings.

        Raises:
            ChannelError: there is no such channel.
        """
        if not self.has(channel):
            raise ChannelError("not-found", "There is no such channel.")
        if channel == LOG:
            await self._fetchWarnings()

    def watched(self, watcher: Any, mayStay: Callable[[], bool]) -> None:
        """Learn of somebody who watches; `mayStay` is asked each second whether they still may."""
        self.watchers[watcher] = mayStay
        self._figuresAt = 0.0  # the first figures come at once
        self._later(0.0)

    def left(self, watcher: Any) -> None:
        """Learn that somebody does not watch any more."""
        self.watchers.pop(watcher, None)

    # Tails.

    async def follow(self, kind: str, name: str, by: str = "") -> Followed:
        """Begin a tail, or return the one that follows the same; `by` is the name of the key that wants it, if one is needed.

        Raises:
            ChannelError: there are too many, or the engine cannot be asked.
        """
        if (same := self._sameOrRoom(kind, name, by)) is not None:
            return same
        at = ""
        if kind == tails.CHANNEL:
            # Who is there, of somebody who wants nothing: to ask for our own tails would take their lines.
            answers = await askAll(self._server, tails.KIND, _encode(tails.Asked("", ())))
            nodes = sorted(_decodeTails(each).node for each in answers.answers)
            if not nodes:
                raise ChannelError("unavailable", "No server that could follow it has answered.")
            at = nodes[0]
            if (same := self._sameOrRoom(kind, name, by)) is not None:  # others may have begun some meanwhile
                return same
        number = next(self._numbers)
        made = self.tails[number] = Followed(number, kind, name, at, by, self.runtime.wheel.seconds())
        self._later(0.0)
        return made

    def _sameOrRoom(self, kind: str, name: str, by: str) -> Followed | None:
        """Return the tail that follows the same, None if there is room for another.

        Raises:
            ChannelError: there is not.
        """
        for each in self.tails.values():
            if (each.kind, each.name) == (kind, name):
                return each
        if len(self.tails) >= self._server.limits.adminTails:
            raise ChannelError("too-many-requests", f"There are {len(self.tails)} tails already: end one.")
        own = sum(each.by == by for each in self.tails.values()) if by else 0
        if own and own >= self._server.limits.adminTailsPerKey:
            raise ChannelError("too-many-requests", f"You follow {own} already: end one.")
        return None

    def end(self, number: int, why: str) -> bool:
        """End a tail, and tell who watches; return whether there was one."""
        tail = self.tails.pop(number, None)
        if tail is None:
            return False
        self._publish(tail.channel, {"lines": [], "skipped": 0, "ended": why})
        self._later(0.0)
        return True

    def _wanted(self) -> tuple[tails.Wanted, ...]:
        site = self._server.node.id
        return tuple(tails.Wanted(f"{site}.{each.number}", each.kind, each.name, each.at) for each in self.tails.values())

    # Work.

    def _later(self, seconds: float) -> None:
        if self._isWorking:
            return  # it looks again at its end
        call = self._call
        if call is not None and call.active():
            if seconds > 0:
                return
            call.cancel()
        self._call = self._server.reactor.callLater(seconds, self._begin)

    def _begin(self) -> None:
        self._isWorking = True
        Deferred.fromCoroutine(self._work()).addErrback(self._failed).addBoth(self._done)

    def _failed(self, failure: Any) -> None:
        if failure.check(ChannelError) is None:  # the engine cannot be asked: perhaps the next time
            _log.failure("what is watched could not be made", failure, event="admin.failed")

    def _done(self, _: Any) -> None:
        self._isWorking = False
        if self.tails or self.watchers:
            self._later(tails.INTERVAL if self.tails else SECOND)

    async def _work(self) -> None:
        """Make what is watched."""
        now = self.runtime.wheel.seconds()
        self._forget(now)
        isSecond = now - self._figuresAt >= SECOND - tails.INTERVAL / 2
        if isSecond:
            self._figuresAt = now
            for watcher, mayStay in tuple(self.watchers.items()):
                if not mayStay():
                    watcher.expire()
            if self.channels.count(STATS):
                await self._fetchFigures()
            if self.channels.count(LOG):
                await self._fetchWarnings()
        if self.tails:
            await self._fetchTails()

    def _forget(self, now: float) -> None:
        """End the tails that nobody has watched for a while."""
        for number, tail in tuple(self.tails.items()):
            if self.channels.count(tail.channel):
                tail.unwatched = None
            elif tail.unwatched is None:
                tail.unwatched = now
            elif now - tail.unwatched >= UNWATCHED:
                del self.tails[number]

    async def _fetchFigures(self) -> None:
        answers = await askAll(self._server, LOOK)
        looks = sorted(map(_decodeLook, answers.answers), key=lambda each: each.now.node)
        missing = answers.missing({each.now.node for each in looks})
        now, own = self._server.reactor.seconds(), look(self._server)
        supervisor = None if any(each.now.node == own.now.node for each in looks) else own
        self._publish(STATS, self._watch.figures(looks, missing, self.runtime.unixTime(), now, supervisor))

    async def _fetchWarnings(self) -> None:
        own = self._server.node.id
        found = [] if self._warnings is None else [self._warnings.since(self._seen.get(own, 0))]
        answers = await askAll(self._server, log.KIND, _encode(self._seen))
        found += [each for each in map(_decodeLog, answers.answers) if each.node != own]
        warnings = []
        for each in found:
            # It may have been fetched for somebody else meanwhile.
            new = each.total - self._seen.get(each.node, 0)
            self._seen[each.node] = each.total
            warnings += each.warnings[-new:] if new > 0 else []
        for warning in sorted(warnings, key=lambda warning: warning.time):
            self._publish(LOG, warning)

    async def _fetchTails(self) -> None:
        answers = await askAll(self._server, tails.KIND, _encode(tails.Asked(self._server.node.id, self._wanted())))
        found = {each.node: each.tails for each in map(_decodeTails, answers.answers)}
        for number, tail in tuple(self.tails.items()):
            if tail.at and tail.at not in found and found:
                tail.at = min(found)  # its server has gone
            seen = [each[name] for each in found.values() if (name := f"{self._server.node.id}.{number}") in each]
            lines = sorted([(_timeOf(line), line) for each in seen for line in each.lines], key=lambda pair: pair[0])
            skipped = sum(each.skipped for each in seen) + max(len(lines) - tails.WAITING, 0)
            refused = next((each.refused for each in seen if each.refused), "")
            if lines or skipped:
                self._publish(tail.channel, {"lines": [line for _, line in lines[: tails.WAITING]], "skipped": skipped})
            if refused:
                self.end(number, refused)
            elif tail.kind == tails.CONNECTION and seen and not any(each.isThere for each in seen):
                self.end(number, "There is no such connection, or it has ended.")

    def _publish(self, channel: str, value: Any) -> None:
        message = Message(Kind.JSON, _encode(value))
        try:
            published = self.channels.publish(channel, message, limits=KEPT.get(channel, BRIEF))
        except ChannelError:
            return  # too much is on its way: the next figures are as good
        published.addErrback(lambda failure: failure.trap(ChannelError))


def _timeOf(line: msgspec.Raw) -> float:
    return _decodeTime(line).time


class _Time(msgspec.Struct):
    time: float


_decodeTime = msgspec.json.Decoder(_Time).decode
