from __future__ import annotations

from collections.abc import Iterable

import pytest
from twisted.internet.defer import Deferred, succeed

from twisted_ws.commands.terminal import sources
from twisted_ws.commands.terminal.editor import Editor
from twisted_ws.commands.terminal.history import History
from twisted_ws.commands.terminal.sources import Blocks, Read, Source, TextLines, Typed, Whole
from twisted_ws.errors import ConfigurationError


def reading(blocks: Iterable[bytes]) -> Read:
    """Return what gives these blocks, then the end."""
    pending = iter([*blocks, b""])
    return lambda: succeed(next(pending))


def drain(source: Source) -> list[list[str | bytes]]:
    """Return all that a source gives."""
    found: list[list[str | bytes]] = []

    async def work() -> None:
        while (messages := await source.next()) is not None:
            found.append(messages)

    result: list[object] = []
    Deferred.fromCoroutine(work()).addBoth(result.append)
    (end,) = result
    if end is not None:
        end.raiseException()  # type: ignore[attr-defined]
    return found


def test_lines() -> None:
    """Each line is a text, in batches as they come."""
    assert drain(TextLines(reading(["ä\nb".encode(), b"c\n", b"d"]))) == [["ä"], ["bc"], [], ["d"]]


def test_notUTF8() -> None:
    """A line that is not UTF-8 is named by its number."""
    with pytest.raises(ConfigurationError, match="Line 2 on standard input is not UTF-8"):
        drain(TextLines(reading([b"a\n\xff\n"])))


def test_blocks() -> None:
    """Each block is a binary message."""
    assert drain(Blocks(reading([b"\xff", b"a\nb"]))) == [[b"\xff"], [b"a\nb"]]


def test_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the input is one message, within bounds; no input is an empty message."""
    assert drain(Whole(reading([b"a\n", b"b"]), False)) == [["a\nb"]]
    assert drain(Whole(reading([b"a\n", b"\xff"]), True)) == [[b"a\n\xff"]]
    assert drain(Whole(reading([]), False)) == [[""]]
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        drain(Whole(reading([b"\xff"]), False))
    monkeypatch.setattr(sources, "MOST", 3)
    with pytest.raises(ConfigurationError, match="leave out --whole"):
        drain(Whole(reading([b"ab", b"cd"]), False))


def test_typed() -> None:
    """What is typed is shown until it is a line; Ctrl-D ends it, and so does a terminal that is gone."""
    drawn: list[str] = []
    for end in (b"\x04", b""):
        one = Editor(History(None))
        blocks = [b"ab", b"c\nd", b"\x15", b"e\n" + end] + [b"never\n"] * bool(end)
        found = drain(Typed(reading(blocks), one, lambda one=one: drawn.append(one.text)))  # type: ignore[misc]
        assert [line for lines in found for line in lines] == ["abc", "e"]
    assert drawn[:2] == ["ab", ""]
