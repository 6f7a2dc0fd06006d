"""An editor for the line being typed: keys in, lines out. Pure.

Python's readline owns the terminal until Enter is pressed: what comes from the server meanwhile would be written into the
middle of the line. This one can be taken off the screen and put back at any time, and needs one row, however long the line is.
"""

from __future__ import annotations

import codecs
import unicodedata

from twisted_ws.commands.terminal.history import History
from twisted_ws.logs import shown

# What `Editor.feed` returns for Ctrl-D on an empty line.
END = None

ERASE = "\r\x1b[K"

# From what follows ESC to the name of the action; terminals differ.
_SEQUENCES = {
    **dict.fromkeys(("[A", "OA"), "older"),
    **dict.fromkeys(("[B", "OB"), "newer"),
    **dict.fromkeys(("[C", "OC"), "right"),
    **dict.fromkeys(("[D", "OD"), "left"),
    **dict.fromkeys(("[H", "OH", "[1~", "[7~"), "home"),
    **dict.fromkeys(("[F", "OF", "[4~", "[8~"), "end"),
    **dict.fromkeys(("[1;5C", "[1;3C", "f"), "wordRight"),
    **dict.fromkeys(("[1;5D", "[1;3D", "b"), "wordLeft"),
    "[3~": "delete",
    "\x7f": "killWordLeft",
    "d": "killWordRight",
}
_CONTROLS = {
    "\x01": "home",
    "\x02": "left",
    "\x04": "delete",
    "\x05": "end",
    "\x06": "right",
    "\x08": "backspace",
    "\x0b": "killRight",
    "\x0e": "newer",
    "\x10": "older",
    "\x15": "killLeft",
    "\x17": "killWordLeft",
    "\x19": "yank",
    "\x7f": "backspace",
}
# Longer ones do not come from a key.
_LONGEST_SEQUENCE = 16


def cells(text: str) -> int:
    """Return how many columns a text takes on a terminal."""
    return sum(map(_width, text))


def _width(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


class Editor:
    """One line with a cursor, a history, and the most used keys of readline.

    Args:
        history: the earlier lines; gets the new ones.

    Attributes:
        text: the line so far.
        cursor: the index of the character that the cursor is on.
    """

    def __init__(self, history: History) -> None:
        self.text = ""
        self.cursor = 0
        self._history = history
        self._back = 0  # how far up in the history
        self._draft = ""  # the line before going there
        self._killed = ""
        self._sequence: str | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> list[str | None]:
        """Take what the terminal sent; return the lines that were entered, and `END` at the end of the input."""
        done: list[str | None] = []
        for char in self._decoder.decode(data):
            if self._sequence is not None:
                self._goOn(self._sequence + char)
            elif char == "\x1b":
                self._sequence = ""
            elif char in "\r\n":
                done.append(self._enter())
            elif char == "\x04" and not self.text:
                done.append(END)
            elif char in _CONTROLS:
                getattr(self, f"_{_CONTROLS[char]}")()
            elif char >= " " or char == "\t":
                self._insert(char)
        return done

    def _goOn(self, sequence: str) -> None:
        self._sequence = sequence
        if sequence in ("[", "O"):
            return
        if sequence[0] == "[" and not "@" <= sequence[-1] <= "~" and len(sequence) < _LONGEST_SEQUENCE:
            return
        self._sequence = None
        if sequence in _SEQUENCES:
            getattr(self, f"_{_SEQUENCES[sequence]}")()

    def _enter(self) -> str:
        line = self.text
        self._history.add(line)
        self._set("")
        self._back, self._draft = 0, ""
        return line

    # On the screen.

    def drawn(self, prompt: str, width: int) -> str:
        """Return what draws the line on the terminal's row: as much of it as fits, with the cursor in its place.

        Args:
            prompt: goes before the line; without colours.
            width: the terminal's columns.
        """
        room = max(width - cells(prompt) - 1, 1)
        pieces = [shown(c).replace("\n", "\\n").replace("\t", "\\t") for c in self.text]
        widths = list(map(cells, pieces))
        start, over = 0, sum(widths[: self.cursor]) - room
        while over > 0:
            over -= widths[start]
            start += 1
        before = "".join(pieces[start : self.cursor])
        after, left = "", room - cells(before)
        for piece, width in zip(pieces[self.cursor :], widths[self.cursor :], strict=True):
            left -= width
            if left < 0:
                break
            after += piece
        back = cells(after)
        return f"{ERASE}{prompt}{before}{after}" + (f"\x1b[{back}D" if back else "")

    # The keys.

    def _set(self, text: str) -> None:
        self.text = text
        self.cursor = len(text)

    def _insert(self, text: str) -> None:
        self.text = self.text[: self.cursor] + text + self.text[self.cursor :]
        self.cursor += len(text)

    def _cut(self, start: int, end: int) -> str:
        cut = self.text[start:end]
        self.text = self.text[:start] + self.text[end:]
        self.cursor = start
        return cut

    def _wordStart(self) -> int:
        return len(self.text[: self.cursor].rstrip().rpartition(" ")[0] + " ") if " " in self.text[: self.cursor].rstrip() else 0

    def _wordEnd(self) -> int:
        rest = self.text[self.cursor :]
        skipped = len(rest) - len(rest.lstrip())
        return self.cursor + skipped + len(rest.lstrip().partition(" ")[0])

    def _left(self) -> None:
        self.cursor = max(self.cursor - 1, 0)

    def _right(self) -> None:
        self.cursor = min(self.cursor + 1, len(self.text))

    def _home(self) -> None:
        self.cursor = 0

    def _end(self) -> None:
        self.cursor = len(self.text)

    def _wordLeft(self) -> None:
        self.cursor = self._wordStart()

    def _wordRight(self) -> None:
        self.cursor = self._wordEnd()

    def _backspace(self) -> None:
        if self.cursor:
            self._cut(self.cursor - 1, self.cursor)

    def _delete(self) -> None:
        self._cut(self.cursor, self.cursor + 1)

    def _killLeft(self) -> None:
        self._killed = self._cut(0, self.cursor)

    def _killRight(self) -> None:
        self._killed = self._cut(self.cursor, len(self.text))

    def _killWordLeft(self) -> None:
        self._killed = self._cut(self._wordStart(), self.cursor)

    def _killWordRight(self) -> None:
        self._killed = self._cut(self.cursor, self._wordEnd())

    def _yank(self) -> None:
        self._insert(self._killed)

    def _older(self) -> None:
        if self._back < len(self._history.lines):
            if not self._back:
                self._draft = self.text
            self._back += 1
            self._set(self._history.lines[-self._back])

    def _newer(self) -> None:
        if self._back:
            self._back -= 1
            self._set(self._history.lines[-self._back] if self._back else self._draft)
