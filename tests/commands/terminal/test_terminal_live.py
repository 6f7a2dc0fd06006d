"""``twisted-ws connect`` on a real terminal."""

from __future__ import annotations

import signal
import stat
import termios
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.commands.support import Terminal, echo, foreign

TIME = r"\d\d:\d\d:\d\d"
EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\nfake\u202e\ttab"


def test_transcript(tmp_path: Path) -> None:
    """What is typed and what comes is shown with time and direction, in colours; Ctrl-D ends the session."""
    with foreign(echo) as url, Terminal(tmp_path, "connect", url) as terminal:
        terminal.expect(rf"{TIME} \* connected to {url}")
        terminal.expect("> ")
        assert not terminal.mode() & termios.ICANON
        terminal.type("hello\n")
        terminal.expect(f"{TIME} > hello")
        terminal.expect(f"{TIME} < hello")
        assert b"\x1b[36m<" in terminal.raw
        terminal.type("\x04")
        terminal.expect(rf"{TIME} \* closed with 1000")
        assert terminal.end() == 0
        assert terminal.mode() & termios.ICANON
        assert terminal.rows()[-1] == ""


def test_incomingWhileTyping(tmp_path: Path) -> None:
    """A message that comes while a line is typed is shown above it, and the line and its cursor stay as they were."""
    ready = threading.Event()

    def later(ws: Any) -> None:
        ready.wait(30)
        ws.send("news")
        echo(ws)

    with foreign(later) as url, Terminal(tmp_path, "connect", url) as terminal:
        terminal.expect("> ")
        terminal.type("draft\x1b[D\x1b[D")  # the cursor is before the f
        terminal.expect("> draft")
        ready.set()
        terminal.expect(f"{TIME} < news")
        terminal.expect("> draft")
        terminal.type("X\n")
        terminal.expect(f"{TIME} < draXft")
        terminal.type("\x04")
        assert terminal.end() == 0


def test_longLine(tmp_path: Path) -> None:
    """A line longer than the terminal's width stays in one row, and is sent whole."""
    text = "".join(chr(97 + n % 26) for n in range(100))
    with foreign(echo) as url, Terminal(tmp_path, "connect", url, columns=40) as terminal:
        terminal.expect("> ")
        terminal.type(text)
        terminal.expect(f"> {text[-37:]}")
        terminal.type("\n")
        terminal.expect(f"{TIME} < {text}")
        terminal.type("\x04")
        assert terminal.end() == 0


def test_history(tmp_path: Path) -> None:
    """Lines of one session come back in the next by arrow keys; the file is for its owner only, and a leading space keeps out."""
    with foreign(echo) as url:
        with Terminal(tmp_path, "connect", url) as terminal:
            terminal.expect("> ")
            terminal.type("first\n second\n")
            terminal.expect(f"{TIME} <  second")
            terminal.type("\x04")
            assert terminal.end() == 0
        with Terminal(tmp_path, "connect", url) as terminal:
            terminal.expect("> ")
            terminal.type("\x1b[A")
            terminal.expect("> first")
            terminal.type("\n\x04")
            assert terminal.end() == 0
    file = tmp_path / "state" / "twisted-ws" / "history"
    assert file.read_text() == "first\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("more", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_hostileText(tmp_path: Path, more: dict[str, str]) -> None:
    """No control character of a server reaches any terminal: neither in a message, nor in the reason of its Close."""

    def evil(ws: Any) -> None:
        ws.send(EVIL)
        ws.send(EVIL.encode())
        ws.close(1000, "\x1b[2J")

    with foreign(evil) as url, Terminal(tmp_path, "connect", url, **more) as terminal:
        assert terminal.end() == 0
        own = [b"\x1b[K", b"\x1b[0m", b"\x1b[2m", b"\x1b[36m", b"\x1b[32m"] if "TERM" not in more else []
        rest = terminal.raw
        for sequence in own:
            rest = rest.replace(sequence, b"")
        assert b"\x1b" not in rest
        assert b"\x07" not in rest
        assert "\x9b" not in rest.decode()
        assert "\u202e" not in rest.decode()
        terminal.expect(rf"{TIME} < \\x1b\]0;owned\\x07\\x1b\[2J\\x9b31m\\r\\nfake\\u202e\\ttab")
        terminal.expect(rf"{TIME} < \(\d+ bytes\) 1b 5d .*")
        terminal.expect(rf"{TIME} \* closed with 1000 \(\\x1b\[2J\)")


@pytest.mark.parametrize("more", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_noColour(tmp_path: Path, more: dict[str, str]) -> None:
    """NO_COLOR and a dumb terminal get no colours, and a dumb one no sequence at all."""
    with foreign(echo) as url, Terminal(tmp_path, "connect", url, **more) as terminal:
        terminal.expect(rf"{TIME} \* connected to {url}")
        terminal.type("hello\n")
        terminal.expect(f"{TIME} < hello")
        terminal.type("\x04")
        assert terminal.end() == 0
        assert b"m" not in {
            terminal.raw[at + 1 : at + 5].lstrip(b"[0123456789;")[:1] for at, c in enumerate(terminal.raw) if c == 27
        }
        assert "TERM" not in more or b"\x1b" not in terminal.raw


def test_ping(tmp_path: Path) -> None:
    """--ping shows the round trip."""
    with foreign(echo) as url, Terminal(tmp_path, "connect", "--ping", "0.05", url) as terminal:
        terminal.expect(rf"{TIME} \* pong after [\d.e-]+ ms")
        terminal.type("\x04")
        assert terminal.end() == 0


def test_ctrlC(tmp_path: Path) -> None:
    """Ctrl-C closes with 1000, exits with 130, and leaves the terminal as it was."""
    codes = []

    def listen(ws: Any) -> None:
        echo(ws)
        codes.append(ws.close_code)

    with foreign(listen) as url, Terminal(tmp_path, "connect", url) as terminal:
        terminal.expect("> ")
        terminal.type("never sent\x03")
        assert terminal.end() == 130
        assert terminal.mode() & termios.ICANON
    assert codes == [1000]


def test_continued(tmp_path: Path) -> None:
    """After SIGCONT, which follows Ctrl-Z and fg, the keys are taken again and the line is shown again."""
    with foreign(echo) as url, Terminal(tmp_path, "connect", url) as terminal:
        terminal.expect("> ")
        terminal.type("draft")
        terminal.expect("> draft")
        seen = len(terminal.raw)
        terminal.signal(signal.SIGCONT)
        while b"> draft" not in terminal.raw[seen:]:
            assert terminal.read(30)
        terminal.type("\n")
        terminal.expect(f"{TIME} < draft")
        terminal.type("\x04")
        assert terminal.end() == 0
