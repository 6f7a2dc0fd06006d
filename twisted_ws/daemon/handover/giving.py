"""What a process does to give its open connections to another one."""

from __future__ import annotations

import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from math import ceil
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.caller import Caller
from twisted_ws.channels.moving import Expectation
from twisted_ws.daemon.handover.stream import HandStream
from twisted_ws.engines.journal import ForeignJournal, Journal
from twisted_ws.engines.memory import MemoryEngine
from twisted_ws.limits import MIB
from twisted_ws.server.handover.arrival import RESTART, Arrival
from twisted_ws.server.handover.departure import Departure
from twisted_ws.server.handover.states import VERSION, CallerState, decode
from twisted_ws.server.pacing import paced, sliceSize
from twisted_ws.server.server import WebSocketServer
from twisted_ws.web.channels.moving import StreamArrival, StreamDeparture, StreamState
from twisted_ws.web.channels.moving import decode as decodeStream
from twisted_ws.web.channels.stream import EventStream
from twisted_ws.wire.loop.transports import abort
from twisted_ws.wire.websocket import moving
from twisted_ws.wire.websocket.connection import WebSocketConnection
from twisted_ws.wire.websocket.moving import Obstacle
from twisted_ws.wire.websocket.runtime import Runtime

# Connections that go together, and how many such batches may be on their way: nobody serves these.
BATCH = 32
WINDOW = 8
# Bytes of states from which on a batch has fewer: what peers have not taken may be a megabyte for each.
BATCH_BYTES = 4 * MIB
# The cost of taking one out of this process, in steps of `Turns`.
STEPS = 48
# The same for putting one back, and for forgetting one that has gone.
BACK = 96
FORGETTING = 4
# The same for asking one to leave.
CLOSING = 40
# Seconds for its answer, at least.
LAST = 5.0
# Entries of a journal after which the other process is told what they are, unless it has been before.
TOLD = 100
# Names of channels in one frame.
NAMES = 500
# Seconds between two looks at those that cannot go yet: at first, and at most.
LOOK = 0.05
LONGEST_LOOK = 1.0
# Seconds that what was accepted just before has to become a caller.
SETTLING = 0.3


class Noting:
    """What both processes of a hand-over keep while it lasts.

    Args:
        server: the server.
        takes: whether this is the process that takes connections.

    Attributes:
        journal: what its engine tells; None if that keeps none.
        isNumbered: whether both processes have the same numbers in it; else this one is to say what its entries are, or is told.
        expectation: see `Expectation`.
    """

    def __init__(self, server: WebSocketServer, takes: bool = False) -> None:
        self._engine: Any = server.engine
        self.isNumbered: bool = getattr(self._engine, "isNumbered", True)
        kind = ForeignJournal if takes and not self.isNumbered else Journal
        self.journal = kind() if hasattr(self._engine, "keepJournal") else None
        self.expectation = Expectation(server.channels)

    async def begin(self) -> None:
        """Begin to note; from then on, nothing is missed."""
        if self.journal is not None:
            self._engine.keepJournal(self.journal)
            await self.mark()
            self.journal.begin = self.journal.number

    async def mark(self) -> None:
        """Return when all has come that the engine had told others until now."""
        if self.journal is not None:
            number = await self._engine.mark()
            self.journal.number = max(self.journal.number, number)

    def end(self) -> None:
        """Stop noting."""
        if self.journal is not None:
            self._engine.endJournal(self.journal)
        self.expectation.end()


class Sockets:
    """What becomes of sockets that have left their connections."""

    def attach(self, connection: WebSocketConnection, runtime: Runtime, socket: Any) -> None:
        """Give one to a connection (see `twisted_ws.wire.websocket.moving.attach`)."""
        moving.attach(connection, runtime, socket)

    def close(self, socket: Any) -> None:
        """Close the copy of this process, without a word to the peer."""
        os.close(socket)


SOCKETS = Sockets()


class _Batch:
    """Connections that are on their way.

    Args:
        kind: "callers" or "streams".

    Attributes:
        kind: as given.
        states: theirs.
        sockets: theirs; the other process has copies.
    """

    __slots__ = ("_bytes", "kind", "sockets", "states")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.states: list[bytes] = []
        self.sockets: list[int] = []
        self._bytes = 0

    def add(self, state: bytes, socket: int) -> None:
        """Add one."""
        self.states.append(state)
        self.sockets.append(socket)
        self._bytes += len(state)

    @property
    def isFull(self) -> bool:
        """Whether it has to go."""
        return len(self.states) >= BATCH or self._bytes >= BATCH_BYTES


class Giving:
    """Gives the open connections of a server to the process at the other end of a stream.

    Args:
        server: the server.
        stream: leads there.
        sockets: closes them, and gives back those that return.
        share: of the callers of each service that are given, while the others stay; None: all that can go are given, and the
            rest is asked to leave.

    Attributes:
        given: how many have gone.
        refused: those that cannot go, and why.
    """

    _log = Logger()

    def __init__(
        self, server: WebSocketServer, stream: HandStream, sockets: Sockets = SOCKETS, share: float | None = None
    ) -> None:
        self._server = server
        self._share = share
        self._sockets = sockets
        self._stream = stream
        self._noting = noting = Noting(server)
        self._departure = Departure(server, noting.expectation, noting.journal)
        self._arrival = Arrival(server, noting.expectation, noting.journal)
        self._streams = StreamDeparture(server, noting.expectation, noting.journal, self._departure)
        self._streamArrival = StreamArrival(server, noting.expectation, self._arrival)
        self._ready: set[str] | None = None if isinstance(server.engine, MemoryEngine) else set()
        self._asked: set[str] = set()
        self._answers: dict[str, Deferred[Any]] = {}
        self._batches: dict[int, _Batch] = {}
        self._answered: deque[tuple[_Batch, dict[int, str]]] = deque()  # what is not here any more, but for those refused
        self._isSorting = False
        self._stops = self._isDone = False
        self._nap: Deferred[None] | None = None
        self._whenDone: list[Deferred[None]] = []
        self._number = 0
        self._untold: list[tuple[Any, ...]] = []
        if noting.journal is not None and not noting.isNumbered:
            noting.journal.told = self._noted
        self._room: Deferred[None] | None = None
        self._isOver = False
        self._whys: set[str] = set()
        self._notThere: set[str] = set()  # ids of those that the other process has refused
        self._isDismissing = False
        self._dismissed: set[Any] = set()
        self.given = 0
        self.refused: dict[Any, str] = {}
        stream.received = self._received
        stream.ended = self._ended

    async def run(self, until: float) -> bool:
        """Give all that can go; wait for those that may be able to, until the reactor's time `until`.

        Returns:
            Whether the other process was there to the end.
        """
        reactor = self._server.reactor
        try:
            await self._noting.begin()  # before the other process does
            self._stream.send("hello", VERSION)
            theirs = await self._answer("hello")
            if theirs != VERSION:
                if theirs is not None:
                    why = f"it takes those of version {theirs}, not {VERSION}"
                    self._log.warn("callers do not go on in the new process: {reason}", reason=why, event="handover.kept")
                return theirs is not None
            if self._share is not None:
                await self._expect()
                await self._giveSome("callers", self._some(self._share), self._departure.depart)
                while self._batches and not self._isOver:
                    await self._wait()
                return not self._batches
            look, settled = LOOK, reactor.seconds() + SETTLING
            while not (self._isOver or self._stops):
                self._tellNoted()
                await self._expect()
                waiting = await self._giveAll()
                self._dismiss(until - reactor.seconds())
                now = reactor.seconds()
                if now >= until or not (waiting or self._server.runtime.deciding or now < settled):
                    break
                await self._rest(look)
                look = min(2 * look, LONGEST_LOOK)
            while self._batches and not self._isOver:
                await self._wait()
            return not self._batches
        finally:
            # Until the other process has said what it has, or has ended, nobody knows whose the rest is.
            self._stream.finish()
            while self._isSorting or not self._isOver:
                await self._wait()
            await self._takeBack()
            self._arrival.settled().addCallback(lambda _: self._noting.end())
            self._stream.close()
            self._isDone = True
            for each in self._whenDone:
                each.callback(None)

    def stop(self) -> Deferred[None]:
        """Give no more, because all are asked to leave; return a Deferred that fires when nobody is on the way any more."""
        self._stops = True
        if self._nap is not None:
            self._nap.cancel()
        done: Deferred[None] = Deferred()
        if self._isDone:
            done.callback(None)
        else:
            self._whenDone.append(done)
        return done

    async def _rest(self, seconds: float) -> None:
        self._nap = deferLater(self._server.reactor, seconds)
        with suppress(CancelledError):
            await self._nap
        self._nap = None

    def _received(self, frame: Sequence[Any], descriptors: Iterable[int]) -> None:
        for each in descriptors:
            self._sockets.close(each)  # none are expected
        kind, *fields = frame
        if kind == "taken":
            self._taken(*fields)
        elif kind in self._answers:
            self._answers.pop(kind).callback(fields[0])

    def _ended(self) -> None:
        self._isOver = True
        for each in [*self._answers.values()]:
            each.callback(None)
        self._answers.clear()
        self._wake()

    def _answer(self, kind: str) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        if self._isOver:
            answer.callback(None)
        else:
            self._answers[kind] = answer
        return answer

    async def _expect(self) -> None:
        """Have the other process watch what is watched here; this one does so, too, for those that come back."""
        if self._ready is None:
            return
        new = [name for name in self._server.channels.watched() if name not in self._asked]
        for at in range(0, len(new), NAMES):
            names = new[at : at + NAMES]
            self._asked.update(names)
            self._stream.send("expect", names)
            ready = await self._answer("ready")
            await self._noting.expectation.expect(names)
            self._ready.update(ready or ())

    async def _giveAll(self) -> bool:
        """Give all that can go now; return whether any may be able to later."""
        streams = [each for each in self._server.visits if isinstance(each, EventStream)]
        waiting = await self._giveSome("callers", tuple(self._server.callers), self._departure.depart)
        return await self._giveSome("streams", streams, self._streams.depart) or waiting

    def _some(self, share: float) -> list[Caller]:
        """Return a part of the callers of each service, at least one."""
        byService: dict[Any, list[Caller]] = {}
        for caller in self._server.callers:
            match = self._server.match(caller.request.target.partition("?")[0])
            service = None if match is None else id(match.value.service)
            if service not in byService:
                byService[service] = []
            byService[service].append(caller)
        return [each for callers in byService.values() for each in random.sample(callers, ceil(share * len(callers)))]

    async def _giveSome(self, kind: str, some: Iterable[Any], depart: Callable[..., tuple[bytes, Any] | Obstacle]) -> bool:
        await self._noting.mark()
        waiting, batch, turns = False, _Batch(kind), self._server.runtime.turns
        async for each in turns.through(some, STEPS):
            if self._isOver or self._stops:
                break
            if not each.isOpen() or each in self.refused:
                continue
            if _idOf(each) in self._notThere:
                self.refused[each] = "refused there"
                continue
            try:
                with turns.counting(0):  # its service may take its time
                    left = depart(each, self._ready)
            except Exception:
                self._log.failure("a connection failed on its way to another process", event="handover.broken")
                abort(each.transport if isinstance(each, EventStream) else each._connection.transport)  # no more is known of it
                continue
            if isinstance(left, Obstacle):
                if left.passes:
                    waiting = True
                else:
                    self.refused[each] = left.value
                continue
            batch.add(*left)
            if batch.isFull:
                self._send(batch)
                batch = _Batch(kind)
                while len(self._batches) + len(self._answered) >= WINDOW and not self._isOver:
                    await self._wait()
                await self._noting.mark()
        if batch.states:
            self._send(batch)
        return waiting

    def _dismiss(self, left: float) -> None:
        """Ask those to leave that will never go, and end the responses over HTTP that do not end by themselves: in slices."""
        if not self._isDismissing and (len(self.refused) > len(self._dismissed) or any(map(self._cannotGo, self._server.visits))):
            self._isDismissing = True
            Deferred.fromCoroutine(self._dismissAll(max(left, LAST))).addErrback(self._notDismissed)

    def _cannotGo(self, visit: Any) -> bool:
        """Return whether a response over HTTP does not go on in the other process: polls, and streams that are refused."""
        return not isinstance(visit, EventStream) or visit in self.refused

    def _notDismissed(self, failure: Failure) -> None:
        self._log.failure("callers were not asked to leave", failure, event="handover.broken")

    async def _dismissAll(self, left: float) -> None:
        server = self._server
        refused = [each for each in self.refused if each not in self._dismissed]
        self._dismissed.update(refused)
        callers = [each for each in refused if isinstance(each, Caller)]
        some: list[Any] = [*filter(self._cannotGo, server.visits), *callers]
        size = sliceSize(len(some), server.limits.drainRate, left)
        async for each in paced(server.runtime.turns.through(some, CLOSING), size, server.reactor):
            if isinstance(each, Caller):
                each.close(*RESTART, timeout=left)
            elif each in server.visits and self._cannotGo(each):
                each.stop(left)
        self._isDismissing = False

    def _noted(self, which: tuple[Any, ...]) -> None:
        """Tell the other process soon what came here."""
        self._untold.append(which)
        if len(self._untold) >= TOLD:
            self._tellNoted()

    def _tellNoted(self) -> None:
        untold, self._untold = self._untold, []
        if untold:
            self._stream.send("noted", untold)

    def _send(self, batch: _Batch) -> None:
        self._tellNoted()
        self._number = number = self._number + 1
        self._batches[number] = batch
        self._stream.send(batch.kind, number, time.monotonic(), batch.states, descriptors=batch.sockets)

    def _taken(self, number: int, refused: Sequence[tuple[int, str]]) -> None:
        """Note which the other process has: from now on the connections belong to it alone."""
        self._answered.append((self._batches.pop(number), dict(refused)))
        for _, why in refused:
            if why not in self._whys:
                self._whys.add(why)
                self._log.warn("callers do not go on in the new process: {reason}", reason=why, event="handover.kept")
        if not self._isSorting:
            self._isSorting = True
            Deferred.fromCoroutine(self._sort()).addErrback(self._notSorted)

    async def _sort(self) -> None:
        """Close what the other process has, and go on with what it has not."""
        while self._answered:
            batch, whys = self._answered[0]
            async for index in self._server.runtime.turns.through(range(len(batch.sockets)), BACK if whys else FORGETTING):
                if index in whys:
                    self._back(batch, index)
                else:
                    self.given += 1
                    self._sockets.close(batch.sockets[index])
                    self._tellEngine(batch, index)
            self._answered.popleft()
            self._wake()
        self._isSorting = False
        self._wake()

    def _notSorted(self, failure: Failure) -> None:
        self._log.failure("connections that had gone were not let go", failure, event="handover.broken")
        self._answered.clear()
        self._isSorting = False
        self._wake()

    def _tellEngine(self, batch: _Batch, index: int) -> None:
        if self._noting.journal is None or not self._noting.isNumbered:  # else it knows from the other process
            state = _decoded(batch, index)
            for each in state.subscriptions:
                if each.entered is not None:
                    self._server.channels.presence.departed(each.channel, state.connectionId)

    def _back(self, batch: _Batch, index: int) -> None:
        """Go on here with a connection that the other process does not have."""
        state = _decoded(batch, index)
        self._notThere.add(state.connectionId)
        attach = partial(self._sockets.attach, runtime=self._server.runtime, socket=batch.sockets[index])
        with self._server.runtime.turns.counting(0):
            if isinstance(state, CallerState):
                self._arrival.arrive(state, attach)
            else:
                self._streamArrival.arrive(state, attach)

    async def _takeBack(self) -> None:
        """Go on with all that the other process has not taken."""
        batches, self._batches = self._batches, {}
        places = [(batch, index) for batch in batches.values() for index in range(len(batch.states))]
        async for batch, index in self._server.runtime.turns.through(places, BACK):
            self._back(batch, index)

    def _wait(self) -> Deferred[None]:
        room: Deferred[None] = Deferred()
        self._room = room
        return room

    def _wake(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)


def _decoded(batch: _Batch, index: int) -> CallerState | StreamState:
    state = batch.states[index]
    return decode(state) if batch.kind == "callers" else decodeStream(state)


def _idOf(each: Caller | EventStream) -> str:
    return each.connectionId if isinstance(each, Caller) else str(each.subscriber.caller.connectionId)
