"""What goes wrong in a service during a test, collected from the log, so that no test overlooks it."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer


class NoMessage(AssertionError):
    """An expected message or pong did not come; the text says whether the connection is open."""


class StillOpen(AssertionError):
    """An expected close did not come."""


class Complaint(Exception):
    """A warning or an error in the server's log that is not about an exception."""


class Unflushed(AssertionError):
    """The service failed during the test; raised at the end of the ``with`` block.

    Attributes:
        errors: the exceptions, in order; the first is the ``__cause__``.
    """

    def __init__(self, problems: Sequence[tuple[str, BaseException]]) -> None:
        self.errors = [error for _, error in problems]
        lines = [f"  {_line(where, error)}" for where, error in problems]
        names = ", ".join(dict.fromkeys(type(error).__name__ for error in self.errors))
        super().__init__(
            "\n".join(["during the test, the log said:", *lines, f"if expected, take it with server.flushErrors({names})"])
        )
        self.__cause__ = self.errors[0]


@implementer(ILogObserver)
class Problems:
    """A log observer for every event with an exception, and for the server's own warnings."""

    def __init__(self) -> None:
        self._found: list[tuple[str, BaseException]] = []
        self._looks = 0  # collections of all but the youngest generation when the test began

    def start(self) -> None:
        """Start observing the log."""
        self._looks = _looks()
        globalLogPublisher.addObserver(self)

    def stop(self) -> None:
        """Stop observing the log."""
        globalLogPublisher.removeObserver(self)

    def __call__(self, event: LogEvent) -> None:
        """Take one log event."""
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
        """Return each exception with what was logged about it."""
        # A failed Deferred logs its error when it is collected, and is often in a cycle with its own traceback. Those of a test
        # are young, unless the collector has run before; collecting all objects would take longer than most tests.
        gc.collect(1 if _looks() == self._looks else 2)
        return self._found

    def flush(self, kinds: tuple[type[BaseException], ...]) -> list[BaseException]:
        """Forget and return the errors of `kinds`; all if none are given."""
        found = self.found()
        flushed = [error for _, error in found if isinstance(error, kinds or BaseException)]
        self._found = [(where, error) for where, error in found if not any(error is each for each in flushed)]
        _flushTrial(flushed)
        return flushed

    def text(self) -> str:
        """Return everything, with tracebacks."""
        return "\n".join(f"{where}\n{''.join(traceback.format_exception(error))}" for where, error in self._found)


def _looks() -> int:
    return sum(generation["collections"] for generation in gc.get_stats()[1:])


def _line(where: str, error: BaseException) -> str:
    if isinstance(error, Complaint):
        return str(error)
    # For a failed Deferred that was dropped, the log has said so in a separate event before this one.
    return f"{where or 'unhandled error in a Deferred'}: {type(error).__name__}: {error}"


def _isOurs(namespace: str) -> bool:
    return namespace.split(".")[0] == "twisted_ws"


def _flushTrial(errors: list[BaseException]) -> None:
    """Let trial forget them too: its TestCase fails for errors that were logged and not flushed."""
    trial: Any = sys.modules.get("twisted.trial._synctest")
    observer = getattr(trial, "_logObserver", None)  # there is no public way; tests/testing/test_problems.py guards this one
    if observer is not None:
        observer._errors = [failure for failure in observer._errors if not any(failure.value is each for each in errors)]
