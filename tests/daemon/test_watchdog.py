from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from twisted_ws.daemon import notify as module
from twisted_ws.daemon.watchdog import Heart, notify


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


@pytest.mark.parametrize(("watchdog", "interval"), [("30000000", 1.0), ("500000", 0.25), ("", 1.0), ("x", 1.0)])
def test_beats(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch, watchdog: str, interval: float) -> None:
    """The heart beats each second, or twice in the watchdog's time where that is less, from its start until its stop."""
    monkeypatch.setenv("WATCHDOG_USEC", watchdog)
    clock = Clock()
    heart = Heart(clock, 5)
    heart.startService()
    assert heart._beats == 1
    assert systemd.recv(99) == b"WATCHDOG=1"
    clock.advance(interval)
    assert heart._beats == 2
    assert systemd.recv(99) == b"WATCHDOG=1"
    heart.stopService()
    clock.advance(interval)
    assert heart._beats == 2
    assert not clock.getDelayedCalls()
    heart.stopService()


def test_noWatchdog(systemd: socket.socket) -> None:
    """Without WatchdogSec= systemd is not told of beats."""
    clock = Clock()
    heart = Heart(clock, 5)
    heart.startService()
    heart.stopService()
    systemd.setblocking(False)
    with pytest.raises(BlockingIOError):
        systemd.recv(99)


def test_looks() -> None:
    """When no beat comes for so many looks, the log says once where the reactor is; after the next beat it may again."""
    heart = Heart(Clock(), 5)
    heart._reactorThread = threading.get_ident()

    def still(looks: int) -> list[Any]:
        with capturedLogs() as events:
            for _ in range(looks):
                heart._look()
        return events

    heart._beat()
    assert still(1 + 4) == []
    assert len(events := still(1)) == 1
    assert events[0]["log_level"].name == "critical"
    assert "stood still for {seconds:g} s" in events[0]["log_format"]
    assert "test_looks" in events[0]["stack"]
    assert still(20) == []
    heart._beat()
    assert still(1) == []
    assert len(still(5)) == 1


def test_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread looks by itself while the heart beats, and ends with it, also when it is started again."""
    monkeypatch.setattr(module, "BEAT", 0.001)
    looked = threading.Event()

    class Seen(Heart):
        def _look(self) -> None:
            looked.set()

    before = threading.active_count()
    heart = Seen(Clock(), 5)
    for _ in range(2):
        looked.clear()
        heart.startService()
        assert looked.wait(30)
        heart.stopService()
        assert threading.active_count() == before
