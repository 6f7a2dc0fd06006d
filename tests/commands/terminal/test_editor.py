from __future__ import annotations

import re

import pytest

from twisted_ws.commands.terminal.editor import END, Editor, cells
from twisted_ws.commands.terminal.history import History


def editor(*lines: str) -> Editor:
    """Return one with a history."""
    history = History(None)
    for line in lines:
        history.add(line)
    return Editor(history)


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ("hello", "hello"),
        ("helo\x1b[Dl", "hello"),
        ("hxello\x01\x06\x1b[3~", "hello"),
        ("hxello\x1b[H\x1b[C\x04", "hello"),
        ("hello!\x7f", "hello"),
        ("hello!\x08", "hello"),
        ("\x7fhello\x1b[C\x1b[3~", "hello"),
        ("ello\x01h", "hello"),
        ("ell\x1bOHh\x1bOFo", "hello"),
        ("\x02hell\x02\x05o", "hello"),
        ("one two  \x17hello", "one hello"),
        ("one\x17hello", "hello"),
        ("one two\x1bb\x0bhello", "one hello"),
        ("one two\x15hello", "hello"),
        ("one two\x17\x19\x19", "one twotwo"),
        ("one two\x01\x1bdhello", "hello two"),
        ("one two\x01\x1bf\x1bf!", "one two!"),
        ("one two\x1b\x7f!", "one !"),
        ("one two\x1b[1;5D\x1b[1;5D\x1b[1;5C!", "one! two"),
        ("a\tb", "a\tb"),
        ("a\x1b[200~b\x1b[99;99;99mc\x1bzd\x00", "abcd"),
        ("wörld…", "wörld…"),
        ("\x1b[A", "two"),
        ("\x1b[A\x1b[A", "one"),
        ("\x1b[A\x1b[A\x1b[A!", "one!"),
        ("draft\x10\x10\x0e\x0e", "draft"),
        ("draft\x0e", "draft"),
        ("\x1bOA\x1bOB", ""),
    ],
    ids=repr,
)
def test_keys(keys: str, line: str) -> None:
    """The keys work as in readline."""
    assert editor("one", "two").feed(f"{keys}\r".encode()) == [line]


def test_pieces() -> None:
    """Keys may come in any pieces, even parts of a character or a sequence; invalid UTF-8 is replaced."""
    one = editor()
    lines: list[str | None] = []
    for byte in "ä\x1b[Dö\n".encode():
        lines += one.feed(bytes([byte]))
    assert lines == ["öä"]
    assert one.feed(b"\xff\n") == ["\ufffd"]


def test_end() -> None:
    """Ctrl-D ends the input on an empty line, and deletes on any other."""
    assert editor().feed(b"a\x01\x04\x04") == [END]
    assert editor().feed(b"one\ntwo\n\x04") == ["one", "two", END]


def test_endlessSequence() -> None:
    """An unfinished key sequence is ignored, and swallows little."""
    assert editor().feed(b"\x1b[" + b"1" * 15 + b"end\n") == ["end"]


def test_historyGrows() -> None:
    """A line becomes history for the next, and visiting it changes nothing."""
    one = editor()
    assert one.feed(b"first\nsecond\n\x1b[A\x1b[A\n\x1b[A\n") == ["first", "second", "first", "first"]


def screen(text: str) -> tuple[str, int]:
    """Return what stands in a row after it was drawn, and where the cursor is."""
    match = re.fullmatch(r"\r\x1b\[K([^\x1b]*)(?:\x1b\[(\d+)D)?", text)
    assert match is not None
    return match[1], cells(match[1]) - int(match[2] or 0)


@pytest.mark.parametrize(
    ("keys", "width", "row", "cursor"),
    [
        ("", 20, "> ", 2),
        ("hello", 20, "> hello", 7),
        ("hello\x01", 20, "> hello", 2),
        ("hello\x1b[D", 20, "> hello", 6),
        ("0123456789", 9, "> 456789", 8),
        ("0123456789\x01", 9, "> 012345", 2),
        ("0123456789\x1b[D\x1b[D", 9, "> 234567", 8),
        ("漢字漢字", 8, "> 漢字", 6),
        ("漢字漢字\x01", 8, "> 漢字", 2),
        ("漢字漢字\x01", 7, "> 漢字", 2),
        ("e\u0301\x1b[D", 20, "> e\u0301", 3),
        ("a\tb", 20, "> a\\tb", 6),
        ("a\u202eb", 20, "> a\\u202eb", 10),
        ("abc", 1, "> c", 3),
    ],
    ids=repr,
)
def test_drawn(keys: str, width: int, row: str, cursor: int) -> None:
    """One row shows as much as fits around the cursor, however wide the characters are."""
    one = editor()
    one.feed(keys.encode())
    assert screen(one.drawn("> ", width)) == (row, cursor)
