"""What a node remembers for the server: the last messages, in case the server forgets them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from twisted_ws.engines.redis.record import Unreadable, parseHead
from twisted_ws.engines.redis.server.contact import Offer
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
        while records[0][0] + AGE < now or self.bytes > MOST:
            self.bytes -= len(records.popleft()[2]) + CHARGE

    def offers(self, tops: Iterable[tuple[str, Position]], now: float) -> Iterator[Offer]:
        """Yield all that is remembered, for each channel in order; what is not asked for costs little.

        Args:
            tops: channels with their last positions, whatever is remembered of them.
            now: the time.
        """
        found: dict[str, list[bytes]] = {}
        for at, channel, record in self._records:
            if at >= now - AGE:
                if channel in found:
                    found[channel].append(record)
                else:
                    found[channel] = [record]
        for channel, position in tops:
            last = None
            for offer in _runs(channel, found.pop(channel, [])):
                last = offer.position
                yield offer
            if last is None or last < position:
                yield Offer(channel, position, [])
        for channel, records in found.items():
            yield from _runs(channel, records)


def _runs(channel: str, records: list[bytes]) -> Iterator[Offer]:
    """Yield the records of a channel in the order of its numbering, cut at gaps."""
    placed: dict[Position, bytes] = {}
    for record in records:
        try:
            placed[parseHead(record).position] = record
        except Unreadable:
            continue
    run: list[bytes] = []
    size = 0
    last: Position | None = None
    # Of two epochs, the later one is greater; and offsets go on in it.
    for place in sorted(placed):
        follows = last is not None and place.offset == last.offset + 1
        if run and last is not None and (not follows or len(run) >= RECORDS or size >= BYTES):
            yield Offer(channel, last, run)
            run, size = [], 0
        run.append(placed[place])
        size += len(placed[place])
        last = place
    if last is not None:
        yield Offer(channel, last, run)
