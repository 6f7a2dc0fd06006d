"""The engine of one process, in its memory."""

from __future__ import annotations

import gc
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.engines.contract import (
    Command,
    Description,
    EngineState,
    History,
    HistoryLimits,
    MaybeDeferred,
    Members,
    Node,
    NodeInfo,
    Revocation,
)
from twisted_ws.engines.expiring import Expiring
from twisted_ws.engines.members import MemberTable
from twisted_ws.engines.replay import CHARGE, HistoryReplay
from twisted_ws.engines.snapshot import Channel, Claim, Head, Here, Kept, Leaving, Receipt, Record, Revoked
from twisted_ws.engines.sortednames import SortedNames
from twisted_ws.errors import ChannelError
from twisted_ws.limits import Limits
from twisted_ws.message import START, Kind, Message, Position, Publication, Published
from twisted_ws.names import isPattern, patternsOf
from twisted_ws.wire.loop.wheel import Wheel

# Idempotency keys that are forgotten in one turn of the wheel: about two milliseconds.
FORGOTTEN_AT_ONCE = 4096
# Seconds that a stop waits for messages that are being passed on.
STOPPING = 5.0


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
        limits: what is kept of it.
    """

    __slots__ = ("_engine", "bytes", "channel", "entries", "limits", "maker", "top", "touched", "watched", "wheelSlot")

    def __init__(self, engine: MemoryEngine, channel: str, top: int, now: float, limits: HistoryLimits) -> None:
        self._engine = engine
        self.channel = channel
        self.top = top
        self.limits = limits
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
        offset: that of the message.
        due: when the answer may be forgotten.
    """

    __slots__ = ("_published", "_waiting", "due", "fingerprint", "offset")

    def __init__(self, fingerprint: bytes, offset: int, due: float) -> None:
        self.fingerprint = fingerprint
        self.offset = offset
        self.due = due
        self._published: Published | None = None
        self._waiting: tuple[Deferred[Published], ...] = ()

    @property
    def recipients(self) -> int:
        """How many the message went to; 0 while that is unknown."""
        return 0 if self._published is None else self._published.recipients

    def answer(self) -> Published | Deferred[Published]:
        """Return the answer, or a Deferred of it if it is not there yet."""
        if self._published is not None:
            return self._published
        later: Deferred[Published] = Deferred(self._cancelled)
        self._waiting += (later,)
        return later

    def _cancelled(self, later: Deferred[Published]) -> None:
        self._waiting = tuple([each for each in self._waiting if each is not later])

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

    def keep(self, channel: str, key: str, fingerprint: bytes, offset: int, now: float) -> _Receipt:
        """Keep a place for an answer."""
        return self._keepUntil(channel, key, fingerprint, offset, now + self._age)

    def freeze(self) -> Iterator[tuple[str, str, _Receipt]]:
        """Yield all with their channels and keys; from now on, none is forgotten by the wheel."""
        self._wheel.drop(self)
        return ((channel, key, receipt) for (channel, key), receipt in self._kept.items())

    def restore(self, channel: str, key: str, fingerprint: bytes, due: float, answer: Published, offset: int) -> None:
        """Keep an answer that an earlier process gave."""
        self._keepUntil(channel, key, fingerprint, offset, due).answered(answer)

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
        self._wheel.drop(self)

    def _keepUntil(self, channel: str, key: str, fingerprint: bytes, offset: int, due: float) -> _Receipt:
        receipt = self._kept[channel, key] = _Receipt(fingerprint, offset, due)
        if self.wheelSlot is None:
            self._wheel.set(self, due)
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


class _Ending:
    """A stop that waits for what is being passed on.

    Attributes:
        done: fires when all is, or when it took too long.
    """

    __slots__ = ("_endings", "_wheel", "done", "wheelSlot")

    def __init__(self, endings: set[_Ending], wheel: Wheel) -> None:
        self._endings = endings
        self._wheel = wheel
        self.done: Deferred[None] = Deferred(self._forget)
        self.wheelSlot: int | None = None
        endings.add(self)
        wheel.after(self, STOPPING)

    def deadlineReached(self, now: float) -> None:
        """Wait no longer; called by the wheel, and when nothing is being passed on."""
        self._forget(self.done)
        self.done.callback(None)

    def _forget(self, done: Deferred[None]) -> None:
        self._wheel.drop(self)
        self._endings.discard(self)


class MemoryEngine:
    """The engine of one process, in its memory: it answers at once, and a restart begins a new epoch.

    A channel is forgotten when its `HistoryLimits.age` has passed since its last message and its last subscriber, or sooner if it
    never had a message and one address creates many (`Limits.channelsPerAddress`). A later channel of that name continues above
    the highest offset of all forgotten channels: no id stands for two messages, and a position in the old one is never taken
    for one in the new one, though both have the same epoch.

    Args:
        limits: those of channels, history and idempotency, `presenceDelay`, `claims`, `revocations`.
        wheel: the server's.
        seconds: the reactor's clock.
        epoch: the name of this numbering; random by default.
        unixTime: the wall clock.
    """

    _log = Logger()

    def __init__(
        self,
        limits: Limits,
        wheel: Wheel,
        seconds: Callable[[], float],
        epoch: str | None = None,
        unixTime: Callable[[], float] = time.time,
    ) -> None:
        self.state = EngineState.DOWN
        self.isSlow = False
        self.epoch = epoch or secrets.token_hex(5)
        self.bytes = 0  # charged for what all channels keep
        self.messages = 0  # that all channels keep
        self._node: Node | None = None  # while it is started
        self._limits = limits
        self._usual = HistoryLimits(limits.historyMessages, limits.historyAge, limits.historyBytes)
        self._wheel = wheel
        self._seconds = seconds
        self._unixTime = unixTime
        self._isFrozen = False
        self._logs: dict[str, ChannelLog] = {}
        self._names = SortedNames()  # their names
        self._patterns: set[str] = set()  # those that are watched
        self._floor = 0  # the highest offset of all forgotten channels
        self._makers: dict[Hashable, _Maker] = {}
        self._receipts = _Receipts(wheel, limits.idempotencyAge, limits.idempotencyKeys)
        self._passing = 0  # messages that are being passed on in several turns
        self._endings: set[_Ending] = set()
        self._claims: Expiring[str, bool] = Expiring(
            wheel, unixTime, limits.claims, "The server holds as many tickets that were used as it can: try later."
        )
        self._revocations: Expiring[tuple[str | None, str | None], Revocation] = Expiring(
            wheel, unixTime, limits.revocations, "The server holds as many revocations as it can."
        )

    def __len__(self) -> int:
        return len(self._logs)

    def __contains__(self, channel: object) -> bool:
        return channel in self._logs

    @property
    def keys(self) -> int:
        """How many idempotency keys are kept."""
        return len(self._receipts)

    def start(self, node: Node) -> None:
        """Begin to work for a server (see `Engine`)."""
        self._node = node
        self._members = MemberTable(self._limits.presenceDelay, self._wheel, node.joined, node.left)
        self.state = EngineState.UP
        node.stateChanged(self.state)
        for revocation in self.revocations():
            node.revoked(revocation)

    def stop(self) -> Deferred[None] | None:
        """End, and wait for what is being passed on (see `Engine`)."""
        node, self._node = self._node, None
        if node is not None:
            self.state = EngineState.DOWN
            node.stateChanged(self.state)
        return _Ending(self._endings, self._wheel).done if self._passing else None

    def publish(
        self,
        channel: str,
        message: Message,
        key: str | None = None,
        idempotencyKey: str | None = None,
        fingerprint: bytes = b"",
        limits: HistoryLimits | None = None,
    ) -> Published | Deferred[Published]:
        """Number a message, keep it, and pass it on (see `Engine`)."""
        node = self._node or self._working()
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
        wanted = limits or self._usual
        if wanted is not log.limits:
            self._limit(log, wanted)
        self._keep(log, publication)
        if log.wheelSlot is None:
            self._wheel.set(log, now + log.limits.age)
        if idempotencyKey is not None:
            # Before anybody gets it: a service may publish the same again in the middle of this.
            receipt = self._receipts.keep(channel, idempotencyKey, fingerprint, log.top, now)
        taken = node.received(publication) if log.watched or (self._patterns and self._isWatched(channel)) else 0
        if not isinstance(taken, int):
            return self._answerLater(publication, taken, receipt)
        published = Published(publication.channel, f"{self.epoch}:{publication.offset}", taken)
        if receipt is not None:
            receipt.answered(published)
        return published

    def watch(self, channel: str, by: Hashable = None) -> Position | None:
        """Pass on everything from now on (see `Engine`)."""
        if self._node is None:
            raise _stopping()
        if isPattern(channel):
            self._patterns.add(channel)
            return None
        log = self._logs.get(channel) or self._create(channel, self._seconds(), by)
        log.watched = True
        if log.maker is not None:
            log.maker.left.pop(log, None)
        return Position(self.epoch, log.top)

    def unwatch(self, channel: str) -> None:
        """Note that there are no subscribers any more."""
        if isPattern(channel):
            self._patterns.discard(channel)
            return
        log = self._logs.get(channel)
        if log is not None:
            log.watched = False
            log.touched = self._seconds()
            if log.maker is not None:
                log.maker.left[log] = None
            if log.wheelSlot is None:
                self._wheel.set(log, log.touched + log.limits.age)

    def since(self, channel: str, after: Position | None, limit: int | None = None) -> History:
        """Return what is kept since `after` (see `Engine`)."""
        if self._node is None:
            raise _stopping()
        log = self._logs.get(channel)
        if after is None:
            return History(Position(self.epoch, self._floor if log is None else log.top), False, [])
        now = self._seconds()
        if log is None:
            log = ChannelLog(self, channel, self._floor, now, self._usual)
        self._expire(log, now)
        # With an older position, or one in another numbering, nothing of what is kept was seen.
        before, recovered = log.top - len(log.entries), after == START
        if after.isIn(self.epoch):
            if after.offset > log.top:
                return History(Position(self.epoch, log.top), False, [])
            if after.offset >= before:
                before, recovered = after.offset, True
        end = log.top if limit is None else min(log.top, before + limit)
        return History(Position(self.epoch, before), recovered, HistoryReplay(log, before + 1, end))

    def forget(self, channel: str) -> int:
        """Drop what is kept (see `Engine`)."""
        self._working()
        log = self._logs.get(channel)
        if log is None:
            return 0
        self._expire(log, self._seconds())
        count = len(log.entries)
        self._drop(log, count)
        return count

    def describe(self, channel: str) -> Description | None:
        """Return what is known of a channel (see `Engine`)."""
        node = self._working()
        log = self._logs.get(channel)
        if log is None:
            return None
        self._expire(log, self._seconds())
        oldest = log.entries[0].position if log.entries else None
        position = Position(self.epoch, log.top)
        return Description(channel, position, len(log.entries), log.bytes, oldest, node.subscribers(channel))

    def broadcast(self, message: Message) -> MaybeDeferred[int]:
        """Send a message to all callers (see `Engine`)."""
        return (self._node or self._working()).broadcasted(message)

    def enter(self, channel: str, connection: str, user: str, info: bytes) -> None:
        """Note that a connection of a user is on a channel (see `Engine`)."""
        self._members.enter(channel, connection, user, info)

    def leave(self, channel: str, connection: str, delay: float | None = None) -> None:
        """Note that it no longer is (see `Engine`)."""
        self._members.leave(channel, connection, delay)

    def members(self, channel: str, after: str, limit: int, size: int) -> Members:
        """Return some users on a channel (see `Engine`)."""
        node = self._working()
        return Members(*self._members.page(channel, after, limit, size), node.subscribers(channel))

    def command(self, command: Command) -> MaybeDeferred[int]:
        """Have the server obey a command (see `Engine`)."""
        return self._working().obey(command)

    def nodes(self) -> list[NodeInfo]:
        """Return what the server says of itself (see `Engine`)."""
        return [self._working().info()]

    def claim(self, key: str, until: float) -> bool:
        """Return True for the first that claims a key (see `Engine`); never when `until` has passed."""
        self._working()
        if self._claims.get(key):
            return False
        self._claims.put(key, until, True)
        return self._claims.get(key) is not None

    def revoke(self, revocation: Revocation) -> None:
        """Tell the server what is no longer accepted, and keep it (see `Engine`)."""
        node, which = self._working(), (revocation.token, revocation.user)
        kept = self._revocations.get(which)
        if kept is None:
            self._revocations.put(which, revocation.until, revocation)
        else:
            issuedBefore, until = max(kept.issuedBefore, revocation.issuedBefore), max(kept.until, revocation.until)
            self._revocations.put(which, until, Revocation(*which, issuedBefore, until))
        node.revoked(revocation)

    def revocations(self) -> Iterator[Revocation]:
        """Yield what is no longer accepted, for a node that comes late."""
        return (revocation for _, _, revocation in self._revocations.items())

    def ask(self, kind: str, payload: bytes) -> MaybeDeferred[list[bytes]]:
        """Return what the server answers (see `Engine`)."""
        answer = self._working().answer(kind, payload)
        return answer.addCallback(lambda answered: [answered]) if isinstance(answer, Deferred) else [answer]

    # For a later process.

    def records(self) -> Iterator[Record]:
        """Yield all that is kept; from the first on nothing is forgotten any more, and nothing may be published until `thaw`."""
        self._isFrozen = True
        receipts, claims, revocations = self._receipts.freeze(), self._claims.freeze(), self._revocations.freeze()
        now, ahead = self._seconds(), self._unixTime() - self._seconds()
        yield Head(self.epoch, self._floor, now + ahead)
        for log in self._logs.values():
            self._expire(log, now)
            limits = None if log.limits is self._usual else log.limits
            yield Channel(log.channel, log.top, len(log.entries), (now if log.watched else log.touched) + ahead, limits)
            for each in log.entries:
                yield Kept(each.kind.value, each.payload, each.key, each.at + ahead)
        for channel, key, receipt in receipts:
            yield Receipt(channel, key, receipt.fingerprint, receipt.offset, receipt.recipients, receipt.due + ahead)
        for claimed, until, _ in claims:
            yield Claim(claimed, until)
        for _, _, revoked in revocations:
            yield Revoked(revoked.token, revoked.user, revoked.issuedBefore, revoked.until)

    def thaw(self) -> None:
        """Go on forgetting, after `records` of an engine that has not stopped."""
        self._isFrozen = False
        for each in (self._receipts, self._claims, self._revocations):
            each.deadlineReached(self._wheel.now)
        for log in self._logs.values():
            if log.wheelSlot is None:
                self._wheel.set(log, (log.entries[0].at if log.entries else log.touched) + log.limits.age)

    def presence(self) -> Iterator[Here | Leaving]:
        """Yield who is here, as told by nobody in particular, and who is about to have left, for a process that takes over."""
        for channel, connection, user, info in self._members.places():
            yield Here(-1, channel, connection, user, info)
        for channel, user, info, leftAt, wait in self._members.leaves():
            yield Leaving(channel, user, info, self._wheel.seconds() - leftAt, wait)

    def restorePresence(self, record: Here | Leaving) -> None:
        """Know what `presence` has yielded in another process; nobody is told."""
        if isinstance(record, Here):
            self._members.restore(record.channel, record.connection, record.user, record.info)
        else:
            leftAt = self._wheel.seconds() - record.ago
            self._members.restoreLeave(record.channel, record.user, record.info, leftAt, record.wait)

    def restore(self, records: Iterable[Record]) -> None:
        """Go on with what an earlier process kept, in its epoch; what has expired meanwhile is left out.

        If this raises, nothing is kept, and the epoch is a new one.

        Args:
            records: what `records` yielded there. Nothing has happened in this engine yet.
        """
        collects = gc.isenabled()
        gc.disable()  # nothing of this is garbage, and there may be a million messages
        try:
            self._restore(iter(records))
        except BaseException:
            self._clear()
            raise
        finally:
            if collects:
                gc.enable()

    def _restore(self, records: Iterator[Record]) -> None:
        now, ahead = self._seconds(), self._unixTime() - self._seconds()
        head = next(records, None)
        if not isinstance(head, Head):
            raise ValueError("no head")
        self.epoch, self._floor = head.epoch, head.floor
        for each in records:
            match each:
                case Channel():
                    self._restoreChannel(each, records, now, ahead)
                case Receipt():
                    answer = Published(each.channel, f"{self.epoch}:{each.offset}", each.recipients)
                    due = min(each.due - ahead, now + self._limits.idempotencyAge)
                    if due > now:
                        self._receipts.restore(each.channel, each.key, each.fingerprint, due, answer, each.offset)
                case Claim():
                    self._claims.restore(each.key, each.until, True)
                case Revoked():
                    revocation = Revocation(each.token, each.user, each.issuedBefore, each.until)
                    self._revocations.restore((each.token, each.user), each.until, revocation)
                    if self._node is not None and each.until > now + ahead:
                        self._node.revoked(revocation)
                case _:
                    raise ValueError("a record in the wrong place")

    def _restoreChannel(self, channel: Channel, records: Iterator[Record], now: float, ahead: float) -> None:
        limits = self._usual if channel.limits is None else HistoryLimits(*channel.limits)
        log = ChannelLog(self, channel.name, channel.top, min(channel.touched - ahead, now), limits)
        for offset in range(channel.top - channel.messages + 1, channel.top + 1):
            each = next(records, None)
            if not isinstance(each, Kept):
                raise ValueError("no message")
            at = min(each.at - ahead, now)  # not in the future, though the clock was set
            publication = Publication(log.channel, self.epoch, offset, Kind(each.kind), each.payload, each.key, at)
            log.entries.append(publication)
            log.bytes += _charge(publication)
            self.bytes += _charge(publication)
            self.messages += 1
        self._expire(log, now)
        if len(log.entries) > limits.messages or log.bytes > limits.bytes or self.bytes > self._limits.historyTotal:
            self._trim(log)
        due = (log.entries[0].at if log.entries else log.touched) + limits.age
        if due <= now:
            self._floor = max(self._floor, log.top)
            return
        self._logs[log.channel] = log
        self._names.add(log.channel)
        self._wheel.set(log, due)

    def _clear(self) -> None:
        for log in self._logs.values():
            self._wheel.drop(log)
        self._logs, self._names, self.bytes, self._floor = {}, SortedNames(), 0, 0
        self.messages = 0
        self.epoch = secrets.token_hex(5)
        for each in (self._receipts, self._claims, self._revocations):
            each.clear()

    def _working(self) -> Node:
        if self._node is None:
            raise _stopping()
        return self._node

    def _isWatched(self, channel: str) -> bool:
        """Return whether a pattern that is watched matches a channel."""
        return any(pattern in self._patterns for pattern in patternsOf(channel))

    def _answerLater(self, publication: Publication, taking: Deferred[int], receipt: _Receipt | None) -> Deferred[Published]:
        """Return the answer to a publisher when the server has passed the message on, which whoever cancels this does not end."""
        later: Deferred[Published] = Deferred(lambda later: None)
        self._passing += 1

        def failed(failure: Failure) -> int:
            self._log.failure("passing on a message failed inside the server", failure, event="channel.failed")
            return 0

        def answer(recipients: int) -> None:
            published = Published(publication.channel, f"{self.epoch}:{publication.offset}", recipients)
            self._passing -= 1
            if receipt is not None:
                receipt.answered(published)
            if not later.called:
                later.callback(published)
            if not self._passing:
                for each in tuple(self._endings):
                    each.deadlineReached(0)

        taking.addErrback(failed).addCallback(answer)
        return later

    def list(self, prefix: str, after: str, limit: int) -> list[Description]:
        """Return some channels by name (see `Engine`)."""
        found = map(self.describe, self._names.page(prefix, after, limit))
        return [described for described in found if described is not None]

    def sweep(self, log: ChannelLog, now: float) -> None:
        """Forget the old messages of a channel, and the channel if nobody needs it; called by the wheel."""
        if self._isFrozen:
            return
        self._expire(log, now)
        if log.entries:
            self._wheel.set(log, log.entries[0].at + log.limits.age)
        elif not log.watched:
            due = log.touched + log.limits.age
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
        log = self._logs[channel] = ChannelLog(self, channel, self._floor, now, self._usual)
        if maker is not None:
            log.maker = self._makers[maker.address] = maker
            maker.count += 1
        self._names.add(channel)
        self._wheel.set(log, now + self._usual.age)
        return log

    def _disown(self, log: ChannelLog, maker: _Maker) -> None:
        """Stop counting a channel for its maker."""
        log.maker = None
        maker.left.pop(log, None)
        maker.count -= 1
        if not maker.count:
            del self._makers[maker.address]

    def _limit(self, log: ChannelLog, limits: HistoryLimits) -> None:
        """Set other limits for a channel."""
        isOther, log.limits = limits != log.limits, limits
        if isOther:
            self._wheel.set(log, (log.entries[0].at if log.entries else log.touched) + limits.age)

    def _keep(self, log: ChannelLog, publication: Publication) -> None:
        limits, entries = log.limits, log.entries
        size = CHARGE + publication.size
        entries.append(publication)
        if len(entries) > limits.messages:  # of a busy channel always: one comes, and one goes
            size -= CHARGE + entries.pop(0).size
        else:
            self.messages += 1
        log.bytes += size
        self.bytes += size
        if len(entries) > limits.messages or log.bytes > limits.bytes or self.bytes > self._limits.historyTotal:
            self._trim(log)

    def _trim(self, log: ChannelLog) -> None:
        limits, entries = log.limits, log.entries
        count = max(len(entries) - limits.messages, 0)
        tooMuch = max(log.bytes - limits.bytes, self.bytes - self._limits.historyTotal)
        tooMuch -= sum([_charge(each) for each in entries[:count]])
        while tooMuch > 0 and count < len(entries):
            tooMuch -= _charge(entries[count])
            count += 1
        self._drop(log, count)

    def _expire(self, log: ChannelLog, now: float) -> None:
        entries, oldest = log.entries, now - log.limits.age
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
        self.messages -= count


def _stopping() -> ChannelError:
    return ChannelError("unavailable", "The server is stopping.")


def _charge(publication: Publication) -> int:
    return CHARGE + publication.size
