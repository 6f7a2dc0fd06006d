"""What systemd wants to hear (sd_notify(3)), and a thread that notices when the reactor stands still."""

from __future__ import annotations

import os
import socket
import sys
import threading
import traceback
from typing import Any

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

__all__ = ["Heart", "notify"]

# Seconds that one turn of the reactor may take before the log says where it hangs: nothing else is served meanwhile.
STILL_SECONDS = 5.0
BEAT_SECONDS = 1.0


def notify(state: str) -> None:
    """Send a state such as ``READY=1`` to systemd; without systemd, nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(address)
            sender.send(state.encode())
    except OSError:
        pass  # systemd is not there any more, and a server must not end for that


class Heart(Service):
    """Beats once a second in the reactor: tells systemd's watchdog, and a thread that looks for missing beats.

    Args:
        reactor: the reactor.
    """

    _log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._beats = 0
        self._loop = LoopingCall(self._beat)
        self._loop.clock = reactor
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def startService(self) -> None:
        """Begin to beat."""
        super().startService()  # type: ignore[no-untyped-call]
        self._ended.clear()
        self._loop.start(BEAT_SECONDS)
        self._reactorThread = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="twisted_ws heart", daemon=True)
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
        seen, told = -1, False
        while not self._ended.wait(STILL_SECONDS):
            if self._beats != seen:
                seen, told = self._beats, False
            elif not told:
                told = True
                frame = sys._current_frames().get(self._reactorThread)
                stack = "".join(traceback.format_stack(frame)) if frame is not None else "(it has ended)"
                self._log.critical(
                    "The reactor stands still for {seconds:g} s, so nobody is served. It is here:\n{stack}",
                    seconds=STILL_SECONDS,
                    stack=stack,
                )
