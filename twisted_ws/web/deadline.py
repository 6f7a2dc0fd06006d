"""The one deadline that a connection has at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Deadline"]


def _nobody() -> None:
    """Take the place of who was called; to keep that one would keep a connection alive until a collector comes."""


class Deadline:
    """Calls a function when the time has come that was set last.

    Each HTTP request sets three deadlines and meets them, so a timer that would end too early runs on, and begins again at its
    end for what is left.

    Args:
        reactor: whose timers are used.
        reached: called without arguments.
    """

    __slots__ = ("_due", "_reached", "_reactor", "_timer")

    def __init__(self, reactor: Any, reached: Callable[[], object]) -> None:
        self._reactor = reactor
        self._reached = reached
        self._due: float | None = None
        self._timer: Any = None

    def set(self, seconds: float) -> None:
        """Set the deadline, in place of the present one."""
        due = self._due = self._reactor.seconds() + seconds
        if self._timer is not None and self._timer.getTime() > due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._reactor.callLater(seconds, self._look)

    @property
    def isSet(self) -> bool:
        """Whether there is a deadline now."""
        return self._due is not None

    def clear(self) -> None:
        """Have no deadline for now; the timer runs on."""
        self._due = None

    def end(self) -> None:
        """Have none any more: nothing is left with the reactor, and nobody is called, whatever is set later."""
        self._due = None
        self._reached = _nobody
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._due is None:
            return
        left = self._due - self._reactor.seconds()
        if left > 0:
            self._timer = self._reactor.callLater(left, self._look)
        else:
            self._due = None
            self._reached()
