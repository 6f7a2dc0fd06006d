"""What is kept of a channel, read in as many pages as it takes."""

from __future__ import annotations

from typing import Any, Protocol

import hiredis

from twisted_ws.engines.contract import History
from twisted_ws.engines.redis.record import Unreadable, decodeRecord, parseHead
from twisted_ws.engines.redis.server.keys import Keys
from twisted_ws.engines.redis.server.link import Link
from twisted_ws.engines.redis.server.operations import Operation
from twisted_ws.engines.redis.server.requests import Requests
from twisted_ws.engines.redis.server.scripts import REMEMBERED_LEAST, SINCE
from twisted_ws.message import Position

# Bytes in one answer of the server; the rest comes with the next one.
PAGE = 1024 * 1024
# Milliseconds for which a position of a channel that does not exist is good: it cannot have begun and been forgotten meanwhile,
# because every channel is remembered for longer.
UNBORN = REMEMBERED_LEAST


class Reader(Protocol):
    """What a reading asks of its engine.

    Attributes:
        keys: the names of keys.
        largest: bytes of the largest record.
    """

    keys: Keys
    largest: int

    def now(self) -> float:
        """Return the time."""

    def unreadable(self, channel: str, error: Unreadable) -> None:
        """Learn of a record that cannot be read."""


class Reading(Operation):
    """The question of what follows a position.

    Behind a closed gate nobody answers it: a server that has forgotten would, before it was given back what it had.

    Args:
        requests: the way to the server.
        engine: the engine.
        channel: the channel.
        after: the position.
        limit: how many publications at most; None: all.
    """

    isGated = True

    __slots__ = ("_after", "_answer", "_channel", "_engine", "_found", "_known", "_left", "_requests")

    def __init__(self, requests: Requests, engine: Reader, channel: str, after: Position, limit: int | None) -> None:
        super().__init__(requests, engine.now())
        self._requests = requests
        self._engine = engine
        self._channel = channel
        self._after = after
        self._left = 2**31 if limit is None else limit
        self._found: list[Any] = []
        self._known = True
        self._answer: History | None = None

    def pack(self, link: Link) -> bytes:
        """Return the command for the next page."""
        keys, after = self._engine.keys, self._after
        epoch = after.epoch
        places = keys.open, keys.of(b"m:", self._channel), keys.of(b"s:", self._channel)
        asked = epoch, after.offset, self._left, PAGE, self._engine.largest, int(self._known), UNBORN
        command = (b"EVALSHA", SINCE.sha, 3, *places, link.gen, *asked)
        packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]
        return packed

    def done(self, reply: list[Any]) -> None:
        """Take a page."""
        if self.isOver:
            return
        if reply[0] == b"none":
            self.finish(self._answer or History(Position(reply[1].decode("ascii"), 0), bool(reply[2]), []))
            return
        if reply[0] == b"which":
            self._name(reply)
            return
        _, recovered, epoch, offset, more, *records = reply
        position = Position(epoch.decode("ascii"), int(offset))
        if self._answer is None:
            self._answer = History(position, bool(recovered), self._found)
        elif not recovered:
            more, records = 0, []  # the history is already shorter: whoever asks sees that when it asks for the rest
        now = self._engine.now()
        for number, record in enumerate(records):
            try:
                self._found.append(decodeRecord(record).publication(self._channel, now))
            except Unreadable as error:
                self._engine.unreadable(self._channel, error)
                if self._found:
                    more = 0
                    break
                # It is lost; what follows begins after it.
                self._answer = History(self._positionOf(record, int(offset) + number + 1), False, self._found)
        self._left -= len(records)
        if more and self._left > 0 and self._found:
            self._after = self._found[-1].position
            self._requests.submit(self)
        else:
            self.finish(self._answer)

    def _positionOf(self, record: bytes, offset: int) -> Position:
        try:
            return parseHead(record).position
        except Unreadable:
            assert self._answer is not None
            return Position(self._answer.position.epoch, offset)

    def _name(self, reply: list[Any]) -> None:
        """Find the epoch that a cursor means, and ask again."""
        _, top, boundaries = reply
        epochs = [top, *[each.partition(b":")[0] for each in boundaries.split()]]
        self._known = False
        for each in epochs:
            epoch = each.decode("ascii")
            if self._after.isIn(epoch):
                self._after = Position(epoch, self._after.offset)
        self._requests.submit(self)
