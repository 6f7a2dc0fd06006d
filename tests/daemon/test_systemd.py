from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from twisted_ws.daemon.systemd import notify


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The socket that a service manager listens on, with an abstract address (unix(7))."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("")  # the kernel chooses
        listening.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + listening.getsockname()[1:].decode())
        monkeypatch.delenv("WATCHDOG_USEC", raising=False)
        yield listening


def test_notify(systemd: socket.socket) -> None:
    """A state arrives as it is; with a reload comes its time, as Type=notify-reload asks for."""
    notify("READY=1")
    assert systemd.recv(99) == b"READY=1"
    notify("RELOADING=1")
    first, second = systemd.recv(99).split(b"\n")
    assert first == b"RELOADING=1"
    name, _, time = second.partition(b"=")
    assert name == b"MONOTONIC_USEC"
    assert int(time) > 0


def test_notifyByPath(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The address may be a path as well; without a listener, or a manager, nothing happens."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", "s")
    notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("s")
        notify("READY=1")
        assert listening.recv(99) == b"READY=1"
        monkeypatch.delenv("NOTIFY_SOCKET")
        notify("READY=1")
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.recv(99)
