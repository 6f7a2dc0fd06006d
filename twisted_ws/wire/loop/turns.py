"""How much work fits in one turn of the reactor, for all who share it.

A bound for each connection is none: a hundred of them do a hundred times as much in one turn. So all count what they do against
one budget, in steps (which a test can count, and no clock has to be asked for) and in seconds (for what runs in between, as a
handler).
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

__all__ = ["QUANTUM", "STEP", "STEPS", "TURN", "Turns"]

# A step is about two microseconds of work: a line of a chunked body, 128 bytes of gzip. So many make a turn, and so many one
# of those who wait takes before it is the next one's.
STEPS = 4096
QUANTUM = 256
# So many, counted by `Turns.spend`, need no timer: most turns make no more, and it counts for the next one that does.
FEW = 512
# Seconds of a step, about.
STEP = 2e-6
# Seconds of work in one turn, whatever the steps. The fast lane (`wire.lane.group`) takes as much: together, ten milliseconds.
TURN = 0.005

T = TypeVar("T")

_log = Logger()


class Turns:
    """The budget of one reactor for work that can wait.

    It is made full again in a turn of its own when much of it was used, so light traffic costs a subtraction and no timer. Who
    has used up its `share`, or finds the turn `over`, waits by `later` or `next`; they get their shares in the order they came.

    Args:
        reactor: the reactor.

    Attributes:
        left: steps until it is over; who works subtracts, or calls `spend`.
        seconds: the reactor's clock.
        until: while somebody works, the reactor's seconds at which it is over.
    """

    __slots__ = ("_call", "_isTurning", "_reactor", "_since", "_spent", "_waiting", "left", "seconds", "until")

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.seconds: Callable[[], float] = reactor.seconds
        self._call: Any = None  # the next turn, until it is called
        self._isTurning = False
        self._waiting: deque[Callable[[], object]] = deque()
        self._spent = 0.0
        self._since: float | None = None
        self.left = STEPS
        self.until = 0.0

    def begin(self) -> bool:
        """Begin to work; False: somebody does already, in whose work this is."""
        if self._since is not None:
            return False
        now = self.seconds()
        self.until = now + TURN - self._spent
        self._since = now
        return True

    def end(self) -> None:
        """Undo the `begin` that returned True; nothing where somebody who worked had the reactor turn, and that has done it."""
        since, self._since = self._since, None
        if since is not None:
            self._spent += self.seconds() - since

    def spend(self, steps: int) -> None:
        """Count steps, whether or not so many are left; when they are many, the next turn begins with all of them again."""
        self.left -= steps
        if self.left < STEPS - FEW and not self._isTurning and (self._call is None or self._call.called):
            self._ask()

    async def through(self, items: Iterable[T], steps: int) -> AsyncIterator[T]:
        """Yield `items`, each of which costs so many steps, in as many turns as it takes."""
        share = 0  # the rest of this turn, before anybody has to wait
        for item in items:
            if self.isOver(share):
                await self.next()
                share = self.share()
            self.spend(steps)
            yield item

    def share(self) -> int:
        """Return at how many steps `left` the one who begins now should wait for its next turn."""
        left = self.left - QUANTUM
        return left if left > 0 else 0

    def isOver(self, share: int) -> bool:
        """Say whether who began at `share` should wait now: others do, and this was its share, or the turn is over."""
        left = self.left
        if left <= 0 or (left <= share and self._waiting):
            return True
        return self._spent >= TURN if self._since is None else self.seconds() >= self.until

    @property
    def over(self) -> bool:
        """Whether nothing more should be done in this turn."""
        return self.isOver(0)

    def later(self, goOn: Callable[[], object]) -> None:
        """Call `goOn` when it is its turn."""
        self._waiting.append(goOn)
        self._ask()

    def next(self) -> Deferred[None]:
        """Return a Deferred that fires when it is the turn of whoever waits for it."""
        turn: Deferred[None] = Deferred()

        def come() -> None:
            if not turn.called:  # cancelled
                turn.callback(None)

        self.later(come)
        return turn

    def _turn(self) -> None:
        if self._isTurning:
            return  # what it is at has the reactor turn; it asks for the next one
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
                        goOn()  # perhaps it could not even be called
                except Exception:
                    # Without this the others would wait for ever.
                    _log.failure("what waited for its turn failed inside the server")
        finally:
            self._isTurning = False
            if self._waiting or self.left < STEPS - FEW:  # what was used here is not missing in the next turn
                self._ask()
            self.end()

    def _ask(self) -> None:
        """Have the reactor call `_turn`, if it is not asked already: for all who wait, so once more where memory was short.

        Whether it is, the call itself says: there may be no memory to call it.
        """
        if self._isTurning or not (self._call is None or self._call.called):
            return
        try:
            call = self._reactor.callLater(0, self._turn)
        except MemoryError:
            call = self._reactor.callLater(0, self._turn)
        if not call.called:  # else it came already, where a finaliser had the reactor turn, and the next one is noted
            self._call = call
