"""What is to be sent: lines, blocks, all of it as one, or what is typed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred

from twisted_ws.commands.streams import Lines
from twisted_ws.commands.terminal.editor import Editor
from twisted_ws.errors import ConfigurationError

__all__ = ["Blocks", "Source", "TextLines", "Typed", "Whole"]

# Bytes of a message that is all of the input: what is read is kept.
MOST = 64 * 1024 * 1024

Read = Callable[[], Deferred[bytes]]


class Source(Protocol):
    """Gives messages."""

    async def next(self) -> list[str | bytes] | None:
        """Return messages that are to be sent now; None at the end.

        Raises:
            ConfigurationError: what comes cannot be sent; the text says what to do.
        """


class TextLines:
    """Each line is a text message.

    Args:
        read: gives the next block, ``b""`` at the end.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._lines = Lines()
        self._count = 0
        self._ended = False

    async def next(self) -> list[str | bytes] | None:
        """Return the lines that are whole."""
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
            raise ConfigurationError(f"Line {self._count} on standard input is not UTF-8: --binary sends bytes.") from None


class Blocks:
    """Each block is a binary message, as it comes."""

    def __init__(self, read: Read) -> None:
        self._read = read

    async def next(self) -> list[str | bytes] | None:
        """Return the next block."""
        block = await self._read()
        return [block] if block else None


class Whole:
    """All of the input is one message.

    Args:
        read: gives the next block, ``b""`` at the end.
        isBinary: whether it is a binary message.
    """

    def __init__(self, read: Read, isBinary: bool) -> None:
        self._read = read
        self._isBinary = isBinary
        self._ended = False

    async def next(self) -> list[str | bytes] | None:
        """Return it."""
        if self._ended:
            return None
        blocks, size = [], 0
        while block := await self._read():
            blocks.append(block)
            size += len(block)
            if size > MOST:
                raise ConfigurationError(f"Standard input has more than {MOST} bytes: leave out --whole, and it goes in pieces.")
        self._ended = True
        data = b"".join(blocks)
        if self._isBinary:
            return [data]
        try:
            return [data.decode()]
        except UnicodeDecodeError:
            raise ConfigurationError("Standard input is not UTF-8: --binary sends bytes.") from None


class Typed:
    """Each line that is typed is a text message.

    Args:
        read: gives what the terminal sends.
        editor: the line.
        redraw: shows the line as it is now.
    """

    def __init__(self, read: Read, editor: Editor, redraw: Callable[[], None]) -> None:
        self._read = read
        self._editor = editor
        self._redraw = redraw
        self._ended = False

    async def next(self) -> list[str | bytes] | None:
        """Return the lines that are done."""
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
