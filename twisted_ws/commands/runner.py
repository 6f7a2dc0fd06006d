"""The run of a command on the reactor: signals, the log, and an end in bounded time."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from twisted_ws.commands.terminal.display import complain
from twisted_ws.logs import printable, shown

# Seconds from a signal to the end of the process, whatever still waits: DNS look-ups cannot be interrupted.
GRACE = 4.0

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Runner:
    """Runs a coroutine on the reactor until it returns the exit code.

    Attributes:
        interrupted: called at the first signal, with its exit code; the coroutine should then return soon.
        note: called with each line of the library's log.
        atOnce: called before the process exits at once.
    """

    def __init__(self) -> None:
        self.interrupted: Callable[[int], None] = lambda code: None
        self.note: Callable[[str], None] = complain
        self.atOnce: Callable[[], None] = lambda: None
        self._reactor: Any = None
        self._signalled = False
        self._code = 1

    def run(self, main: Callable[[Any], Coroutine[Any, Any, int]]) -> int:
        """Run ``main(reactor)``, and return what it returns; 1 if it raises, which is a bug."""
        from twisted.internet import reactor as chosen

        reactor: Any = chosen
        _beginLogging(self._log)
        # Signals that were ignored from the start stay ignored: nohup, and & in a script.
        heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._signal) for number in heard}

        def start() -> None:
            Deferred.fromCoroutine(main(reactor)).addCallbacks(self._done, _bug).addBoth(lambda _: reactor.stop())

        self._reactor = reactor
        reactor.callWhenRunning(start)
        try:
            # The reactor's own handlers would stop it before anything is closed.
            reactor.run(installSignalHandlers=False)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return self._code

    def _done(self, code: int) -> None:
        self._code = code

    def _signal(self, number: int, frame: FrameType | None) -> None:
        code = 128 + number
        if self._signalled:
            self._leave(code)
        self._signalled = True
        watchdog = threading.Timer(GRACE, self._leave, (code,))
        watchdog.daemon = True
        watchdog.start()
        self._reactor.callFromThread(lambda: self.interrupted(code))

    def _leave(self, code: int) -> None:
        self.atOnce()
        os._exit(code)

    def _log(self, event: Any) -> None:
        from twisted.logger import LogLevel, formatEvent

        failure = event.get("log_failure")
        level = event.get("log_level", LogLevel.info)
        if failure is None and not str(event.get("log_namespace", "")).startswith("twisted_ws."):
            return
        if level >= LogLevel.info:
            self.note(formatEvent(event) + (f": {failure.value!r}" if failure is not None else ""))


def _beginLogging(observer: Any) -> None:
    from twisted.logger import globalLogBeginner

    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)


def _bug(failure: Failure) -> None:
    if sys.stderr is not None:
        sys.stderr.write(shown(failure.getTraceback()))
    complain(f"this is a bug in twisted_ws: {type(failure.value).__name__}: {printable(failure.value)}; please report it")
