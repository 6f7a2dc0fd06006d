"""When a back end that fails is left alone, and when it is tried again."""

from __future__ import annotations

from collections.abc import Callable

# Failures in a row after which the back end gets a rest: one or two may be chance.
FAILURES = 5
# Seconds of the first rest; each failed try doubles it, up to the longest: who has mended the back end does not want to wait.
REST = 2.0
LONGEST_REST = 30.0
# Seconds after which to come back while one question is out that decides for all.
_DECIDING = 1.0


class Breaker:
    """Counts failures in a row, and says whether to ask.

    After `FAILURES` of them nothing is asked for `REST` seconds, then one question alone, the probe. If that fails, the next rest
    is twice as long; any answer ends all this.

    Args:
        clock: returns the seconds of a monotonic clock.
    """

    __slots__ = ("_clock", "_failures", "_isProbing", "_rest", "_until")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self._rest = REST
        self._until: float | None = None  # when the rest ends; None while all may ask
        self._isProbing = False

    @property
    def isOpen(self) -> bool:
        """Whether the back end gets a rest, or is being tried after one."""
        return self._until is not None

    def wait(self) -> float:
        """Return the seconds until a question may be asked; 0: now."""
        if self._until is None:
            return 0.0
        left = self._until - self._clock()
        return left if left > 0 else _DECIDING if self._isProbing else 0.0

    def begin(self) -> bool:
        """Count a question, asked while `wait` returns 0, and return whether it is the probe: to be told to the methods below."""
        self._isProbing = self._until is not None
        return self._isProbing

    def succeed(self) -> None:
        """Count an answer."""
        self._failures = 0
        self._rest = REST
        self._until = None
        self._isProbing = False

    def fail(self, wasProbe: bool) -> bool:
        """Count a failure, and return whether a rest begins with it."""
        if self._until is None:
            self._failures += 1
            if self._failures < FAILURES:
                return False
        elif wasProbe:
            self._rest = min(self._rest * 2, LONGEST_REST)
            self._isProbing = False
        else:
            return False  # asked before the rest began
        self._until = self._clock() + self._rest
        return True

    def forget(self, wasProbe: bool) -> None:
        """Count a question that ended without saying anything about the back end."""
        if wasProbe:
            self._isProbing = False
