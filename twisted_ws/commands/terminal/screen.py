"""The standard streams as a conversation uses them: bare, as JSON, or as a terminal with a line being typed."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

from twisted_ws.commands.terminal.display import Display, JSONDisplay, PlainDisplay, TerminalDisplay
from twisted_ws.commands.terminal.editor import Editor
from twisted_ws.commands.terminal.history import History, place
from twisted_ws.commands.terminal.sources import Blocks, Source, TextLines, Typed, Whole
from twisted_ws.commands.terminal.streams import Input, Output
from twisted_ws.commands.terminal.tty import Keys, canColour, canMove, columns


class Screen:
    """Chooses how to read and write, by the options and the streams.

    Args:
        reactor: the reactor.
        options: those of the command.
        streams: the descriptors of input and output.
        environment: describes the terminal.

    Attributes:
        output: takes bytes.
        display: writes to `output`.
        source: the messages to send; None: none.
    """

    def __init__(
        self,
        reactor: Any,
        options: Mapping[str, Any],
        streams: tuple[int, int] = (0, 1),
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        stdin, stdout = streams
        self._reactor = reactor
        self._keys: Keys | None = None
        self._terminal: TerminalDisplay | None = None
        self._continued: Any = None
        self.output = Output(reactor, stdout)
        self.display: Display = self._displayFor(stdout, options, environment)
        self.source: Source | None = None
        if not options["no-stdin"]:
            self.source = self._sourceFor(stdin, options, environment)

    def _displayFor(self, stdout: int, options: Mapping[str, Any], environment: Mapping[str, str]) -> Display:
        if options["json"]:
            return JSONDisplay(self.output.write)
        if os.isatty(stdout):
            self._terminal = TerminalDisplay(self.output.write, canColour(environment), columns=lambda: columns(stdout))
            return self._terminal
        return PlainDisplay(self.output.write, b"" if options["binary"] else b"\n")

    def _sourceFor(self, stdin: int, options: Mapping[str, Any], environment: Mapping[str, str]) -> Source:
        read = Input(self._reactor, stdin).read
        if options["whole"]:
            return Whole(read, bool(options["binary"]))
        if options["binary"]:
            return Blocks(read)
        if self._terminal is None or not os.isatty(stdin) or not canMove(environment):
            return TextLines(read)
        self._keys = Keys(stdin)
        editor = self._terminal.editor = Editor(History(place()))
        return Typed(read, editor, self._terminal.redraw)

    def open(self) -> None:
        """Take the terminal's keys, if there is a line to type."""
        if self._keys is not None:
            self._keys.take()
            self._continued = signal.signal(signal.SIGCONT, lambda *_: self._reactor.callFromThread(self._goOn))

    def _goOn(self) -> None:
        """Continue after Ctrl-Z: the shell has changed the terminal's mode."""
        if self._keys is not None and self._terminal is not None:
            self._keys.take()
            self._terminal.redraw()

    def close(self) -> None:
        """Leave the terminal as it was."""
        self.giveBack()
        if self._terminal is not None:
            self._terminal.endEditing()
        if self._continued is not None:
            signal.signal(signal.SIGCONT, self._continued)
            self._continued = None

    def giveBack(self) -> None:
        """Give the terminal's keys back."""
        keys, self._keys = self._keys, None
        if keys is not None:
            keys.giveBack()
