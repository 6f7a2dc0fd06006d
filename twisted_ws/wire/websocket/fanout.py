"""One message to many, in as many turns of the reactor as it takes.

A message to many is sent at once, as far as the budget of the turn reaches (`wire.loop.turns`); the rest follows in the next
turns. Any later message to many, whether for everybody or for one channel, waits behind it, so everybody gets them in the order
of the calls. A message to one recipient does not wait there: its writer first makes sure that the recipient gets what is still
missing (`FanOuts.catchUp`), which costs a look at `FanOuts.pending` while nothing is.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from twisted_ws.errors import ChannelError
from twisted_ws.frames import OutgoingMessage
from twisted_ws.wire.loop.turns import STEP
from twisted_ws.wire.speedups import sendMany
from twisted_ws.wire.speedups.pure import BEGUN
from twisted_ws.wire.websocket.crowd import Run

if TYPE_CHECKING:
    from twisted_ws.wire.websocket.runtime import Runtime

# Steps of `Turns` for one delivery: STEPS for a frame that is sent directly, one more for each BYTES of it, and OWN_WAY more for
# a recipient that goes its own way, because it is slow, or has compression.
STEPS = 2
BYTES = 2048
OWN_WAY = 2

# After how many steps the clock is read: after few if a recipient went its own way, because the steps do not cover how long that
# takes (a queue, TLS in memory, the code of a service).
LONG = 1024
SHORT = 64

# Bytes that a message that waits here is charged on top of its payload, and for each of its parts: about what the objects take.
CHARGE = 1024
PART = 256

# The name under which messages to all callers are kept.
EVERYBODY = ""

# Some recipients, the message as they get it (or a `Later`), and the steps that it costs for each.
Part = tuple[Run, Any, int]

_NOBODY: Sequence[tuple[Any, bool]] = ()

_log = Logger()


def stepsOf(message: OutgoingMessage) -> int:
    """Return how many steps one delivery of a message costs."""
    return STEPS + len(message.plain) // BYTES


class Later:
    """A message that is made for its first recipient: each form of a large one in a turn that has time for it.

    Args:
        make: makes it; called once.
    """

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = None

    def get(self) -> Any:
        """Return the message."""
        if self._made is None:
            self._made = self._make()
        return self._made

    @property
    def isMade(self) -> bool:
        """Whether it was made."""
        return self._made is not None


class FanOut:
    """One message on its way; see `FanOuts.send` for its parts.

    Attributes:
        number: its number among all messages to many.
        count: how many recipients took it.
        done: fires with `count` at the end; None while nothing waits for that.
        isDone: whether it is no longer pending.
        stragglers: recipients that were reached and have yet to go their own way.
        waits: whether it is counted among those that wait.
    """

    __slots__ = (
        "_ahead",
        "_at",
        "_begin",
        "_reached",
        "cost",
        "count",
        "deliver",
        "done",
        "find",
        "isDone",
        "names",
        "number",
        "overlaps",
        "parts",
        "size",
        "stragglers",
        "waits",
    )

    def __init__(
        self,
        parts: Sequence[Part],
        names: Sequence[str],
        find: Callable[[Any], tuple[Any, Any] | None],
        size: int,
        overlaps: bool = False,
        deliver: Callable[[Any, Any], bool] | None = None,
        begun: int = 0,
    ) -> None:
        self.parts = parts
        self.names = names
        self.find = find
        self.size = size
        self.overlaps = overlaps
        self.deliver = deliver
        self.number = self.count = 0
        self.done: Deferred[int] | None = None
        self.waits = self.isDone = False
        self.cost = 0, 0  # bytes and steps, as counted while it waits
        self.stragglers: dict[Any, None] | None = None  # made for the first
        self._ahead: set[Any] | None = None  # recipients that got it before their turn; made for the first
        self._at = begun  # the part that is being sent to
        self._begin = 0  # the first recipient in it that was not reached
        self._reached: set[Any] | None = set() if overlaps else None  # made when it is first needed

    @property
    def isOver(self) -> bool:
        """Whether every recipient was reached."""
        return self._at == len(self.parts)

    def prepare(self) -> bool:
        """Make the message for the next recipients if that is still to be done, so that the clock is read before it is sent."""
        message = self.parts[self._at][1]
        if not isinstance(message, Later) or message.isMade:
            return False
        message.get()
        return True

    def take(self, most: int) -> tuple[Sequence[Any], Sequence[Any], Any, int]:
        """Reach the next recipients, as many as fit into `most` steps, but at least one.

        Returns:
            The recipients, their senders, what they get, and the steps for each.
        """
        (members, senders, size), message, cost = self.parts[self._at]
        if isinstance(message, Later):
            message = message.get()
        at, begin, end = self._at, self._begin, self._begin + max(most // cost, 1)
        if end >= size:
            end = size
        if end - begin < len(members):
            members, senders = members[begin:end], senders[begin:end]
        if self._reached is not None and self.overlaps:
            members, senders = _without(members, senders, self._reached.__contains__)
        found = members
        if self._ahead is not None:
            members, senders = _without(members, senders, self._ahead.__contains__)
        next_ = members, senders, message, cost
        if self._reached is not None:
            self._reached.update(found)
        self._at, self._begin = (at + 1, 0) if end == size else (at, end)
        return next_

    def isDue(self, member: Any) -> bool:
        """Return whether a recipient has yet to get it, and is not getting it now; from here on, it counts as having it."""
        if self.stragglers and member in self.stragglers:
            del self.stragglers[member]
            return True
        if self._ahead is None:
            self._ahead = set()
        if member in self._ahead or self.hasReached(member):
            return False
        self._ahead.add(member)
        return True

    def hasReached(self, member: Any) -> bool:
        """Return whether a recipient was reached."""
        if self._reached is None:
            if not self._at and not self._begin:
                return False
            self._reached = {
                member
                for number, ((members, _, size), _, _) in enumerate(self.parts[: self._at + 1])
                for member in members[: size if number < self._at else self._begin]
            }
        return member in self._reached


class FanOuts:
    """The messages to many that are on their way in one server.

    Args:
        runtime: what the server's connections share; of its limits, `fanOutLag` and `maxSendBufferTotal` are used.

    Attributes:
        pending: what is on its way, in order. While there is any, call `catchUp` before writing to one recipient.
    """

    __slots__ = (
        "_backlog",
        "_bytes",
        "_caught",
        "_counts",
        "_current",
        "_late",
        "_limits",
        "_named",
        "_number",
        "_scheduled",
        "_steps",
        "_turns",
        "_wheel",
        "_working",
        "pending",
    )

    def __init__(self, runtime: Runtime) -> None:
        self._turns = runtime.turns
        self._backlog = runtime.backlog
        self._limits = runtime.limits
        self._wheel = runtime.wheel
        self._counts = runtime.counts
        self.pending: deque[FanOut] = deque()
        self._number = 0
        self._scheduled = self._working = False
        self._bytes = self._steps = 0  # of the messages that wait
        self._named: dict[str, deque[FanOut]] = {}  # the messages that wait, by name
        self._late: dict[tuple[Any, str], int] = {}  # members that came while some waited, for what, and the last not for them
        self._caught: dict[Any, int] = {}  # members that are ahead of the others, and up to which message
        self._current: Any = None  # the member to which a message is being handed

    def admit(self, size: int) -> None:
        """Refuse a message of `size` bytes if too many are on their way: it would only arrive late, and take memory until then.

        Raises:
            ChannelError: "unavailable".
        """
        if self.pending:
            room = self._limits.maxSendBufferTotal // 4
            if self._steps * STEP > self._limits.fanOutLag or self._bytes + size > room:
                raise ChannelError("unavailable", "More messages are on their way than can be sent in time: try later.")

    def send(
        self,
        parts: Sequence[Part],
        names: Sequence[str],
        find: Callable[[Any], tuple[Any, Any] | None],
        size: int,
        overlaps: bool = False,
        deliver: Callable[[Any, Any], bool] | None = None,
    ) -> int | Deferred[int]:
        """Send a message behind those that are on their way.

        Args:
            parts: who gets it, in order.
            names: the names for which its recipients are there: a channel, and patterns; or `EVERYBODY`. Without any, nobody gets
                it ahead of the others.
            find: returns, for a caller or visitor that is there for one of the names, its member of the parts and what that gets;
                None if it gets nothing.
            size: bytes of the message.
            overlaps: whether a recipient may be in several parts.
            deliver: hands the message to a member, and returns whether it was taken; None: use its `send`, or send directly if
                possible.

        Returns:
            How many took it; a Deferred of that, if it takes more than this turn.
        """
        pending, turns = self.pending, self._turns
        count, begun, behind, message = 0, 0, _NOBODY, None
        if not pending and deliver is None and not overlaps:
            # By far the most frequent case: each part fits into this turn, and the kernel takes everything.
            for (members, senders, number), message, cost in parts:
                if number * cost > turns.left or not isinstance(message, OutgoingMessage):
                    break
                turns.spend(number * cost)
                begun += 1
                count += number
                behind = _straightOut(members, senders, message.plain, self._wheel.now)
                if behind:
                    break
            if not behind and begun == len(parts):
                counts = self._counts
                counts.deliveries += count
                counts.deliveredBytes += count * size
                return count
        try:
            fanOut = FanOut(parts, names, find, size, overlaps, deliver, begun)
        except MemoryError:
            if not begun:
                raise
            fanOut = FanOut(parts, names, find, size, overlaps, deliver, begun)  # it must exist: some have got a part of it
        fanOut.count = count - len(behind)
        # No other code runs before the last of these statements: the numbers are in the order of `pending`.
        self._number = fanOut.number = self._number + 1
        isFirst = not pending
        pending.append(fanOut)
        try:
            if not isFirst:
                self._keepAll()
        finally:
            if behind:
                self._note(fanOut, behind)
                turns.spend(len(behind) * OWN_WAY)
                self._follow(fanOut, behind, message)
        if isFirst:
            self._work(0)
            if not fanOut.isOver:
                self._keepAll()
        elif not (self._scheduled or self._working):
            self._schedule()  # it failed earlier, without memory
        if fanOut.isDone:
            return fanOut.count
        done: Deferred[int] = Deferred()
        if fanOut.isDone:
            return fanOut.count  # a finaliser ran the reactor
        fanOut.done = done
        return done

    def came(self, person: Any, name: str) -> None:
        """Note that a caller or visitor is there for a name from now on: what is `pending` is not for it. Called while any is."""
        self._late[person, name] = self._number

    def catchUp(self, person: Any) -> None:
        """Make sure that a caller or visitor has got everything that was sent to it and others until now.

        This may run code of any service.
        """
        link, subscriber = getattr(person, "_connection", None), person.membership
        if self._current is not None and (self._current is link or self._current is subscriber):
            return  # it is getting it now
        newest = self._number
        if self.pending:
            self._keepAll()
            for fanOut in self._missing(person, link, subscriber):
                self._reach(fanOut, person)
        if self.pending:
            for member in (link, subscriber):
                if member is not None:
                    self._caught[member] = newest

    def _missing(self, person: Any, link: Any, subscriber: Any) -> list[FanOut]:
        """Return the messages that it may not have got, in order."""
        found: dict[int, FanOut] = {}
        # The collector waits: from Python 3.12 on, it also runs in loops, and a finaliser could send on what is being searched.
        collects = gc.isenabled()
        gc.disable()
        try:
            seen = max(self._caught.get(link, 0), self._caught.get(subscriber, 0))
            for name in (EVERYBODY,) if subscriber is None else (EVERYBODY, *subscriber.channels):
                since = max(self._late.get((person, name), 0), seen)
                for fanOut in reversed(self._named.get(name, ())):
                    if fanOut.number <= since:
                        break
                    found[fanOut.number] = fanOut
        finally:
            if collects:
                gc.enable()
        return [found[number] for number in sorted(found)]

    def _reach(self, fanOut: FanOut, person: Any) -> None:
        """Hand one message to a recipient ahead of the others, unless it has it."""
        aim = fanOut.find(person)
        if aim is None:
            return
        member, message = aim
        if self._hand(fanOut, member, message.get() if isinstance(message, Later) else message):
            self._turns.spend(STEPS + OWN_WAY)

    def _keepAll(self) -> None:
        """Count everything pending among the messages that wait, in order."""
        pending = self.pending
        fresh: list[FanOut] = []
        # The collector waits: a finaliser could do the same, or send on, in the middle of this.
        collects = gc.isenabled()
        gc.disable()
        try:
            at = len(pending)
            while at and not pending[at - 1].waits:
                at -= 1
                fresh.append(pending[at])
            for fanOut in reversed(fresh):
                self._keep(fanOut)
        finally:
            if collects:
                gc.enable()

    def _keep(self, fanOut: FanOut) -> None:
        """Count a message among those that wait."""
        queues = iter([(name, deque[FanOut]()) for name in fanOut.names])
        cost = size, steps = self._cost(fanOut)
        bytes_, total, steps = self._bytes + size, self._backlog.total + size, self._steps + steps
        # Everything is allocated.
        if fanOut.waits or fanOut.isDone:
            return
        fanOut.waits = True
        fanOut.cost = cost
        self._bytes, self._backlog.total, self._steps = bytes_, total, steps
        for name, queue in queues:
            if name not in self._named:
                self._named[name] = queue
            self._named[name].append(fanOut)

    def _forget(self, fanOut: FanOut) -> None:
        """Undo `_keep`, as far as it was done: every recipient was reached."""
        if not fanOut.waits:
            return
        size, steps = fanOut.cost
        bytes_, total, steps = self._bytes - size, self._backlog.total - size, self._steps - steps
        fanOut.waits = False
        self._bytes, self._backlog.total, self._steps = bytes_, total, steps
        for name in fanOut.names:
            queue = self._named.get(name)
            if queue and queue[0] is fanOut:
                queue.popleft()
            if not queue:
                self._named.pop(name, None)

    def _cost(self, fanOut: FanOut) -> tuple[int, int]:
        size = fanOut.size + CHARGE + PART * len(fanOut.parts)
        return size, sum([count * cost for (_, _, count), _, cost in fanOut.parts])

    def _work(self, stop: int) -> None:
        """Send on until everything is sent, `stop` steps of this turn are left, or its time is over.

        Called within itself, do nothing: the outer call goes on.
        """
        pending, turns = self.pending, self._turns
        if self._working:
            return
        portion, outermost = SHORT, False
        self._working = True
        try:
            outermost = turns.begin()
            while pending and (pending[0].isOver or (turns.left > stop and not turns.over)):
                fanOut = pending[0]
                while not fanOut.isOver and turns.left > stop and not turns.over:
                    if fanOut.prepare():
                        continue
                    portion = self._advance(fanOut, min(turns.left - stop, portion))
                if fanOut.isOver:
                    fanOut.isDone = True
                    self._forget(fanOut)
                    pending.popleft()
                    if fanOut.deliver is None:
                        counts = self._counts
                        counts.deliveries += fanOut.count
                        counts.deliveredBytes += fanOut.count * fanOut.size
                    if fanOut.done is not None:
                        fanOut.done.callback(fanOut.count)
        finally:
            self._working = False
            if outermost:
                turns.end()
            if not pending:
                if self._late or self._caught:
                    late: dict[tuple[Any, str], int] = {}
                    caught: dict[Any, int] = {}
                    if not pending:
                        self._late, self._caught = late, caught
            elif not self._scheduled:
                self._schedule()

    def _schedule(self) -> None:
        self._scheduled = True  # noted first: a finaliser in the middle may run the reactor, and then this has happened
        try:
            self._turns.later(self._goOn)
        except MemoryError:
            self._scheduled = False  # the next message asks again
            raise

    def _goOn(self) -> None:
        self._scheduled = False
        self._work(self._turns.share())

    def _advance(self, fanOut: FanOut, steps: int) -> int:
        """Send a message to the next recipients; return how many steps may follow before the clock is read."""
        # The collector waits: a finaliser that wrote to one of them after they were chosen and before they were sent to would
        # take them to have the message, and overtake it.
        collects = gc.isenabled()
        gc.disable()
        straight = 0
        try:
            members, senders, message, cost = fanOut.take(steps)
            if fanOut.deliver is not None or not isinstance(message, OutgoingMessage):
                behind: Sequence[tuple[Any, bool]] = [(member, False) for member in members]
            else:
                behind = _straightOut(members, senders, message.plain, self._wheel.now)
                straight = OWN_WAY
            if behind:
                self._note(fanOut, behind)
        finally:
            if collects:
                gc.enable()
        fanOut.count += len(members) - len(behind)
        self._turns.spend(len(members) * cost + len(behind) * straight)
        if behind:
            self._follow(fanOut, behind, message)
        return SHORT if behind else LONG

    def _note(self, fanOut: FanOut, behind: Sequence[tuple[Any, bool]]) -> None:
        """Note the recipients that have yet to go their own way."""
        if fanOut.stragglers is None:
            fanOut.stragglers = {}
        fanOut.stragglers.update([(member, None) for member, isBegun in behind if not isBegun])

    def _follow(self, fanOut: FanOut, behind: Sequence[tuple[Any, bool]], message: Any) -> None:
        """Let recipients continue, or begin, in their own way; any of it may run code of a service, which may write to others."""
        stragglers: Any = fanOut.stragglers
        for member, isBegun in behind:
            if isBegun:
                try:
                    fanOut.count += 1
                    member.goOn()
                except Exception:
                    _log.failure("a message for many could not be sent on to one of them", event="fanout.broken")
            elif member in stragglers:
                self._hand(fanOut, member, message)

    def _hand(self, fanOut: FanOut, member: Any, message: Any) -> bool:
        """Hand a message to a recipient, and count it if it was taken; return False if it has it, or is getting it now."""
        before = self._current
        # Code that writes to it meanwhile takes it to have the message, so no finaliser may run before that is true.
        collects = gc.isenabled()
        gc.disable()
        try:
            if not fanOut.isDue(member):
                return False
            self._current = member
            try:
                if member.send(message) if fanOut.deliver is None else fanOut.deliver(member, message):
                    fanOut.count += 1
            except Exception:
                # Without this, those behind it would wait forever.
                _log.failure("a message for many could not be handed to one of them", event="fanout.broken")
            finally:
                self._current = before
        finally:
            if collects:
                gc.enable()
        return True


def _straightOut(members: Sequence[Any], senders: Sequence[Any], frame: bytes, now: float) -> Sequence[tuple[Any, bool]]:
    """Send a frame to the recipients for which nothing waits, in one call that looks only at the kernel's answers.

    Returns:
        Those that have not got all of it, and whether they got a part: these go on with `goOn`, the others with `send`.
    """
    outcomes = sendMany(senders, frame, now)
    if outcomes is None:
        return _NOBODY
    # What was begun is noted by now: code that is called from here on may write to any of them, and close it.
    try:
        return _behind(members, outcomes)
    except MemoryError:
        return _behind(members, outcomes)  # it must be made: some have got a part of a frame


def _behind(members: Sequence[Any], outcomes: bytes) -> Sequence[tuple[Any, bool]]:
    return [(member, outcome == BEGUN) for member, outcome in compress(zip(members, outcomes, strict=False), outcomes)]


def _without(members: Sequence[Any], senders: Sequence[Any], isOut: Callable[[Any], bool]) -> tuple[Sequence[Any], Sequence[Any]]:
    left = [(member, sender) for member, sender in zip(members, senders, strict=True) if not isOut(member)]
    return [member for member, _ in left], [sender for _, sender in left]
