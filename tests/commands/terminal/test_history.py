from __future__ import annotations

import stat
from pathlib import Path

import pytest

from twisted_ws.commands.terminal.history import MOST, History, place


def test_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is where the XDG specification wants state, also when the variable is relative, which is to be ignored."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert place() == tmp_path / "twisted-ws" / "history"
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_STATE_HOME", value)
        assert place() == Path.home() / ".local" / "state" / "twisted-ws" / "history"
    # A user without an entry, and without $HOME: nothing is kept, and nobody is kept from talking.
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 7)
    assert place() is None


def test_kept(tmp_path: Path) -> None:
    """Lines worth keeping are kept, readable by their owner only."""
    file = tmp_path / "a" / "history"
    history = History(file)
    history.add("zero")
    file.chmod(0o644)  # whoever did that
    file.write_text("")
    history = History(file)
    for line in ("one", "one", " secret", "", "  ", "x" * 5000, "twö"):
        history.add(line)
    assert history.lines == ["one", "twö"] == History(file).lines
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_bounded(tmp_path: Path) -> None:
    """The number of lines is bounded, in memory and, from the next session on, in the file."""
    file = tmp_path / "history"
    history = History(file)
    for number in range(MOST + 10):
        history.add(str(number))
    assert len(history.lines) == MOST
    assert History(file).lines == history.lines
    assert len(file.read_text().splitlines()) == MOST
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_notWritable(tmp_path: Path) -> None:
    """If no file can be made, there is a history for this session only."""
    (tmp_path / "file").write_text("")
    for path in (None, tmp_path / "file" / "history"):
        history = History(path)
        history.add("one")
        history.add("two")
        assert history.lines == ["one", "two"]
