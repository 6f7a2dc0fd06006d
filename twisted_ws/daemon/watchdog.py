"""A watchdog that notices when the reactor is stuck."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from typing import Any

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from twisted_ws.daemon.systemd import notify

# Seconds between two beats, and between two checks by the thread.
BEAT = 1.0


class Watchdog(Service):
    """Beats in the reactor, for systemd's watchdog and for a thread that looks for missing beats.

    Args:
        reactor: the reactor.
        seconds: how long one turn of the reactor may take (`Limits.reactorTurn`).
    """

    _log = Logger()

    def __init__(self, reactor: Any, seconds: float) -> None:
        self._seconds = seconds
        self._beats = 0
        self._seen = 0
        self._looks = 0
        self._loop = LoopingCall(self._beat)
        self._loop.clock = reactor
        self._ended = threading.Event()
        self._reactorThread = 0
        self._thread: threading.Thread | None = None

    def startService(self) -> None:
        """Begin to beat."""
        super().startService()  # type: ignore[no-untyped-call]
        # WatchdogSec= is in the environment, in microseconds; systemd wants a sign of life twice as often.
        watchdog = os.environ.get("WATCHDOG_USEC", "")
        self._loop.start(min(BEAT, int(watchdog) / 2e6) if watchdog.isdigit() else BEAT)
        self._reactorThread = threading.get_ident()
        self._ended.clear()
        self._thread = threading.Thread(target=self._watch, name="twisted_ws watchdog", daemon=True)
        self._thread.start()

    def stopService(self) -> None:
        """Stop."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._ended.set()
        if self._loop.running:
            self._loop.stop()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _beat(self) -> None:
        self._beats += 1
        if "WATCHDOG_USEC" in os.environ:
            notify("WATCHDOG=1")

    def _watch(self) -> None:
        while not self._ended.wait(BEAT):
            self._look()

    def _look(self) -> None:
        """Compare the beats with those of the last check; checks are counted, so that a suspended process is not reported."""
        if self._beats != self._seen:
            self._seen, self._looks = self._beats, 0
            return
        self._looks += 1
        if self._looks - 1 < self._seconds / BEAT <= self._looks:
            frame = sys._current_frames().get(self._reactorThread)
            self._log.critical(
                "The reactor has been stuck for {duration:g} s, so nobody is served. It is stuck here:\n{traceback}",
                duration=self._seconds,
                traceback="".join(traceback.format_stack(frame)),
                event="reactor.blocked",
            )
