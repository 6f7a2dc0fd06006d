"""The engine over several servers, each of which has a part of the channels."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache
from hashlib import blake2b
from heapq import merge
from operator import attrgetter
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.python.failure import Failure

from twisted_ws.engines.contract import (
    Command,
    Description,
    Engine,
    EngineSettings,
    EngineState,
    History,
    HistoryLimits,
    Members,
    Node,
    NodeInfo,
    Revocation,
)
from twisted_ws.engines.journal import Journal
from twisted_ws.engines.redis.engine import RedisEngine
from twisted_ws.engines.redis.server.contact import TIMES, Times
from twisted_ws.engines.redis.server.url import parseURL
from twisted_ws.message import Message, Position, Published
from twisted_ws.names import isPattern
from twisted_ws.telemetry.counts import Buckets, merged

_STATES = (EngineState.DOWN, EngineState.RESUMING, EngineState.UP)  # from the worst


def makeEngine(settings: EngineSettings, times: Times = TIMES) -> Engine:
    """Return the engine for a URL (see `EngineSettings`).

    Raises:
        ConfigurationError: the URL is invalid, or a file that it names.
    """
    url = parseURL(settings.url)
    limits, wheel, reactor = settings.limits, settings.wheel, settings.reactor
    addresses = (None,) if url.master else url.addresses
    engines = [RedisEngine(url, address, settings.password, limits, wheel, reactor, times) for address in addresses]
    return engines[0] if len(engines) == 1 else SeveralEngine(engines, [str(each) for each in url.addresses])


def _unwrapped(failure: Failure) -> Failure:
    """Return the failure in one of `gatherResults`."""
    return getattr(failure.value, "subFailure", failure)


class SeveralEngine:
    """Spreads channels over servers by the hash of their names; what is about no channel is the first server's.

    A server more or less moves only its own part of the channels; what these held is lost to their subscribers, who are told.

    Args:
        engines: one for each server.
        names: how the servers are called, whatever their order.
    """

    def __init__(self, engines: list[RedisEngine], names: list[str]) -> None:
        self._engines = engines
        self.isNumbered = False  # see `RedisEngine`
        self._first = engines[names.index(min(names))]
        self._node: Node
        self.state = EngineState.DOWN
        self._hasStarted = False

        @lru_cache(8192)
        def of(channel: str) -> RedisEngine:
            def weight(number: int) -> bytes:
                return blake2b(f"{names[number]} {channel}".encode(), digest_size=8).digest()

            return engines[max(range(len(engines)), key=weight)]

        self._of: Callable[[str], RedisEngine] = of
        for engine in engines:
            engine.onState = self._changed

    @property
    def times(self) -> dict[tuple[str, ...], Buckets]:
        """How long operations took at any of them, by name, but for publications."""
        tables = [engine.times.rows for engine in self._engines]
        names = dict.fromkeys(name for rows in tables for name in rows)
        return {name: merged(rows[name] for rows in tables if name in rows) for name in names}

    @property
    def isSlow(self) -> bool:
        """Whether one of them is (see `Engine`)."""
        return any(engine.isSlow for engine in self._engines)

    def _changed(self, state: EngineState) -> None:
        """Tell the worst state, if that has changed, or if one of the servers is there again."""
        worst = min([each.state for each in self._engines], key=_STATES.index)
        if worst is not self.state or (state is EngineState.UP and self._hasStarted):
            self.state = worst
            self._node.stateChanged(worst)

    def start(self, node: Node) -> Deferred[None]:
        """Begin (see `Engine`)."""
        self._node = node
        # All have a state before one tells of it.
        starts = [engine.start(node) for engine in self._engines]

        def failed(failure: Failure) -> Any:
            return gatherResults([engine.stop() for engine in self._engines], consumeErrors=True).addBoth(
                lambda _: _unwrapped(failure)
            )

        def started(_: Any) -> None:
            self._hasStarted = True

        return gatherResults(starts, consumeErrors=True).addCallbacks(started, failed)

    def stop(self) -> Deferred[None]:
        """End (see `Engine`)."""
        return gatherResults([engine.stop() for engine in self._engines], consumeErrors=True).addCallback(lambda _: None)

    # Hand-over.

    def keepJournal(self, journal: Journal) -> None:
        """Note in a journal what comes from any of them (see `RedisEngine`)."""
        for each in self._engines:
            each.keepJournal(journal)

    def endJournal(self, journal: Journal) -> None:
        """Stop noting in a journal (see `RedisEngine`)."""
        for each in self._engines:
            each.endJournal(journal)

    def mark(self) -> Deferred[int]:
        """Return a Deferred that fires when all has come that any of them had passed on before (see `RedisEngine`)."""
        return gatherResults([each.mark() for each in self._engines]).addCallback(lambda _: 0)

    def publish(
        self,
        channel: str,
        message: Message,
        key: str | None = None,
        idempotencyKey: str | None = None,
        fingerprint: bytes = b"",
        limits: HistoryLimits | None = None,
    ) -> Deferred[Published]:
        """Publish a message (see `Engine`)."""
        return self._of(channel).publish(channel, message, key, idempotencyKey, fingerprint, limits)

    def watch(self, channel: str, by: Hashable = None) -> Deferred[Position | None]:
        """Begin to pass messages on (see `Engine`)."""
        if not isPattern(channel):
            return self._of(channel).watch(channel, by)
        watched = gatherResults([engine.watch(channel, by) for engine in self._engines], consumeErrors=True)

        def failed(failure: Failure) -> Failure:
            self.unwatch(channel)
            return _unwrapped(failure)

        return watched.addCallbacks(lambda _: None, failed)

    def unwatch(self, channel: str) -> None:
        """Stop passing messages on (see `Engine`)."""
        for engine in self._engines if isPattern(channel) else (self._of(channel),):
            engine.unwatch(channel)

    def since(self, channel: str, after: Position | None, limit: int | None = None) -> Deferred[History]:
        """Return what is kept (see `Engine`)."""
        return self._of(channel).since(channel, after, limit)

    def forget(self, channel: str) -> Deferred[int]:
        """Drop what is kept (see `Engine`)."""
        return self._of(channel).forget(channel)

    def describe(self, channel: str) -> Deferred[Description | None]:
        """Return what is known of a channel (see `Engine`)."""
        return self._of(channel).describe(channel)

    def broadcast(self, message: Message) -> Deferred[int]:
        """Pass a message to all nodes (see `Engine`)."""
        return self._first.broadcast(message)

    def enter(self, channel: str, connection: str, user: str, info: bytes) -> None:
        """Note who is there (see `Engine`)."""
        self._of(channel).enter(channel, connection, user, info)

    def leave(self, channel: str, connection: str, delay: float | None = None) -> None:
        """Note who is no longer there (see `Engine`)."""
        self._of(channel).leave(channel, connection, delay)

    def members(self, channel: str, after: str, limit: int, size: int) -> Deferred[Members]:
        """Return who is on a channel (see `Engine`)."""
        return self._of(channel).members(channel, after, limit, size)

    def command(self, command: Command) -> Deferred[int]:
        """Pass a command to all nodes (see `Engine`)."""
        return self._first.command(command)

    def nodes(self) -> Deferred[list[NodeInfo]]:
        """Return the nodes that are alive (see `Engine`)."""
        return self._first.nodes()

    def look(self) -> Deferred[list[NodeInfo]]:
        """Return the same without joining them; all servers are looked at (see `RedisEngine.look`)."""
        asked = gatherResults([each.look() for each in self._engines], consumeErrors=True)
        first = self._engines.index(self._first)
        return asked.addCallbacks(lambda found: found[first], _unwrapped)

    def claim(self, key: str, until: float) -> Deferred[bool]:
        """Return True once (see `Engine`)."""
        return self._of(key).claim(key, until)

    def revoke(self, revocation: Revocation) -> Deferred[None]:
        """Pass a revocation to all nodes (see `Engine`)."""
        return self._first.revoke(revocation)

    def ask(self, kind: str, payload: bytes) -> Deferred[list[bytes]]:
        """Return what each node says (see `Engine`)."""
        return self._first.ask(kind, payload)

    # Last, because its name is that of a type.

    def list(self, prefix: str, after: str, limit: int) -> Deferred[list[Description]]:
        """Return some channels by name (see `Engine`)."""
        found = gatherResults([engine.list(prefix, after, limit) for engine in self._engines], consumeErrors=True)
        return found.addCallbacks(lambda lists: [*merge(*lists, key=attrgetter("channel"))][:limit], _unwrapped)
