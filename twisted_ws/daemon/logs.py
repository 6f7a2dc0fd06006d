"""The log of the daemon: text as twistd writes it, or one JSON object per line; and what happens if it cannot be written."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from io import TextIOBase
from typing import IO, Any, TypeAlias

import msgspec
from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    LogPublisher,
    formatEventAsClassicLogText,
)
from twisted.python.logfile import LogFile
from zope.interface import implementer, provider

from twisted_ws import logs
from twisted_ws.errors import ConfigurationError
from twisted_ws.logs import shown
from twisted_ws.telemetry.records import RecentRecords, recordOf

# twistd's own log file rotates at a megabyte and keeps all old files, until the disk is full.
ROTATE_BYTES = 10_000_000
ROTATED_FILES = 10
# For the owner, and for a group of administrators: a log names addresses and users.
FILE_MODE = 0o640

# From which level on events are written, by namespace; "" is all that have no other.
Levels: TypeAlias = tuple[tuple[str, str], ...]


def jsonObserver(file: IO[Any], users: bool = False) -> ILogObserver:
    """Return an observer that writes each event as a `Record`, one object of JSON per line.

    Args:
        file: where to, as UTF-8 if it is bytes that end up there.
        users: whether the lines say who somebody is.
    """
    write = _writer(file)

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        write(msgspec.json.encode(recordOf(event, users)) + b"\n")

    observer: ILogObserver = observe
    return observer


def textObserver(file: IO[Any]) -> ILogObserver:
    """Return an observer that writes like Twisted's own, but nothing that could move a terminal's cursor or forge a line.

    It writes UTF-8, whatever the encoding of `file` is: logs are read elsewhere.
    """
    write = _writer(file)

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        line = formatEventAsClassicLogText(event)
        if line is not None:
            suppressed = event.get("suppressed")
            if suppressed:
                line = f"{line.rstrip()} ({suppressed} more like this were left out before)\n"
            write(shown(line).encode("utf-8", "backslashreplace"))

    observer: ILogObserver = observe
    return observer


def _writer(file: IO[Any]) -> Callable[[bytes], None]:
    """Return what writes UTF-8 to a file, and flushes it: to what is below a text file, which may have another encoding."""
    raw: IO[Any] | None = getattr(file, "buffer", None)
    isText = isinstance(file, TextIOBase) and raw is None
    file.flush()

    def write(data: bytes) -> None:
        to = file if raw is None else raw  # the one above it closes it when nobody holds it any more
        to.write(data.decode("utf-8") if isText else data)
        to.flush()

    return write


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


class DaemonLog:
    """The log of a process: where it goes, from which levels on, and what of it is kept.

    Args:
        logFormat: "text" or "json".
        levels: see `setLevels`.
        recent: keeps warnings and errors; None: nothing does.
        users: whether lines say who somebody is.

    Attributes:
        isUsed: whether there is an observer, which then feeds `recent`.
    """

    def __init__(
        self,
        logFormat: str = "text",
        levels: Levels = (),
        recent: RecentRecords | None = None,
        users: bool = False,
    ) -> None:
        self._format = logFormat
        self._users = users
        self._recent = recent
        self._predicate = LogLevelFilterPredicate(LogLevel.info)
        self._counters: list[LossCounter] = []
        self.isUsed = False
        self.setLevels(levels)

    def setLevels(self, levels: Levels) -> None:
        """Write from these levels on, from now on.

        Args:
            levels: pairs of a namespace and a level; they hold for what is below the namespace too, and "" is all others, which
                begin with info.
        """
        setLevels(self._predicate, levels)

    def observer(self, file: IO[Any]) -> ILogObserver:
        """Return an observer that writes to a file; it reports lost lines on standard error."""
        self.isUsed = True
        write = jsonObserver(file, self._users) if self._format == "json" else textObserver(file)
        counter = LossCounter(write, _complain)
        self._counters.append(counter)
        filtered = FilteringLogObserver(counter, [self._predicate])
        return filtered if self._recent is None else LogPublisher(filtered, self._recent)

    @property
    def lost(self) -> int:
        """The lines that could not be written so far."""
        return sum(counter.lost for counter in self._counters)


def setLevels(predicate: LogLevelFilterPredicate, levels: Levels) -> None:
    """Let a predicate pass these levels; see `DaemonLog.setLevels`."""
    logs.details = any(level == "debug" for _, level in levels)
    predicate.clearLogLevels()
    for namespace, level in levels:
        predicate.setLogLevelForNamespace(namespace, LogLevel.levelWithName(level))


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
