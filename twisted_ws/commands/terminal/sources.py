"""The messages to send: lines, blocks, the whole input, or what is typed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred

from twisted_ws.commands.terminal.editor import Editor
from twisted_ws.commands.terminal.streams import Lines
from twisted_ws.errors import ConfigurationError

# Bytes of a message that is the whole input, which is kept in memory.
MOST = 64 * 1024 * 1024

Read = Callable[[], Deferred[bytes]]


class Source(Protocol):
    """Provides the messages to send."""

    async def next(self) -> list[str | bytes] | None:
        """Return the messages to send now; None at the end.

        Raises:
            ConfigurationError: the input cannot be sent; the text says what to do.
        """


class TextLines:
    """Makes each line a text message.

    Args:
        read: returns the next block, ``b""`` at the end.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._lines = Lines()
        self._count = 0
        self._ended = False

    async def next(self) -> list[str | bytes] | None:
        """Return the lines that are complete."""
        if self._ended:
            return None
        block = await self._read()
        self._ended = not block
        return [self._text(line) for line in self._lines.feed(block)]

    def _text(self, line: bytes) -> str:
        self._count += 1
        try:
            return line.decode()
        except UnicodeDecodeError:
            raise ConfigurationError(f"Line {self._count} on standard input is not UTF-8: use --binary to send bytes.") from None


class Blocks:
    """Makes each block a binary message, as it comes."""

    def __init__(self, read: Read) -> None:
        self._read = read

    async def next(self) -> list[str | bytes] | None:
        """Return the next block."""
        block = await self._read()
        return [block] if block else None


class Whole:
    """Makes the whole input one message.

    Args:
        read: returns the next block, ``b""`` at the end.
        isBinary: whether the message is binary.
    """

    def __init__(self, read: Read, isBinary: bool) -> None:
        self._read = read
        self._isBinary = isBinary
        self._ended = False

    async def next(self) -> list[str | bytes] | None:
        """Return the message."""
        if self._ended:
            return None
        blocks, size = [], 0
        while block := await self._read():
            blocks.append(block)
            size += len(block)
            if size > MOST:
                raise ConfigurationError(f"Standard input has more than {MOST} bytes: leave out --whole to send it in pieces.")
        self._ended = True
        data = b"".join(blocks)
        if self._isBinary:
            return [data]
        try:
            return [data.decode()]
        except UnicodeDecodeError:
            raise ConfigurationError("Standard input is not UTF-8: use --binary to send bytes.") from None


class Typed:
    """Makes each line that is typed a text message.

    Args:
        read: returns what the terminal sends.
        editor: edits the line.
        redraw: shows the line as it is now.
    """

    def __init__(self, read: Read, editor: Editor, redraw: Callable[[], None]) -> None:
        self._read = read
        self._editor = editor
        self._redraw = redraw
        self._ended = False

    async def next(self) -> list[str | bytes] | None:
        """Return the lines that were entered."""
        if self._ended:
            return None
        block = await self._read()
        lines: list[str | bytes] = []
        for line in self._editor.feed(block):
            if line is None:
                self._ended = True
                break
            lines.append(line)
        self._ended = self._ended or not block
        if not lines:
            self._redraw()
        return lines
