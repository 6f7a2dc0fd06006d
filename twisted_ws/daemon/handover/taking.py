"""What a process does to take the open connections of another one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from twisted_ws.daemon.handover.giving import SOCKETS, Noting, Sockets
from twisted_ws.daemon.handover.stream import HandStream
from twisted_ws.engines.journal import ForeignJournal
from twisted_ws.server.handover.arrival import STOPPING, Arrival
from twisted_ws.server.handover.states import VERSION, decode
from twisted_ws.server.server import WebSocketServer
from twisted_ws.web.channels.moving import StreamArrival
from twisted_ws.web.channels.moving import decode as decodeStream

# The cost of putting one into this process, in steps of `Turns`.
STEPS = 96


class Taking:
    """Takes open connections from the process at the other end of a stream into a server.

    Args:
        server: the server.
        stream: leads there.
        sockets: closes them, and gives them to connections.

    Attributes:
        taken: how many have come.
        done: fires when no more come.
    """

    _log = Logger()

    def __init__(self, server: WebSocketServer, stream: HandStream, sockets: Sockets = SOCKETS) -> None:
        self._server = server
        self._sockets = sockets
        self._stream = stream
        self._noting = noting = Noting(server, takes=True)
        self._arrival = Arrival(server, noting.expectation, noting.journal)
        self._streams = StreamArrival(server, noting.expectation, self._arrival)
        self._work: deque[tuple[list[Any], list[int]]] = deque()
        self._isWorking = False
        self._hasEnded = False
        self._stops = False
        self._whenIdle: list[Deferred[None]] = []
        self.taken = 0
        self.done: Deferred[None] = Deferred()
        stream.received = self._received
        stream.ended = self._ended

    def stop(self) -> Deferred[None]:
        """Take no more, because all are asked to leave; return a Deferred that fires when all that were taken are here."""
        self._stops = True
        idle: Deferred[None] = Deferred()
        if self._isWorking:
            self._whenIdle.append(idle)
        else:
            idle.callback(None)
        return idle

    def _received(self, frame: list[Any], descriptors: list[int]) -> None:
        self._work.append((frame, descriptors))
        self._begin()

    def _ended(self) -> None:
        self._hasEnded = True
        self._begin()

    def _begin(self) -> None:
        if not self._isWorking:
            self._isWorking = True
            Deferred.fromCoroutine(self._do()).addErrback(self._failed)

    def _failed(self, failure: Any) -> None:
        self._log.failure("connections from another process were not taken over", failure, event="handover.broken")
        self._rest()
        self._end()

    def _rest(self) -> None:
        self._isWorking = False
        waiting, self._whenIdle = self._whenIdle, []
        for each in waiting:
            each.callback(None)

    async def _do(self) -> None:
        """Handle the frames, one after the other."""
        while self._work:
            (kind, *fields), descriptors = self._work.popleft()
            if kind == "hello":
                if fields[0] == VERSION:
                    await self._noting.begin()
                self._stream.send("hello", VERSION)
            elif kind == "expect":
                self._stream.send("ready", await self._noting.expectation.expect(fields[0]))
            elif kind == "noted":
                if isinstance(self._noting.journal, ForeignJournal):
                    self._noting.journal.others(fields[0])
            elif kind == "callers":
                await self._take(decode, self._arrival, fields, descriptors)
            elif kind == "streams":
                await self._take(decodeStream, self._streams, fields, descriptors)
        self._rest()
        if self._hasEnded:
            self._end()

    def _end(self) -> None:
        if not self.done.called:
            self._stream.close()
            self._arrival.settled().addCallback(lambda _: self._noting.end())
            self.done.callback(None)

    async def _take(self, decoder: Callable[[bytes], Any], arrival: Any, fields: Sequence[Any], sockets: Sequence[int]) -> None:
        """Take those that can go on here, and say which cannot; until that is said, the other process has all of them.

        Args:
            decoder: reads their states.
            arrival: lets them go on: an `Arrival`, or one like it.
            fields: the number of the batch, when it left (seconds of the machine's clock), and the states.
            sockets: theirs.
        """
        number, at, states = fields
        await self._noting.mark()
        found: list[tuple[Any, int]] = []
        refused: list[tuple[int, str]] = []
        for index, (packed, socket) in enumerate(zip(states, sockets, strict=True)):
            state = decoder(packed)
            why = STOPPING if self._stops else arrival.refusal(state)
            if why is None:
                found.append((state, socket))
            else:
                refused.append((index, why))
                self._sockets.close(socket)
        said: Deferred[None] = Deferred()
        self._stream.send("taken", number, refused, sent=partial(said.callback, None))
        await said
        # If that process has ended before it heard this, nobody else has them.
        turns = self._server.runtime.turns
        async for state, socket in turns.through(found, STEPS):
            self.taken += 1
            attach = partial(self._sockets.attach, runtime=self._server.runtime, socket=socket)
            with turns.counting(0):  # its service may take its time
                arrival.arrive(state, attach, time.monotonic() - at)
