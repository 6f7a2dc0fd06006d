"""What goes wrong in a service while it is tested: collected from the log, so that no test passes over it."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer

__all__ = ["Complaint", "NoMessage", "Problems", "StillOpen", "Unflushed"]


class NoMessage(AssertionError):
    """A message or a pong was expected, and did not come; the text says whether the connection is open."""


class StillOpen(AssertionError):
    """A close was expected, and did not come."""


class Complaint(Exception):
    """What the server said in its log as a warning or an error, where there is no exception."""


class Unflushed(AssertionError):
    """The service failed while it was tested, or did not come to its end; raised at the end of the ``with`` block.

    Attributes:
        errors: what was raised, in order; the first is the ``__cause__``.
    """

    def __init__(self, problems: Sequence[tuple[str, BaseException]]) -> None:
        self.errors = [error for _, error in problems]
        lines = [f"  {_line(where, error)}" for where, error in problems]
        names = ", ".join(dict.fromkeys(type(error).__name__ for error in self.errors))
        super().__init__(
            "\n".join(["while it was tested, the log said:", *lines, f"what is expected is taken by server.flushErrors({names})"])
        )
        self.__cause__ = self.errors[0]


@implementer(ILogObserver)
class Problems:
    """Everything that was logged with an exception, and what the server itself warned of; a log observer."""

    def __init__(self) -> None:
        self._found: list[tuple[str, BaseException]] = []
        self._looks = 0  # of the collector at all but the youngest objects, when it began

    def start(self) -> None:
        """Listen to the log."""
        self._looks = _looks()
        globalLogPublisher.addObserver(self)

    def stop(self) -> None:
        """Listen no more."""
        globalLogPublisher.removeObserver(self)

    def __call__(self, event: LogEvent) -> None:
        """Take one event of the log."""
        failure = event.get("log_failure")
        if failure is not None:
            error: BaseException = failure.value
        elif event.get("log_level", LogLevel.info) >= LogLevel.warn and _isOurs(event.get("log_namespace") or ""):
            error = Complaint(formatEvent(event))
        else:
            return
        if not any(error is known for _, known in self._found):
            self._found.append((formatEvent(event), error))

    def found(self) -> list[tuple[str, BaseException]]:
        """Return what was logged of each exception, and the exception."""
        # A Deferred that failed says so when it is collected, and often is in a cycle with its own traceback. Those of a test
        # are young, but for what the collector has met before; to look at all objects would take longer than most tests.
        gc.collect(1 if _looks() == self._looks else 2)
        return self._found

    def flush(self, kinds: tuple[type[BaseException], ...]) -> list[BaseException]:
        """Forget and return those of `kinds`; all, if there are none."""
        found = self.found()
        flushed = [error for _, error in found if isinstance(error, kinds or BaseException)]
        self._found = [(where, error) for where, error in found if not any(error is each for each in flushed)]
        _flushTrial(flushed)
        return flushed

    def text(self) -> str:
        """Return all of it, with tracebacks."""
        return "\n".join(f"{where}\n{''.join(traceback.format_exception(error))}" for where, error in self._found)


def _looks() -> int:
    return sum(generation["collections"] for generation in gc.get_stats()[1:])


def _line(where: str, error: BaseException) -> str:
    if isinstance(error, Complaint):
        return str(error)
    # Of a Deferred that failed and was forgotten, the log says so in an event of its own, before this one.
    return f"{where or 'unhandled error in a Deferred'}: {type(error).__name__}: {error}"


def _isOurs(namespace: str) -> bool:
    return namespace.split(".")[0] == "twisted_ws"


def _flushTrial(errors: list[BaseException]) -> None:
    """Have trial forget them, too: its TestCase fails for what was logged and not flushed, and once is enough to say so."""
    trial: Any = sys.modules.get("twisted.trial._synctest")
    observer = getattr(trial, "_logObserver", None)  # no public way; tests/testing/test_problems.py holds it
    if observer is not None:
        observer._errors = [failure for failure in observer._errors if not any(failure.value is each for each in errors)]
