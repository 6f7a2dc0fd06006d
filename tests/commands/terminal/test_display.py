from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from twisted_ws.commands.terminal.display import Display, JSONDisplay, PlainDisplay, TerminalDisplay, complain, oneLine
from twisted_ws.commands.terminal.editor import Editor
from twisted_ws.commands.terminal.history import History

WHEN = datetime(2026, 11, 23, 7, 8, 9, 123456, UTC)


def everything(display: Display) -> None:
    """Have everything happen."""
    display.opened("ws://there", "a", False)
    display.opened("ws://there", None, True)
    display.message("tëxt")
    display.message(b"\x00\xff")
    display.sent("sent")
    display.sent(b"\x01")
    display.ping(b"\x02")
    display.pong(b"\x03", 0.0123456)
    display.pong(b"\x04", None)
    display.closed(1000, "bye\x1b")
    display.failed("bad")


@pytest.mark.parametrize(("end", "wanted"), [(b"\n", b"t\xc3\xabxt\n\x00\xff\n"), (b"", b"t\xc3\xabxt\x00\xff")])
def test_plain(end: bytes, wanted: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """Only payloads go to standard output; everything else goes to standard error."""
    written: list[bytes] = []
    display = PlainDisplay(written.append, end)
    everything(display)
    assert b"".join(written) == wanted
    assert capsys.readouterr().err == ""
    display.note("it\x1b is so")
    assert capsys.readouterr() == ("", "twisted-ws: it\\x1b is so\n")


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Each event is an object on a line of its own."""
    written: list[bytes] = []
    display = JSONDisplay(written.append, lambda: WHEN)
    everything(display)
    time = "2026-11-23T07:08:09.123Z"
    assert [json.loads(line) for line in written] == [
        {"type": "open", "time": time, "data": {"url": "ws://there", "subprotocol": "a"}},
        {"type": "open", "time": time, "data": {"url": "ws://there", "subprotocol": None}},
        {"type": "text", "time": time, "data": "tëxt"},
        {"type": "binary", "time": time, "data": "AP8="},
        {"type": "ping", "time": time, "data": "Ag=="},
        {"type": "pong", "time": time, "data": "Aw==", "seconds": 0.012346},
        {"type": "pong", "time": time, "data": "BA=="},
        {"type": "close", "time": time, "data": {"code": 1000, "reason": "bye\x1b"}},
        {"type": "error", "time": time, "data": "bad"},
    ]
    assert all(line.isascii() and line.endswith(b"\n") for line in written)
    display.note("so")
    assert capsys.readouterr().err == "twisted-ws: so\n"
    JSONDisplay(written.append).message("now")
    assert json.loads(written[-1])["time"].endswith("Z")


def terminal(**options: Any) -> tuple[TerminalDisplay, list[str]]:
    """Return a display, and what it writes."""
    written: list[str] = []
    return TerminalDisplay(lambda data: written.append(data.decode()), now=lambda: WHEN, **options), written


def test_terminal() -> None:
    """A line has time, direction and text; without an editor, there are no escape sequences, and sent text is not repeated."""
    display, written = terminal(colour=False)
    everything(display)
    display.note("so")
    display.redraw()
    assert "".join(written).splitlines() == [
        "07:08:09 * connected to ws://there, subprotocol a",
        "07:08:09 * connected again to ws://there",
        "07:08:09 < tëxt",
        "07:08:09 < (2 bytes) 00 ff",
        "07:08:09 * pong after 12.3 ms",
        "07:08:09 * closed with 1000 (bye\\x1b)",
        "07:08:09 ! so",
    ]


def test_colours() -> None:
    """With colours, the text of the peer is not coloured."""
    display, written = terminal(colour=True)
    display.message("hello")
    display.note("so")
    assert written == ["\x1b[2m07:08:09\x1b[0m \x1b[36m<\x1b[0m hello\n", "\x1b[2m07:08:09\x1b[0m \x1b[1;31m! so\x1b[0m\n"]


def test_editing() -> None:
    """Each line is put above what is being typed, which is removed at the end."""
    one = Editor(History(None))
    one.feed(b"abc")
    display, written = terminal(colour=False, editor=one, columns=lambda: 40)
    display.sent("x")
    display.sent(b"\x01")
    display.redraw()
    display.failed("bad")
    display.closed(1000, "")
    drawn = "\r\x1b[K> abc"
    assert written == [
        f"\r\x1b[K07:08:09 > x\n{drawn}",
        f"\r\x1b[K07:08:09 > (1 bytes) 01\n{drawn}",
        drawn,
        "\r\x1b[K",
        "07:08:09 * closed with 1000\n",
    ]
    assert TerminalDisplay(written.append, False)._columns() == 80  # type: ignore[arg-type]


def test_oneLine() -> None:
    """Long messages are not cut, and backslashes stay as they are."""
    assert oneLine('{"a": "\\n"}' + "x" * 100_000) == '{"a": "\\n"}' + "x" * 100_000
    assert oneLine("") == ""


def test_nobodyListens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A complaint that cannot be written is dropped."""

    class Broken:
        def write(self, text: str) -> None:
            raise BrokenPipeError

    for stream in (None, Broken()):
        monkeypatch.setattr(sys, "stderr", stream)
        complain("hello?")
