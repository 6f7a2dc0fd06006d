"""How much work fits into one turn of the reactor, for everything that shares it.

A bound for each connection bounds nothing: a hundred connections do a hundred times as much in one turn. So all of them count
their work against one budget: in steps, which tests can count and which need no clock, and in seconds, for what runs in between,
such as a handler.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

# A step is about two microseconds of work: a line of a chunked body, 128 bytes of gzip. STEPS make a turn, and whatever waits for
# its turn gets QUANTUM of them before the next in line.
STEPS = 4096
QUANTUM = 256
# This many steps, counted by `Turns.spend`, need no timer: most turns spend no more, and the next turn that does counts them.
FEW = 512
# Seconds that a step takes, roughly.
STEP = 2e-6
# Seconds of work in one turn, whatever the steps. The fast lane (`wire.lane.group`) takes as much: together, ten milliseconds.
TURN = 0.005

T = TypeVar("T")

_log = Logger()


class Turns:
    """The budget of one reactor for work that can wait.

    Once much of it has been used, it is refilled in a separate turn, so light traffic costs a subtraction and no timer. Work that
    has used up its `share`, or finds the turn `over`, waits with `later` or `next`; shares are given in the order of asking.

    Args:
        reactor: the reactor.

    Attributes:
        left: steps until the turn is over; work subtracts from it, or calls `spend`.
        seconds: the reactor's clock.
        since: the reactor's seconds at `begin`, until `end`; None outside of work.
        until: the reactor's seconds at which the turn is over, between `begin` and `end`.
    """

    __slots__ = ("_call", "_isTurning", "_reactor", "_spent", "_waiting", "left", "seconds", "since", "until")

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.seconds: Callable[[], float] = reactor.seconds
        self._call: Any = None  # the next turn, until it is called
        self._isTurning = False
        self._waiting: deque[Callable[[], object]] = deque()
        self._spent = 0.0
        self.since: float | None = None
        self.left = STEPS
        self.until = 0.0

    def begin(self) -> bool:
        """Begin work and return True; return False within work that has begun already."""
        if self.since is not None:
            return False
        now = self.seconds()
        self.until = now + TURN - self._spent
        self.since = now
        return True

    def end(self) -> None:
        """End work after a `begin` that returned True; do nothing if a turn of the reactor within that work has ended it."""
        since, self.since = self.since, None
        if since is not None:
            self._spent += self.seconds() - since

    def spend(self, steps: int) -> None:
        """Count steps, even if fewer are left; after many of them, the next turn begins with the full budget again."""
        self.left -= steps
        if self.left < STEPS - FEW and not self._isTurning and (self._call is None or self._call.called):
            self._ask()

    @contextmanager
    def counting(self, steps: int) -> Iterator[None]:
        """Count what is done meanwhile as work: its seconds, and steps for it; for what takes longer than it shows."""
        self.spend(steps)
        isOutermost = self.begin()
        try:
            yield
        finally:
            if isOutermost:
                self.end()

    async def through(self, items: Iterable[T], steps: int) -> AsyncIterator[T]:
        """Yield `items`, each at the cost of `steps`, in as many turns as that takes."""
        share = 0  # the rest of this turn, before anybody has to wait
        for item in items:
            if self.isOver(share):
                await self.next()
                share = self.share()
            self.spend(steps)
            yield item

    def share(self) -> int:
        """Return the number of steps `left` at which work that begins now should wait for its next turn."""
        left = self.left - QUANTUM
        return left if left > 0 else 0

    def isOver(self, share: int) -> bool:
        """Return whether work that was given `share` should wait now: it has used that and others wait, or the turn is over."""
        left = self.left
        if left <= 0 or (left <= share and self._waiting):
            return True
        return self._spent >= TURN if self.since is None else self.seconds() >= self.until

    @property
    def over(self) -> bool:
        """Whether the rest of the work should wait for the next turn."""
        return self.isOver(0)

    def later(self, goOn: Callable[[], object]) -> None:
        """Call `goOn` when its turn comes."""
        self._waiting.append(goOn)
        self._ask()

    def next(self) -> Deferred[None]:
        """Return a Deferred that fires when its turn comes."""
        turn: Deferred[None] = Deferred()

        def come() -> None:
            if not turn.called:  # cancelled
                turn.callback(None)

        self.later(come)
        return turn

    def _turn(self) -> None:
        if self._isTurning:
            return  # work in the loop below runs the reactor; the next turn is asked for at its end
        self._isTurning = True
        self.left, self._spent = STEPS, 0.0
        try:
            self.begin()
            while self._waiting and not self.over:
                goOn = self._waiting.popleft()
                try:
                    try:
                        goOn()
                    except MemoryError:
                        goOn()  # the call itself may have run out of memory
                except Exception:
                    # Without this the others would wait forever.
                    _log.failure("work that waited for its turn failed inside the server", event="reactor.broken")
        finally:
            self._isTurning = False
            if self._waiting or self.left < STEPS - FEW:  # the next turn begins with the full budget
                self._ask()
            self.end()

    def _ask(self) -> None:
        """Schedule `_turn` unless that is due already; all that waits depends on it, so retry once without memory.

        Only the call itself knows whether it is due: there may have been no memory to run it.
        """
        if self._isTurning or not (self._call is None or self._call.called):
            return
        try:
            call = self._reactor.callLater(0, self._turn)
        except MemoryError:
            call = self._reactor.callLater(0, self._turn)
        if not call.called:  # else a finaliser ran the reactor, and the next call is noted already
            self._call = call
