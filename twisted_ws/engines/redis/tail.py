"""What a node remembers for the server: the last messages, in case the server forgets them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from twisted_ws.engines.redis.record import Unreadable, parseLine
from twisted_ws.message import Position

# Seconds: longer than a failover takes, and than the second between two writes of an append-only file.
AGE = 30.0
# Bytes of all channels.
MOST = 16 * 1024 * 1024
# Charged for each record on top of its size.
CHARGE = 200
# Records in one offer, and their bytes: the server does nothing else meanwhile.
RECORDS = 100
BYTES = 1024 * 1024


class Offer(NamedTuple):
    """A part of a channel that a server may have forgotten.

    Attributes:
        channel: the channel.
        position: that of its last record, or where the channel was.
        records: in order and without gaps.
    """

    channel: str
    position: Position
    records: list[bytes]


class Tail:
    """The last records of all channels that were received here, or published from here and acknowledged."""

    def __init__(self) -> None:
        self._records: deque[tuple[float, str, bytes]] = deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._records)

    def add(self, channel: str, record: bytes, now: float) -> None:
        """Remember a record, and forget those that are too old or too many."""
        records = self._records
        records.append((now, channel, record))
        self.bytes += len(record) + CHARGE
        oldest = now - AGE
        while records[0][0] < oldest or self.bytes > MOST:
            self.bytes -= len(records.popleft()[2]) + CHARGE

    def offers(self, tops: dict[str, Position], now: float) -> Iterator[Offer]:
        """Yield all that is remembered, for each channel in order.

        Args:
            tops: the last positions of channels, whatever is remembered of them.
            now: the time.
        """
        found: dict[str, dict[tuple[str, int], bytes]] = {}
        for at, channel, record in self._records:
            if at >= now - AGE:
                try:
                    line = parseLine(record[: record.find(b"\n")])
                except Unreadable:
                    continue
                if channel not in found:
                    found[channel] = {}
                found[channel][line.position] = record
        for channel, records in found.items():
            yield from _runs(channel, records)
        for channel, position in tops.items():
            if channel not in found or position not in found[channel]:
                yield Offer(channel, position, [])


def _runs(channel: str, records: dict[tuple[str, int], bytes]) -> Iterator[Offer]:
    """Yield the records of a channel in the order of its numbering, cut at gaps."""
    run: list[bytes] = []
    size = 0
    last: tuple[str, int] | None = None
    # Of two epochs, the later one is greater; and offsets go on in it.
    for place in sorted(records):
        follows = last is not None and place[1] == last[1] + 1
        if run and last is not None and (not follows or len(run) >= RECORDS or size >= BYTES):
            yield Offer(channel, Position(*last), run)
            run, size = [], 0
        run.append(records[place])
        size += len(records[place])
        last = place
    if last is not None:
        yield Offer(channel, Position(*last), run)
