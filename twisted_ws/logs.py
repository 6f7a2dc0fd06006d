"""Text that is safe in a log, and not too much of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

# Lines of level debug of one kind that are written in ten seconds: whoever asks for them wants to see more than a few.
DETAILS = 1000

# Whether anybody wants lines of level debug. Whoever would write one for each connection looks here first: one that nobody wants
# still takes 3 us.
details = False

# What moves the cursor, ends a line or changes the direction of text: C0 and C1 controls, line and paragraph separators, bidi
# controls; and surrogates, which no log file can encode.
_UNSAFE = (
    *range(0x20),
    *range(0x7F, 0xA0),
    0x061C,
    0x200E,
    0x200F,
    0x2028,
    0x2029,
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
    *range(0xD800, 0xE000),
    0xFEFF,
)
_ESCAPES = {code: repr(chr(code))[1:-1] for code in _UNSAFE} | {ord("\\"): "\\\\"}
_ESCAPES_IN_LINES = {code: repr(chr(code))[1:-1] for code in _UNSAFE if code not in (ord("\n"), ord("\t"))}


def peerName(address: str, port: int = 0) -> str:
    """Return what a log calls a peer.

    Args:
        address: its IP address as text; "" on a UNIX socket.
        port: its port; 0 if it is not known.
    """
    if not address:
        return "a local socket"
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def printable(text: object, limit: int = 256) -> str:
    """Return what a peer sent in a form that is safe in a log: escaped, and cut to `limit` characters and an ellipsis.

    Args:
        text: str, bytes (read as Latin-1), or anything else (its str).
        limit: how many characters of the escaped text to keep.
    """
    plain = text[: limit + 1].decode("latin-1") if isinstance(text, (bytes, bytearray)) else str(text)[: limit + 1]
    escaped = plain.translate(_ESCAPES)
    return escaped if len(escaped) <= limit else escaped[:limit] + "…"


def shown(text: str, limit: int = 32 * 1024) -> str:
    """Return a text of several lines, such as a traceback, in a form that is safe in a log: escaped, and shortened in the middle.

    A traceback ends with the text of the exception, which may contain what a peer sent.

    Args:
        text: the text.
        limit: about how many characters to keep.
    """
    if len(text) > limit:
        text = f"{text[: limit // 2]}… ({len(text) - limit} characters) …{text[-limit // 2 :]}"
    return text.translate(_ESCAPES_IN_LINES)


def ofRequest(request: Any) -> dict[str, Any]:
    """Return the fields of a line of the log that an `UpgradeRequest` knows: peer, path and origin."""
    origin = request.headers.get("origin")
    fields: dict[str, Any] = {"peer": peerName(request.peerAddress), "path": printable(request.path)}
    if origin is not None:
        fields["origin"] = printable(origin)
    return fields


def ofCaller(caller: Any) -> dict[str, Any]:
    """Return the fields that a caller or visitor knows: its connection, who it is, and those of its request."""
    fields = {"connection": caller.connectionId, **ofRequest(caller.request)}
    if caller.user is not None:
        fields["user"] = printable(caller.user)
    return fields


class Throttle:
    """Lets at most `lines` lines of one kind pass in `seconds` seconds, and says in the next how many were left out.

    A peer that can make a server write one line could make it fill the disk with lines.
    """

    def __init__(self, clock: Callable[[], float], lines: int = 10, seconds: float = 10) -> None:
        self._clock = clock
        self._lines = lines
        self._seconds = seconds
        self._windows: dict[str, tuple[float, int]] = {}

    def info(self, log: Logger, kind: str, template: str, **fields: object) -> None:
        """Log at info unless there were too many of `kind`, which is one of a few fixed texts; `template` is the log format."""
        if turn := self.allows(kind):
            log.info(template, suppressed=turn - 1, **fields)

    def allows(self, kind: str) -> int:
        """Count a line of `kind`, and return 0 if it must be left out, for lines that are costly to build.

        Else return 1 more than the number of those that were left out since the last one: its field `suppressed` is 1 less.
        """
        now = self._clock()
        begin, count = self._windows.get(kind, (now, 0))
        suppressed = 0
        if now - begin >= self._seconds:
            suppressed = max(count - self._lines, 0)
            begin, count = now, 0
        self._windows[kind] = (begin, count + 1)
        return suppressed + 1 if count < self._lines else 0
