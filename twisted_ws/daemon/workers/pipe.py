"""The log of a worker: one JSON object for each event, on a pipe to the supervisor, which has the log file."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from typing import Any

import msgspec
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, globalLogPublisher
from zope.interface import implementer

from twisted_ws.limits import KIB, MIB
from twisted_ws.telemetry.records import FIELDS, OTHER, TEXT, VALUE, Record, recordOf

# Characters of what a worker prints that are passed on in one piece, at most.
LONGEST = 64 * KIB
# Bytes that wait while the supervisor does not read: after that, lines are lost and counted.
WAITING = 1 * MIB
# What logs the certificate in use.
_CERTIFICATES = "twisted_ws.wire.tls.server"
# Bytes of one line, at most: every character of the texts and fields escaped, twice.
LONGEST_LINE = 2 * 6 * (2 * TEXT + len(FIELDS) * VALUE) + 4 * KIB


@implementer(ILogObserver)
class PipeObserver:
    """Writes events to a pipe, and never waits for its reader.

    Args:
        descriptor: that of the pipe.

    Attributes:
        users: whether lines say who somebody is.
        lost: the lines that were lost so far.
    """

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.users = False
        self.lost = 0
        self._descriptor = descriptor
        self._waiting = b""
        self._untold = 0
        self._turn = threading.Lock()  # a watchdog's thread writes, too

    def __call__(self, event: LogEvent) -> None:
        """Write one event, or keep it for the next time."""
        line = msgspec.json.encode(recordOf(event, self.users)) + b"\n"
        with self._turn:
            self._add(line)

    def _add(self, line: bytes) -> None:
        if self._untold and len(self._waiting) < WAITING // 2:
            lost, self._untold = self._untold, 0
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            told = Record(now, "warn", __name__, "log.lost", f"LOST {lost} lines of the log", count=lost)
            line = msgspec.json.encode(told) + b"\n" + line
        if len(self._waiting) + len(line) > WAITING:
            self.lost += 1
            self._untold += 1
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

    Attributes:
        begun: the beginning of a line that has come.
    """

    def __init__(self, worker: int, publish: Any = globalLogPublisher, certificates: Certificates | None = None) -> None:
        self._worker = worker
        self._publish = publish
        self._certificates = certificates or Certificates()
        self.begun = b""

    def dataReceived(self, data: bytes) -> None:
        """Take what has come."""
        *lines, self.begun = (self.begun + data).split(b"\n")
        for line in lines:
            self._take(line)
        if len(self.begun) > LONGEST_LINE:
            self._take(self.begun)
            self.begun = b""

    def say(self, text: str, time: float = 0) -> None:
        """Log a line that it has printed."""
        when = datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds")
        self._pass(Record(when, "info", __name__, OTHER, text), LogLevel.info)

    def _pass(self, record: Record, level: LogLevel) -> None:
        event: dict[str, Any] = {
            "log_format": "worker {worker}: {text}\n{traceback}" if record.traceback else "worker {worker}: {text}",
            "log_level": level,
            "log_namespace": record.namespace or __name__,
            "log_time": datetime.fromisoformat(record.time).timestamp(),
            "log_logger": _log,
            "log_record": msgspec.structs.replace(record, worker=self._worker),
            "event": record.event,
            "text": record.message,
            "worker": self._worker,
        }
        if record.traceback:
            event["traceback"] = record.traceback
        if record.suppressed:
            event["suppressed"] = record.suppressed
        self._publish(event)

    def _take(self, line: bytes) -> None:
        try:
            record = _decode(line)
            level = LogLevel.levelWithName(record.level)
            if record.namespace == _CERTIFICATES and not self._certificates.isNews(record.message, level):
                return
            self._pass(record, level)
        except Exception:  # it may have been cut
            self.say(line[:LONGEST].decode("utf-8", "replace"))


_log = Logger()
_decode = msgspec.json.Decoder(Record).decode
