"""The order of one channel's publications, for an engine that answers later: none twice, none missing, none too early."""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from twisted_ws.engines.contract import Engine, History, MaybeDeferred
from twisted_ws.errors import ChannelError
from twisted_ws.message import Position, Publication
from twisted_ws.telemetry.counts import Counts

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from twisted_ws.channels.presence import AnswerBudget
    from twisted_ws.channels.subscribers.subscriber import Subscriber

_log = Logger()

# How often the engine is asked for something that it has shown to exist, before the feed goes on without it.
ATTEMPTS = 3
# How many earlier epochs of its channel a feed knows: each is a restart of what the engine works with.
FORMER = 4
# Publications that a feed holds and asks for at once, at least, where fewer are kept (`Limits.historyMessages`).
LEAST = 100


class FeedOwner(Protocol):
    """What a feed asks of `Channels`."""

    counts: Counts

    def passOn(self, publication: Publication, heard: bool = False, /) -> MaybeDeferred[int]:
        """Send a publication to the subscribers that are here; if it was `heard`, not to those that have a pattern."""

    def tellLost(self, channel: str, position: Position, /) -> None:
        """Tell the subscribers of a channel that something before `position` cannot be had."""


class _State(Enum):
    WATCHING = "the engine has not answered `watch`"
    LIVE = "what comes is passed on"
    FILLING = "something is missing: what comes is held"
    CLOSED = "nobody is subscribed any more"


# A name of its own for each: Python 3.11 makes an object for each look-up of a member on its class.
_WATCHING, _LIVE, _FILLING, _CLOSED = _State


class Joining:
    """A subscription that waits for the engine's answer.

    Attributes:
        subscriber, channel: whose, and to what.
        room: what presence may take of the answer; None if it was not asked for.
        held: what was passed on to others since this began; the newest, if that is very much.
        isCut: whether there was more.
        lost: the position before which something cannot be had, as others were told; None if there is no such.
        asked: the last answer of the engine that it waits for; cancelled if the subscription is.
    """

    __slots__ = ("asked", "channel", "held", "isCut", "lost", "room", "subscriber")

    def __init__(self, subscriber: Subscriber, channel: str, room: AnswerBudget | None) -> None:
        self.subscriber = subscriber
        self.channel = channel
        self.room = room
        self.held: deque[Publication] = deque()
        self.isCut = False
        self.lost: Position | None = None
        self.asked: Deferred[Any] | None = None

    def clear(self, lost: Position | None = None) -> None:
        """Forget what is held, because it precedes the subscription or what is `lost`."""
        self.held.clear()
        self.isCut = False
        self.lost = lost


class _Heard:
    """Positions of one channel that some have got already, as runs: they come in order, or nearly so.

    Args:
        most: how many runs are kept; what begins another one is forgotten.
    """

    __slots__ = ("_most", "_runs")

    def __init__(self, most: int) -> None:
        self._most = most
        self._runs: list[tuple[str, int, int]] = []  # epoch, first and last offset

    def __bool__(self) -> bool:
        return bool(self._runs)

    def __contains__(self, position: Position) -> bool:
        return any(epoch == position.epoch and first <= position.offset <= last for epoch, first, last in self._runs)

    def add(self, position: Position) -> None:
        """Note a position."""
        if self._runs:
            epoch, first, last = self._runs[-1]
            if position == (epoch, last + 1):
                self._runs[-1] = epoch, first, position.offset
                return
        if len(self._runs) < self._most:
            self._runs.append((position.epoch, position.offset, position.offset))

    def passed(self, position: Position) -> None:
        """Forget the run that ends here: everything in it has reached the others, too."""
        self._runs = [each for each in self._runs if (each[0], each[2]) != position]


class Feed:
    """One watched channel or pattern.

    Publications are passed on in the order of their offsets. What has a gap before it, or another epoch than the one before it,
    is held until the engine has said what is missing.

    Args:
        channel: the name.
        engine: the engine.
        owner: the channels.
        most: how many publications are held, and asked for at once; `LEAST` if it is less.

    Attributes:
        channel: the name.
        last: the position of the last publication that was passed on; None for a pattern, or while the engine has not answered.
        joining: the subscriptions that wait, by subscriber.
    """

    __slots__ = (
        "_engine",
        "_failure",
        "_former",
        "_heard",
        "_held",
        "_isFilling",
        "_isMissing",
        "_most",
        "_owner",
        "_state",
        "_waiting",
        "channel",
        "joining",
        "last",
    )

    def __init__(self, channel: str, engine: Engine, owner: FeedOwner, most: int) -> None:
        self.channel = channel
        self.last: Position | None = None
        self.joining: dict[Subscriber, Joining] = {}
        self._engine = engine
        self._owner = owner
        self._most = max(most, LEAST)
        self._state = _WATCHING
        self._held: deque[tuple[Publication, Deferred[int]]] = deque()
        # Those of them that came before the engine's answer, and that those who have a pattern have got.
        self._heard = _Heard(self._most)
        self._isMissing = False  # whether the engine has to be asked
        self._isFilling = False  # whether `_fill` runs
        self._former: tuple[Position, ...] = ()  # where earlier epochs have ended here
        self._waiting: list[Deferred[None]] = []
        self._failure: Failure | None = None

    # What the engine says.

    def watched(self, position: Position | None) -> None:
        """Begin: the engine has answered `watch`."""
        if self._state is _WATCHING:
            self.last = position
            self._catchUp()

    def failed(self, failure: Failure) -> None:
        """End, because the engine has refused."""
        self._failure = failure
        self.close()

    def received(self, publication: Publication) -> MaybeDeferred[int]:
        """Pass a publication on, hold it, or drop it because it was passed on already."""
        if self._state is _LIVE:
            if self._isNext(publication):
                return self._passOn(publication)
            if self._isPast(publication.position):
                return 0
            self._isMissing = True
            answer = self._hold(publication)
            self._catchUp()
            return answer
        if self._state is _FILLING:
            return self._hold(publication)
        count = self._owner.passOn(publication)  # to those that have a pattern: nobody is subscribed to the channel itself
        if self._state is _CLOSED:
            return count
        if count != 0:
            self._heard.add(publication.position)
        return _sum(count, self._hold(publication))

    def refill(self) -> None:
        """Ask for what may be missing, because the engine was away."""
        if self.last is not None and self._state is not _CLOSED:
            self._isMissing = True
            self._catchUp()

    def goOn(self) -> None:
        """Ask again, if the engine could not answer."""
        if self._state is _FILLING:
            self._catchUp()

    def lost(self, position: Position) -> None:
        """Go on from a position, without what precedes it; do nothing if it was passed already."""
        last = self.last
        if last is not None and self._state is not _CLOSED and (last.epoch != position.epoch or last.offset <= position.offset):
            self._move(position)
            for joining in self.joining.values():
                joining.clear(position)
            self._owner.tellLost(self.channel, position)

    # What subscriptions ask.

    @property
    def isClosed(self) -> bool:
        """Whether nobody was subscribed any more, or the engine has refused."""
        return self._state is _CLOSED

    @property
    def isHolding(self) -> bool:
        """Whether something has come that was not passed on."""
        return bool(self._held)

    async def reach(self, position: Position | None) -> None:
        """Return when everything up to a position was passed on, or the engine does not have it after all.

        Args:
            position: the position; None: as soon as the engine has answered `watch`.

        Raises:
            ChannelError: the engine has refused to watch the channel.
        """
        attempts = ATTEMPTS
        while self._state is not _CLOSED:
            if self._state is not _WATCHING and (position is None or self._isPast(position)):
                return
            if self._state is _LIVE:
                if not attempts:
                    return
                attempts -= 1
                self._isMissing = True
                self._catchUp()
            else:
                waiter: Deferred[None] = Deferred()
                self._waiting.append(waiter)
                await waiter
        if self._failure is not None:
            self._failure.raiseException()

    def complete(self, joining: Joining, history: History) -> History:
        """Return a history that was reached with what was passed on since, up to now.

        Raises:
            ChannelError: there was too much to hold.
        """
        past, passed, lost = [*history.publications], [*joining.held], joining.lost
        if lost is None:
            while past and self._isForgotten(past[-1].position):
                past.pop()  # it has been numbered again since, or will be
        last = past[-1].position if past else history.position
        if lost is None or (lost.epoch == last.epoch and lost.offset <= last.offset):
            found = self._after(passed, last)
            isWhole = not joining.isCut or len(found) < len(passed)
            answer = history._replace(publications=past + found)
        else:
            # What precedes the loss is left out: whoever is told of one may take what follows for whole.
            isWhole, answer = not joining.isCut, History(lost, False, passed)
        if not isWhole:
            raise ChannelError("unavailable", "The channel's history took too long to arrive.")
        return answer

    def _after(self, passed: list[Publication], last: Position) -> list[Publication]:
        for index, each in enumerate(passed):
            if each.epoch == last.epoch and each.offset > last.offset:
                return passed[index:]
        known = [index for index, each in enumerate(passed) if each.epoch == last.epoch]
        if known:
            return passed[known[-1] + 1 :]
        return passed if self._end(last.epoch) is not None else []

    def _end(self, epoch: str) -> Position | None:
        """Return where an earlier epoch has ended."""
        for each in self._former:
            if each.epoch == epoch:
                return each
        return None

    def _isForgotten(self, position: Position) -> bool:
        """Return whether the engine has had a message in an earlier epoch, and has lost it before this feed had it."""
        end = self._end(position.epoch)
        return end is not None and position.offset > end.offset

    def close(self) -> None:
        """End: nobody is subscribed any more."""
        self._state = _CLOSED
        held, self._held = self._held, deque()
        for publication, taken in held:  # those that have a pattern still are
            isPast = publication.position in self._heard or self._isPast(publication.position)
            count = 0 if isPast else self._owner.passOn(publication)
            if isinstance(count, Deferred):
                count.chainDeferred(taken)
            else:
                taken.callback(count)
        self._wake()

    def _isNext(self, publication: Publication) -> bool:
        last = self.last
        return last is None or (publication.offset == last.offset + 1 and publication.epoch == last.epoch)

    def _isPast(self, position: Position) -> bool:
        last = self.last
        if last is None or (self._former and self._end(position.epoch) is not None):
            return True
        return position.epoch == last.epoch and position.offset <= last.offset

    def _hold(self, publication: Publication) -> MaybeDeferred[int]:
        if len(self._held) >= self._most:
            self._isMissing = True
            return 0
        taken: Deferred[int] = Deferred()
        self._held.append((publication, taken))
        return taken

    def _move(self, position: Position) -> None:
        if self.last is not None and position.epoch != self.last.epoch:
            self._former = (self.last, *self._former)[:FORMER]
        self.last = position

    def _passOn(self, publication: Publication) -> MaybeDeferred[int]:
        if self.last is not None:
            self._move(publication.position)
        for joining in self.joining.values():
            if len(joining.held) >= self._most:
                joining.held.popleft()
                joining.isCut = True
            joining.held.append(publication)
        return self._sent(publication)

    def _sent(self, publication: Publication) -> MaybeDeferred[int]:
        if self._heard and publication.position in self._heard:
            self._heard.passed(publication.position)
            return self._owner.passOn(publication, True)
        return self._owner.passOn(publication)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    # Catching up.

    def _catchUp(self) -> None:
        self._state = _FILLING
        if not self._isFilling:
            self._isFilling = True
            Deferred.fromCoroutine(self._fill()).addErrback(self._broken)

    def _broken(self, failure: Failure) -> None:
        _log.failure("the feed of a channel failed inside the server", failure, event="channel.failed")

    async def _fill(self) -> None:
        """Pass on what is missing and what is held, in order."""
        attempts = 0
        try:
            while self._state is _FILLING:
                before = self.last
                if self._isMissing:
                    self._isMissing = False
                    attempts += 1
                    await self._askForMissing()
                await self._passOnHeld()
                if self.last != before:
                    attempts = 0
                elif self._held and attempts >= ATTEMPTS:
                    first = self._held[0][0]
                    self._isMissing = False
                    self.lost(Position(first.epoch, first.offset - 1))
                    await self._passOnHeld()
                if not self._held and not self._isMissing and self._state is _FILLING:
                    self._state = _LIVE
        except ChannelError:
            self._isMissing = True  # the engine is away: `refill` comes when it is back
        finally:
            self._isFilling = False
            self._wake()

    async def _askForMissing(self) -> None:
        """Pass on what follows the last publication, one page of it."""
        if self.last is None:
            return
        self._owner.counts.refills += 1
        answer = self._engine.since(self.channel, self.last, self._most)
        history = await answer if isinstance(answer, Deferred) else answer
        if self._state is not _FILLING:
            return
        publications = [*history.publications]
        self._isMissing |= len(publications) >= self._most
        if not history.recovered:
            self.lost(history.position)
        for each in publications:
            count = self._passOn(each)
            if isinstance(count, Deferred):
                await count
            if self._state is not _FILLING:
                return
        if not publications:
            self._move(history.position)

    async def _passOnHeld(self) -> None:
        """Pass on what was held, up to the first gap."""
        while self._held and self._state is _FILLING:
            publication, taken = self._held[0]
            isNext = self._isNext(publication)
            if not isNext and not self._isPast(publication.position):
                self._isMissing = True
                return
            self._held.popleft()
            count = self._passOn(publication) if isNext else 0
            self._heard.passed(publication.position)
            taken.callback(await count if isinstance(count, Deferred) else count)


def _sum(one: MaybeDeferred[int], other: MaybeDeferred[int]) -> MaybeDeferred[int]:
    if isinstance(one, Deferred):
        return one.addCallback(lambda count: _sum(other, count))
    if isinstance(other, Deferred):
        return other.addCallback(lambda count: count + one)
    return one + other
