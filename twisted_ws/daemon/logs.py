"""The log of the daemon: text as twistd writes it, or one JSON object per line; and what happens if it cannot be written."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO, Any

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
    formatEventAsClassicLogText,
)
from twisted.python.logfile import LogFile
from zope.interface import implementer, provider

from twisted_ws.errors import ConfigurationError
from twisted_ws.logs import shown

# twistd's own log file rotates at a megabyte and keeps all old files, until the disk is full.
ROTATE_BYTES = 10_000_000
ROTATED_FILES = 10
# For the owner, and for a group of administrators: a log names addresses and users.
FILE_MODE = 0o640


def jsonObserver(file: IO[str]) -> ILogObserver:
    """Return an observer that writes one object per line.

    It has time (UTC), level, namespace, message, a failure's traceback, and the number of the worker that it is from, if any.
    """

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        time = datetime.fromtimestamp(event.get("log_time", 0), UTC).isoformat(timespec="milliseconds")
        level = event.get("log_level")
        line: dict[str, Any] = {
            "time": time,
            "level": getattr(level, "name", "info"),
            "namespace": event.get("log_namespace", ""),
            "message": event["text"] if "log_worker" in event else formatEvent(event),
        }
        if "log_worker" in event:
            line["worker"] = event["log_worker"]
            if "traceback" in event:
                line["traceback"] = event["traceback"]
        failure = event.get("log_failure")
        if failure is not None:
            line["traceback"] = shown(failure.getTraceback())
        file.write(json.dumps(line) + "\n")
        file.flush()

    observer: ILogObserver = observe
    return observer


def textObserver(file: IO[str]) -> ILogObserver:
    """Return an observer that writes like Twisted's own, but nothing that could move a terminal's cursor or forge a line.

    Characters that the encoding of `file` lacks are escaped.
    """
    encoding = getattr(file, "encoding", None) or "utf-8"

    def text(event: LogEvent) -> str | None:
        line = formatEventAsClassicLogText(event)
        return None if line is None else shown(line).encode(encoding, "backslashreplace").decode(encoding)

    return FileLogObserver(file, text)


@implementer(ILogObserver)
class LossCounter:
    """Passes events on, and counts those that cannot be written: a full disk must not stop a server, nor go unnoticed.

    Args:
        observer: the observer that writes.
        complain: called with one line when the first event is lost, and when writing works again.

    Attributes:
        lost: how many events have been lost so far.
    """

    def __init__(self, observer: Any, complain: Callable[[str], None]) -> None:
        self._observer = observer
        self._complain = complain
        self._losing = False
        self.lost = 0

    def __call__(self, event: LogEvent) -> None:
        """Pass one event on."""
        try:
            self._observer(event)
        except OSError as error:
            self.lost += 1
            if not self._losing:
                self._losing = True
                self._complain(f"twisted_ws: the log cannot be written ({error.strerror}); lines are lost from now on")
        else:
            if self._losing:
                self._losing = False
                self._complain(f"twisted_ws: the log can be written again; LOST {self.lost} lines so far")


def observerFor(logFormat: str, file: IO[str]) -> ILogObserver:
    """Return the observer for ``--log-format``, from level info on; it reports lost lines on standard error."""
    observer = jsonObserver(file) if logFormat == "json" else textObserver(file)
    levels = LogLevelFilterPredicate(LogLevel.info)
    return FilteringLogObserver(LossCounter(observer, _complain), [levels])


class _OwnedLogFile(LogFile):
    """A log file owned by a given user and group, which could not rotate one that root opened.

    Attributes:
        owner: their ids; -1 leaves it unchanged.
    """

    owner = (-1, -1)

    def _openFile(self) -> None:
        super()._openFile()  # type: ignore[no-untyped-call]
        self.give(*self.owner)

    def give(self, uid: int, gid: int) -> None:
        """Give them this file and all that follow it."""
        self.owner = uid, gid
        if (uid, gid) != (-1, -1) and os.geteuid() == 0:
            os.fchown(self._file.fileno(), uid, gid)


def openLogFile(path: str, uid: int = -1, gid: int = -1) -> Any:
    """Return the log file (a `LogFile`), which is rotated at 10 MB and when `rotate` is called; ten old files are kept.

    Args:
        path: its path.
        uid: its owner if root opens it; -1: the user that opens it.
        gid: the same for the group.

    Raises:
        ConfigurationError: it cannot be opened.
    """
    try:
        file = _OwnedLogFile.fromFullPath(  # type: ignore[no-untyped-call]
            path, rotateLength=ROTATE_BYTES, maxRotatedFiles=ROTATED_FILES, defaultMode=FILE_MODE
        )
        file.give(uid, gid)
    except OSError as error:
        raise ConfigurationError(f"The log file {path} cannot be written: {error.strerror}.") from None
    return file


def _complain(line: str) -> None:
    try:
        print(line, file=sys.__stderr__, flush=True)
    except (OSError, ValueError, AttributeError):
        pass  # standard error is gone too, as in a daemon
