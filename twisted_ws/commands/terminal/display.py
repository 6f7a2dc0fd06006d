"""What the user sees of a connection: bare messages, JSON for programs, or a transcript on a terminal."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from twisted_ws.commands.terminal.editor import ERASE, Editor
from twisted_ws.logs import shown

# Characters of a complaint.
LONGEST = 1000

_COLOURS = {"<": "36", ">": "32", "*": "2", "!": "1;31"}


def complain(text: str) -> None:
    """Write one line on standard error."""
    if sys.stderr is not None:
        try:
            print(f"twisted-ws: {oneLine(text[:LONGEST])}", file=sys.stderr, flush=True)
        except OSError:
            pass  # no one reads it


def oneLine(text: str) -> str:
    """Return what a peer sent as one line that cannot control the terminal; nothing is cut."""
    return shown(text, len(text)).replace("\n", "\\n").replace("\t", "\\t")


def jsonLine(value: object) -> bytes:
    """Return a line of JSON, in ASCII, so that it cannot control a terminal either."""
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


class Display:
    """Shows what happens on a connection; a subclass leaves out what it does not show."""

    def opened(self, url: str, subProtocol: str | None, again: bool) -> None:
        """Show that a connection is open, perhaps `again`."""

    def message(self, message: str | bytes) -> None:
        """Show a message that came."""

    def sent(self, message: str | bytes) -> None:
        """Show a message from the input that is on its way."""

    def ping(self, data: bytes) -> None:
        """Show a ping from the server, which is answered."""

    def pong(self, data: bytes, seconds: float | None) -> None:
        """Show a pong that came `seconds` after our ping; None: it was unsolicited."""

    def closed(self, code: int, reason: str) -> None:
        """Show that the connection is closed."""

    def failed(self, text: str) -> None:
        """Show the error that ends the conversation; a complaint follows on standard error."""

    def note(self, text: str) -> None:
        """Show a notice, for example about another attempt."""
        complain(text)


class PlainDisplay(Display):
    """Writes payloads, and nothing else.

    Args:
        write: takes bytes for standard output.
        end: what follows each message.
    """

    def __init__(self, write: Callable[[bytes], None], end: bytes = b"\n") -> None:
        self._write = write
        self._end = end

    def message(self, message: str | bytes) -> None:
        """Write it."""
        self._write((message.encode() if isinstance(message, str) else message) + self._end)


class JSONDisplay(Display):
    """Writes each event as a JSON object on its own line, in ASCII, so that it cannot control a terminal either.

    Args:
        write: takes bytes for standard output.
        now: returns the time.
    """

    def __init__(self, write: Callable[[bytes], None], now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._write = write
        self._now = now

    def _event(self, kind: str, data: object, **more: object) -> None:
        time = self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._write(jsonLine({"type": kind, "time": time, "data": data, **more}))

    def opened(self, url: str, subProtocol: str | None, again: bool) -> None:
        """Write the URL and the subprotocol."""
        self._event("open", {"url": url, "subprotocol": subProtocol})

    def message(self, message: str | bytes) -> None:
        """Write it."""
        if isinstance(message, str):
            self._event("text", message)
        else:
            self._event("binary", _base64(message))

    def ping(self, data: bytes) -> None:
        """Write its payload."""
        self._event("ping", _base64(data))

    def pong(self, data: bytes, seconds: float | None) -> None:
        """Write its payload, and the round trip in seconds."""
        more: dict[str, Any] = {} if seconds is None else {"seconds": round(seconds, 6)}
        self._event("pong", _base64(data), **more)

    def closed(self, code: int, reason: str) -> None:
        """Write code and reason."""
        self._event("close", {"code": code, "reason": reason})

    def failed(self, text: str) -> None:
        """Write it."""
        self._event("error", text)


class TerminalDisplay(Display):
    """Writes a transcript with the time, direction and text of each message, and below it the line being typed.

    Args:
        write: takes bytes for the terminal.
        colour: whether to use colours.
        editor: edits the line being typed; None if there is none.
        columns: returns the width of the terminal.
        now: returns the time.
    """

    PROMPT = "> "

    def __init__(
        self,
        write: Callable[[bytes], None],
        colour: bool,
        editor: Editor | None = None,
        columns: Callable[[], int] = lambda: 80,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._write = write
        self._colour = colour
        self._columns = columns
        self._now = now
        self.editor = editor

    def _line(self, sign: str, text: str) -> None:
        stamp = f"{self._now():%H:%M:%S}"
        line = f"{stamp} {sign} {text}"
        if self._colour:
            colour = _COLOURS[sign]
            line = f"\x1b[2m{stamp}\x1b[0m \x1b[{colour}m{sign if sign in '<>' else f'{sign} {text}'}\x1b[0m"
            line += f" {text}" if sign in "<>" else ""
        self._write(f"{ERASE if self.editor else ''}{line}\n{self._edited()}".encode())

    def _edited(self) -> str:
        return self.editor.drawn(self.PROMPT, self._columns()) if self.editor else ""

    def redraw(self) -> None:
        """Show the line being typed as it is now."""
        self._write(self._edited().encode())

    def endEditing(self) -> None:
        """Take the line being typed off the screen."""
        if self.editor is not None:
            self.editor = None
            self._write(ERASE.encode())

    def _data(self, data: bytes) -> str:
        return f"({len(data)} bytes) {data.hex(' ')}"

    def opened(self, url: str, subProtocol: str | None, again: bool) -> None:
        """Show it."""
        spoken = f", subprotocol {subProtocol}" if subProtocol else ""
        self._line("*", f"connected{' again' if again else ''} to {oneLine(url)}{spoken}")

    def message(self, message: str | bytes) -> None:
        """Show it, escaped: a server must not control the terminal."""
        self._line("<", oneLine(message) if isinstance(message, str) else self._data(message))

    def sent(self, message: str | bytes) -> None:
        """Show it, if it was typed."""
        if self.editor is not None:
            self._line(">", oneLine(message) if isinstance(message, str) else self._data(message))

    def pong(self, data: bytes, seconds: float | None) -> None:
        """Show the round trip."""
        if seconds is not None:
            self._line("*", f"pong after {seconds * 1000:.3g} ms")

    def closed(self, code: int, reason: str) -> None:
        """Show code and reason."""
        self.endEditing()
        self._line("*", f"closed with {code}{f' ({oneLine(reason)})' if reason else ''}")

    def failed(self, text: str) -> None:
        """Make room for the complaint."""
        self.endEditing()

    def note(self, text: str) -> None:
        """Show it."""
        self._line("!", oneLine(text))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
