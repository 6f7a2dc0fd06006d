"""Who did what over the HTTP API: one line of JSON for each call, and one each time the file is opened."""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec
from twisted.logger import Logger

from twisted_ws.errors import ConfigurationError
from twisted_ws.logs import printable

# Bytes that are kept until they are written in one piece, and seconds until they are.
BUFFER = 64 * 1024
FLUSH = 1.0
# Bytes that are kept while the file cannot be written, before lines are lost.
MOST = 1024 * 1024

_log = Logger()


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call.

    Attributes:
        time: Unix time, seconds.
        key: the name of the key, or of the user with a password; "" if nobody needs credentials.
        operation: the operation's name in the OpenAPI document, such as "publish"; "broadcast" for all callers; "open" if this
            is no call: the file was opened here.
        status: of the response.
        address: where the call came from.
        bytes: of the body.
        channel, id: the channel, and what was published to it.
        count: of a batch: its messages.
        connection, user, token: whom it was about.
    """

    time: float
    key: str
    operation: str
    status: int
    address: str
    bytes: int = 0
    channel: str = ""
    id: str = ""
    count: int = 0
    connection: str = ""
    user: str = ""
    token: str = ""


class AuditLog:
    """A file that gets one line of JSON for each `Entry`, soon; what the disk does not take is counted, and said once.

    It begins with a line of its own, so that a full disk is known before the first call.

    Args:
        path: the file; lines are added at its end. It is made with mode 0600.
        reactor: the reactor.

    Attributes:
        lost: the lines that could not be kept.

    Raises:
        ConfigurationError: the file cannot be opened; the text says why.
    """

    def __init__(self, path: str, reactor: Any) -> None:
        self._path = path
        self._reactor = reactor
        self._file = self._open()
        self._lines: list[bytes] = []
        self._size = 0
        self._later: Any = None
        self._isFailing = False
        self.lost = 0
        self._begin()

    def _begin(self) -> None:
        self.note(Entry(time.time(), "", "open", 0, ""))
        self.flush()

    def _open(self) -> int:
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
            return os.open(self._path, flags, 0o600)
        except OSError as error:
            raise ConfigurationError(f"The audit log {printable(self._path)} cannot be opened: {error.strerror}.") from None

    def give(self, uid: int, gid: int) -> None:
        """Make the file that of the user that the process will change to; -1 for one that stays."""
        os.fchown(self._file, uid, gid)

    def note(self, entry: Entry) -> None:
        """Add an entry."""
        line = msgspec.json.encode(entry) + b"\n"
        if self._size + len(line) > MOST:
            self.lost += 1
            return
        self._lines.append(line)
        self._size += len(line)
        if self._size >= BUFFER and not self._isFailing:
            self.flush()
        elif self._later is None:
            self._later = self._reactor.callLater(FLUSH, self.flush)

    def flush(self) -> None:
        """Write what is kept."""
        later, self._later = self._later, None
        if later is not None and later.active():
            later.cancel()
        if not self._lines:
            return
        data = b"".join(self._lines)
        try:
            written = os.write(self._file, data)
        except OSError as error:
            written = 0
            if not self._isFailing:
                _log.error(
                    "The audit log {file} cannot be written ({reason}): its lines are kept for a while, then lost.",
                    file=printable(self._path),
                    reason=error.strerror,
                    event="audit.lost",
                )
            self._isFailing = True
        else:
            if self._isFailing:
                _log.warn(
                    "The audit log {file} is written again; {count} lines are lost",
                    file=printable(self._path),
                    count=self.lost,
                    event="audit.written",
                )
            self._isFailing = False
        rest = data[written:]
        self._lines, self._size = [rest] if rest else [], len(rest)
        if rest:
            self._later = self._reactor.callLater(FLUSH, self.flush)

    def reopen(self) -> None:
        """Open the file of this name anew, because the other one was moved away; if that fails, the old one goes on."""
        self.flush()
        try:
            new = self._open()
        except ConfigurationError as error:
            _log.error("{reason} The old file stays in use.", reason=str(error), event="audit.kept")
            return
        os.close(self._file)
        self._file = new
        self._begin()

    def close(self) -> None:
        """Write the rest, and end; say what cannot be written any more."""
        self.flush()
        if self._lines:
            rest = b"".join(self._lines).count(b"\n")
            self.lost += rest
            _log.error(
                "The audit log {file} cannot be written: {count} lines are lost with the end of the server",
                file=printable(self._path),
                count=rest,
                event="audit.lost",
            )
        if self._later is not None:
            self._later.cancel()
            self._later = None
        os.close(self._file)
