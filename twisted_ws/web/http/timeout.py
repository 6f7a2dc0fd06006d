"""The deadline of a connection, which has one at a time."""

from __future__ import annotations

from collections.abc import Callable

from twisted_ws.wire.loop.wheel import Wheel


def _nobody() -> None:
    """Replace what was called; to keep that would keep a connection alive until a collector comes."""


class Timeout:
    """Calls a function at the time that was set last, by the wheel's clock, which does not count our own delays.

    Each HTTP request sets three deadlines and meets them, so a place on the wheel that is too early is kept until it comes up;
    then another is taken for the time that is left.

    Args:
        wheel: where it waits.
        reached: called without arguments at the deadline.

    Attributes:
        wheelSlot: see `twisted_ws.wire.loop.wheel.Deadline`.
    """

    __slots__ = ("_due", "_place", "_reached", "_wheel", "wheelSlot")

    def __init__(self, wheel: Wheel, reached: Callable[[], object]) -> None:
        self._wheel = wheel
        self._reached = reached
        self._due: float | None = None
        self._place = 0.0  # the time of its place on the wheel, while it has one
        self.wheelSlot: int | None = None

    def set(self, seconds: float) -> None:
        """Set the deadline, in place of the current one."""
        due = self._due = self._wheel.seconds() + seconds
        if self.wheelSlot is None or self._place > due:
            self._wait(due)

    def _wait(self, due: float) -> None:
        self._place = due
        self._wheel.set(self, due)

    @property
    def isSet(self) -> bool:
        """Whether there is a deadline now."""
        return self._due is not None

    def clear(self) -> None:
        """Remove the deadline for now; the place on the wheel is kept."""
        self._due = None

    def end(self) -> None:
        """Remove it for good: nothing stays on the wheel, and nothing is called, whatever is set later."""
        self._due = None
        self._reached = _nobody
        self._wheel.drop(self)

    def deadlineReached(self, now: float) -> None:
        """See `twisted_ws.wire.loop.wheel.Deadline`."""
        due = self._due
        if due is None:
            return
        if due > now:
            self._wait(due)
        else:
            self._due = None
            self._reached()
