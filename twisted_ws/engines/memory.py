"""The engine of one process, in its memory."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Hashable

from twisted.internet.defer import Deferred

from twisted_ws.engines.contract import Description, History
from twisted_ws.engines.names import SortedNames, isPattern
from twisted_ws.engines.replay import CHARGE, HistoryReplay
from twisted_ws.errors import ChannelError
from twisted_ws.limits import Limits
from twisted_ws.message import START, Message, Position, Publication, Published
from twisted_ws.wire.loop.wheel import Wheel

# Idempotency keys that are forgotten in one turn of the wheel: about two milliseconds.
FORGOTTEN_AT_ONCE = 4096


class ChannelLog:
    """One channel of the engine in memory: its last offset, and the messages that are kept.

    It is on the server's wheel while it has messages to forget, or is to be forgotten itself.

    Attributes:
        top: the offset of its last message.
        entries: in order and without gaps. A list: with a thousand messages, removing the first costs less than a deque weighs.
        bytes: what is charged for them.
        watched: whether somebody is subscribed.
        touched: when it last had a message or a subscriber (the reactor's seconds).
        maker: the address that it counts for until it has its first message; None: for none.
    """

    __slots__ = ("_engine", "bytes", "channel", "entries", "maker", "top", "touched", "watched", "wheelSlot")

    def __init__(self, engine: MemoryEngine, channel: str, top: int, now: float) -> None:
        self._engine = engine
        self.channel = channel
        self.top = top
        self.entries: list[Publication] = []
        self.bytes = 0
        self.watched = False
        self.touched = now
        self.maker: _Maker | None = None
        self.wheelSlot: int | None = None

    @property
    def oldest(self) -> int:
        """The offset of the first message that is kept, or of the next one."""
        return self.top - len(self.entries) + 1

    def deadlineReached(self, now: float) -> None:
        """Forget old messages, and then the channel."""
        self._engine.sweep(self, now)


class _Maker:
    """An address that has subscribed to channels that nobody has published to.

    Attributes:
        address: the address.
        count: how many such channels there are because of it.
        left: those without subscribers, in the order in which they were left: kept in case somebody comes back.
    """

    __slots__ = ("address", "count", "left")

    def __init__(self, address: Hashable) -> None:
        self.address = address
        self.count = 0
        self.left: OrderedDict[ChannelLog, None] = OrderedDict()


class _Receipt:
    """The answer to one publication with an idempotency key.

    Attributes:
        fingerprint: that of the message.
        due: when the answer may be forgotten.
    """

    __slots__ = ("_published", "_waiting", "due", "fingerprint")

    def __init__(self, fingerprint: bytes, due: float) -> None:
        self.fingerprint = fingerprint
        self.due = due
        self._published: Published | None = None
        self._waiting: tuple[Deferred[Published], ...] = ()

    def answer(self) -> Published | Deferred[Published]:
        """Return the answer, or a Deferred of it if it is not there yet."""
        if self._published is not None:
            return self._published
        later: Deferred[Published] = Deferred()
        self._waiting += (later,)
        return later

    def answered(self, published: Published) -> None:
        """Set the answer, and give it to everybody who waits for it."""
        self._published = published
        waiting, self._waiting = self._waiting, ()
        for each in waiting:
            each.callback(published)


class _Receipts:
    """The answers to publications with an idempotency key, for as long as they count; forgotten by the wheel.

    Forgetting is bounded: each new key removes a few that are too old, and the wheel some thousands at a time. One that is too
    old but still there does not count.
    """

    def __init__(self, wheel: Wheel, age: float, most: int) -> None:
        self._wheel = wheel
        self._age = age
        self._most = most
        # All live equally long: the first is the oldest. In a plain dict, finding the first steps over all that were removed.
        self._kept: OrderedDict[tuple[str, str], _Receipt] = OrderedDict()
        self.wheelSlot: int | None = None

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, channel: str, key: str, fingerprint: bytes, now: float) -> Published | Deferred[Published] | None:
        """Return the answer that was given, or will be; None for a new key.

        Raises:
            ChannelError: the key was used for another message, or there is no room for a new one.
        """
        self._forget(now, 2)
        found = self._kept.get((channel, key))
        if found is not None and found.due <= now:
            found = None
            del self._kept[channel, key]
        if found is None and len(self._kept) >= self._most:
            raise ChannelError("unavailable", "The server holds as many idempotency keys as it can: try later, or without one.")
        if found is not None and found.fingerprint != fingerprint:
            raise ChannelError("key-reused", "The idempotency key was already used for another message: nothing was published.")
        return None if found is None else found.answer()

    def keep(self, channel: str, key: str, fingerprint: bytes, now: float) -> _Receipt:
        """Keep a place for an answer."""
        receipt = self._kept[channel, key] = _Receipt(fingerprint, now + self._age)
        if self.wheelSlot is None:
            self._wheel.set(self, now + self._age)
        return receipt

    def deadlineReached(self, now: float) -> None:
        """Forget those that have expired, or as many as one turn has time for; called by the wheel."""
        due = self._forget(now, FORGOTTEN_AT_ONCE)
        if due is not None:
            self._wheel.set(self, due)

    def _forget(self, now: float, most: int) -> float | None:
        """Forget at most `most`; return when the next one is due."""
        kept = self._kept
        for _ in range(most):
            if not kept or next(iter(kept.values())).due > now:
                break
            kept.popitem(last=False)
        return next(iter(kept.values())).due if kept else None


class MemoryEngine:
    """The engine of one process, in its memory: it answers at once, and a restart begins a new epoch.

    A channel is forgotten when `Limits.historyAge` has passed since its last message and its last subscriber, or sooner if it
    never had a message and one address creates many (`Limits.channelsPerAddress`). A later channel of that name continues above
    the highest offset of all forgotten channels: no id stands for two messages, and a position in the old one is never taken
    for one in the new one, though both have the same epoch.

    Args:
        limits: `channels`, `channelsPerAddress`, those of history, those of idempotency.
        wheel: the server's.
        seconds: the reactor's clock.
        epoch: the name of this numbering; random by default.
    """

    def __init__(self, limits: Limits, wheel: Wheel, seconds: Callable[[], float], epoch: str | None = None) -> None:
        self.receive: Callable[[Publication], int | Deferred[int]] = lambda publication: 0
        self.epoch = epoch or secrets.token_hex(5)
        self.bytes = 0  # charged for what all channels keep
        self._limits = limits
        self._wheel = wheel
        self._seconds = seconds
        self._logs: dict[str, ChannelLog] = {}
        self._names = SortedNames()  # their names
        self._floor = 0  # the highest offset of all forgotten channels
        self._makers: dict[Hashable, _Maker] = {}
        self._receipts = _Receipts(wheel, limits.idempotencyAge, limits.idempotencyKeys)

    def __len__(self) -> int:
        return len(self._logs)

    def __contains__(self, channel: object) -> bool:
        return channel in self._logs

    def publish(
        self,
        channel: str,
        message: Message,
        key: str | None = None,
        idempotencyKey: str | None = None,
        fingerprint: bytes = b"",
    ) -> Published | Deferred[Published]:
        """Number a message, keep it, and pass it on (see `Engine`)."""
        now, receipt = self._seconds(), None
        if idempotencyKey is not None:
            known = self._receipts.find(channel, idempotencyKey, fingerprint, now)
            if known is not None:
                return known
        log = self._logs.get(channel) or self._create(channel, now)
        if log.maker is not None:
            self._disown(log, log.maker)
        log.top += 1
        log.touched = now
        publication = Publication(log.channel, self.epoch, log.top, message.kind, message.payload, key, now)
        self._keep(log, publication)
        if log.wheelSlot is None:
            self._wheel.set(log, now + self._limits.historyAge)
        if idempotencyKey is not None:
            # Before anybody gets it: a service may publish the same again in the middle of this.
            receipt = self._receipts.keep(channel, idempotencyKey, fingerprint, now)
        taken = self.receive(publication)

        def answer(recipients: int) -> Published:
            published = Published(publication.channel, f"{self.epoch}:{publication.offset}", recipients)
            if receipt is not None:
                receipt.answered(published)
            return published

        return answer(taken) if isinstance(taken, int) else taken.addCallback(answer)

    def watch(self, channel: str, after: Position | None, by: Hashable = None) -> History:
        """Return what is kept since `after`, and pass on everything from now on (see `Engine`)."""
        if isPattern(channel):
            return History(None, False, [])
        now = self._seconds()
        log = self._logs.get(channel) or self._create(channel, now, by)
        log.watched = True
        if log.maker is not None:
            log.maker.left.pop(log, None)
        return self._since(log, after, now)

    def unwatch(self, channel: str) -> None:
        """Note that there are no subscribers any more."""
        log = self._logs.get(channel)
        if log is not None:
            log.watched = False
            log.touched = self._seconds()
            if log.maker is not None:
                log.maker.left[log] = None
            if log.wheelSlot is None:
                self._wheel.set(log, log.touched + self._limits.historyAge)

    def history(self, channel: str, after: Position | None) -> History:
        """Return what is kept since `after` (see `Engine`)."""
        now = self._seconds()
        found = self._since(self._logs.get(channel) or ChannelLog(self, channel, self._floor, now), after, now)
        return found._replace(publications=[*found.publications])

    def forget(self, channel: str) -> int:
        """Drop what is kept (see `Engine`)."""
        log = self._logs.get(channel)
        if log is None:
            return 0
        count = len(log.entries)
        self._drop(log, count)
        return count

    def describe(self, channel: str) -> Description | None:
        """Return what is known of a channel (see `Engine`)."""
        log = self._logs.get(channel)
        if log is None:
            return None
        self._expire(log, self._seconds())
        oldest = log.entries[0].position if log.entries else None
        return Description(channel, Position(self.epoch, log.top), len(log.entries), log.bytes, oldest)

    def list(self, prefix: str, after: str, limit: int) -> list[Description]:
        """Return some channels by name (see `Engine`)."""
        found = map(self.describe, self._names.page(prefix, after, limit))
        return [described for described in found if described is not None]

    def sweep(self, log: ChannelLog, now: float) -> None:
        """Forget the old messages of a channel, and the channel if nobody needs it; called by the wheel."""
        self._expire(log, now)
        if log.entries:
            self._wheel.set(log, log.entries[0].at + self._limits.historyAge)
        elif not log.watched:
            due = log.touched + self._limits.historyAge
            if due > now:
                self._wheel.set(log, due)
            else:
                self._remove(log)

    def _remove(self, log: ChannelLog) -> None:
        if log.maker is not None:
            self._disown(log, log.maker)
        self._floor = max(self._floor, log.top)
        del self._logs[log.channel]
        self._names.remove(log.channel)
        self._wheel.drop(log)

    def _create(self, channel: str, now: float, by: Hashable = None) -> ChannelLog:
        maker = None if by is None else self._makers.get(by) or _Maker(by)
        if maker is not None and maker.count >= self._limits.channelsPerAddress:
            if not maker.left:
                raise ChannelError("too-many-channels", "This address has subscribed to too many channels without messages.")
            self._remove(next(iter(maker.left)))
        if len(self._logs) >= self._limits.channels:
            raise ChannelError("unavailable", "The server holds as many channels as it can.")
        log = self._logs[channel] = ChannelLog(self, channel, self._floor, now)
        if maker is not None:
            log.maker = self._makers[maker.address] = maker
            maker.count += 1
        self._names.add(channel)
        self._wheel.set(log, now + self._limits.historyAge)
        return log

    def _disown(self, log: ChannelLog, maker: _Maker) -> None:
        """Stop counting a channel for its maker."""
        log.maker = None
        maker.left.pop(log, None)
        maker.count -= 1
        if not maker.count:
            del self._makers[maker.address]

    def _since(self, log: ChannelLog, after: Position | None, now: float) -> History:
        self._expire(log, now)
        before = Position(self.epoch, log.oldest - 1)
        known = after is not None and after.isIn(self.epoch)
        if after is None or (known and after.offset > log.top):
            return History(Position(self.epoch, log.top), False, [])
        recovered = after == START
        if known and after.offset >= before.offset:
            before, recovered = Position(self.epoch, after.offset), True
        # With an older position, or one in another numbering, nothing of what is kept was seen.
        return History(before, recovered, HistoryReplay(log, before.offset + 1, log.top))

    def _keep(self, log: ChannelLog, publication: Publication) -> None:
        limits = self._limits
        size = _charge(publication)
        log.entries.append(publication)
        log.bytes += size
        self.bytes += size
        if len(log.entries) > limits.historyMessages or log.bytes > limits.historyBytes or self.bytes > limits.historyTotal:
            self._trim(log)

    def _trim(self, log: ChannelLog) -> None:
        limits, entries = self._limits, log.entries
        count = max(len(entries) - limits.historyMessages, 0)
        tooMuch = max(log.bytes - limits.historyBytes, self.bytes - limits.historyTotal)
        tooMuch -= sum([_charge(each) for each in entries[:count]])
        while tooMuch > 0 and count < len(entries):
            tooMuch -= _charge(entries[count])
            count += 1
        self._drop(log, count)

    def _expire(self, log: ChannelLog, now: float) -> None:
        entries, oldest = log.entries, now - self._limits.historyAge
        count = 0
        while count < len(entries) and entries[count].at <= oldest:
            count += 1
        if count:
            self._drop(log, count)

    def _drop(self, log: ChannelLog, count: int) -> None:
        """Forget the first `count` messages of a channel."""
        size = sum([_charge(each) for each in log.entries[:count]])
        del log.entries[:count]
        log.bytes -= size
        self.bytes -= size


def _charge(publication: Publication) -> int:
    return CHARGE + publication.size
