from __future__ import annotations

import errno
import os
import pwd
from pathlib import Path

import pytest

from twisted_ws.daemon.settings import Mount, Settings
from twisted_ws.daemon.workers import trial
from twisted_ws.daemon.workers.orders import Orders, settingsFor
from twisted_ws.daemon.workers.trial import tryOut
from twisted_ws.errors import ConfigurationError

EPOLL = "twisted.internet.epollreactor"


def _orders(directory: Path, source: str, **options: object) -> bytes:
    (directory / "trial_rooms.py").write_text(source)
    settings = settingsFor(Settings(services=(Mount("/ws", "trial_rooms:Room", options),)), 1)
    return Orders(settings, 1, str(directory)).encode()


WORKS = "class Room:\n    def __init__(self, size=0):\n        print('made')\n    def onOpen(self, caller): pass\n"


def _why(orders: bytes, uid: int = -1, timeout: float = 60) -> str:
    with pytest.raises(ConfigurationError) as wrong:
        tryOut(orders, EPOLL, uid, -1, timeout)
    return str(wrong.value)


def test_services(tmp_path: Path) -> None:
    """Services that can be made pass, whatever they print; one that cannot be made with its options does not."""
    tryOut(_orders(tmp_path, WORKS), EPOLL, -1, -1, 60)
    assert "has no option sise: did you mean size?" in _why(_orders(tmp_path, WORKS, sise=5))


def test_aServiceThatTakesForEver(tmp_path: Path) -> None:
    """A service that is never made is given up."""
    source = "import os, time\nos.mkfifo('gate')\nopen('gate').read()\n"
    assert _why(_orders(tmp_path, source), timeout=0.5) == "Workers cannot start: their services were not made within 0.5 s."


def test_aServiceThatEndsTheProcess(tmp_path: Path) -> None:
    """A service that ends the process is one line with how, and the last thing that it said."""
    begin = "Workers cannot start: making their services ended the process with "
    source = "import os, sys\nsys.stderr.write('one\\nI go')\nsys.stderr.flush()\nos._exit(7)\n"
    assert _why(_orders(tmp_path, source)) == f"{begin}exit code 7: I go"
    assert _why(_orders(tmp_path, "import os\nos.kill(os.getpid(), 9)\n")) == f"{begin}signal 9."


def test_noDescriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system has too little of is named, and no other remedy than that."""

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(trial.subprocess, "run", refuse)
    assert _why(b"") == "Workers cannot start: Too many open files."


def test_noInterpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter that may not be run is one line that names the user and the file."""
    (tmp_path / "python").write_text("")
    monkeypatch.setattr(trial, "command", lambda *arguments: [str(tmp_path / "python"), *arguments])
    said = _why(b"", os.geteuid())
    name = pwd.getpwuid(os.geteuid()).pw_name
    assert said.startswith(
        f"Workers cannot start: the user {name} cannot run {tmp_path}/python with twisted_ws (Permission denied)"
    )
