"""The log of a worker: one JSON object for each event, on a pipe to the supervisor, which has the log file."""

from __future__ import annotations

import json
import os
import threading
from typing import Any

from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer

from twisted_ws.limits import KIB, MIB
from twisted_ws.logs import shown

# Characters of one event that are passed on, at most; its traceback has as many.
LONGEST = 64 * KIB
# Bytes that wait while the supervisor does not read: after that, lines are lost and counted.
WAITING = 1 * MIB
# What logs the certificate in use.
_CERTIFICATES = "twisted_ws.wire.tls.server"
# Bytes of one line, at most: every character of text and traceback escaped.
LONGEST_LINE = 2 * 6 * LONGEST + 4 * KIB


@implementer(ILogObserver)
class PipeObserver:
    """Writes events to a pipe, and never waits for its reader.

    Args:
        descriptor: that of the pipe.
    """

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._waiting = b""
        self._lost = 0
        self._turn = threading.Lock()  # a watchdog's thread writes, too

    def __call__(self, event: LogEvent) -> None:
        """Write one event, or keep it for the next time."""
        line = _lineOf(event)
        with self._turn:
            self._add(line)

    def _add(self, line: bytes) -> None:
        if self._lost and len(self._waiting) < WAITING // 2:
            lost, self._lost = self._lost, 0
            line = _encode({"level": "warn", "namespace": __name__, "text": f"LOST {lost} lines of the log"}) + line
        if len(self._waiting) + len(line) > WAITING:
            self._lost += 1
            line = b""
        self._waiting += line
        self._write()

    def flush(self) -> None:
        """Write what the pipe takes; to be called now and then, because a quiet worker has no next event."""
        with self._turn:
            self._write()

    def _write(self) -> None:
        try:
            while self._waiting:
                self._waiting = self._waiting[os.write(self._descriptor, self._waiting) :]
        except BlockingIOError:
            pass
        except OSError:
            self._waiting = b""  # nobody reads it any more


def _lineOf(event: LogEvent) -> bytes:
    level = event.get("log_level")
    found: dict[str, Any] = {
        "time": event.get("log_time", 0.0),
        "level": getattr(level, "name", "info"),
        "namespace": str(event.get("log_namespace", "")),
        "text": _cut(formatEvent(event)),
    }
    failure = event.get("log_failure")
    if failure is not None:
        found["traceback"] = _cut(shown(failure.getTraceback()))
    return _encode(found)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _encode(found: dict[str, Any]) -> bytes:
    return json.dumps(found).encode("ascii") + b"\n"


class Certificates:
    """What workers have said of the certificate in use: one that takes the place of another need not say it again."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def isNews(self, text: str, level: LogLevel) -> bool:
        """Return whether a line of `twisted_ws.wire.tls.server` says something that was not said; it is then."""
        if text in self._said:
            return False
        if level is LogLevel.info:  # of another certificate
            self._said.clear()
        self._said.add(text)
        return True


class PipeReader:
    """Puts the events of a worker into the log of this process.

    Args:
        worker: its number, from 1.
        publish: takes an event.
        certificates: what all workers have said of them.
    """

    def __init__(self, worker: int, publish: Any = globalLogPublisher, certificates: Certificates | None = None) -> None:
        self._worker = worker
        self._publish = publish
        self._certificates = certificates or Certificates()
        self._begun = b""

    def dataReceived(self, data: bytes) -> None:
        """Take what has come."""
        *lines, self._begun = (self._begun + data).split(b"\n")
        for line in lines:
            self._take(line)
        if len(self._begun) > LONGEST_LINE:
            self._take(self._begun)
            self._begun = b""

    def say(self, text: str, level: LogLevel = LogLevel.info, namespace: str = "", time: float = 0, traceback: str = "") -> None:
        """Log one line of it."""
        event: dict[str, Any] = {
            "log_format": "worker {log_worker}: {text}\n{traceback}" if traceback else "worker {log_worker}: {text}",
            "log_level": level,
            "log_namespace": namespace or __name__,
            "log_time": time,
            "log_worker": self._worker,
            "text": text,
            "log_logger": _log,
        }
        if traceback:
            event["traceback"] = traceback
        self._publish(event)

    def _take(self, line: bytes) -> None:
        try:
            found = json.loads(line)
            level = LogLevel.levelWithName(found["level"])
            if found["namespace"] == _CERTIFICATES and not self._certificates.isNews(found["text"], level):
                return
            self.say(found["text"], level, found["namespace"], float(found.get("time", 0)), found.get("traceback", ""))
        except Exception:  # it may have been cut
            self.say(line[:LONGEST].decode("utf-8", "replace"))


_log = Logger()
