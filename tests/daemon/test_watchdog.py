from __future__ import annotations

import socket
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, globalLogPublisher

from tests.daemon.test_systemd import systemd as systemd
from twisted_ws.daemon import watchdog as module
from twisted_ws.daemon.watchdog import BEAT, Watchdog


@pytest.mark.parametrize(("limit", "interval"), [("30000000", 1.0), ("500000", 0.25), ("", 1.0), ("x", 1.0)])
def test_beats(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch, limit: str, interval: float) -> None:
    """It beats each second, or twice in the time of systemd's watchdog where that is less, from its start until its stop."""
    monkeypatch.setenv("WATCHDOG_USEC", limit)
    clock = Clock()
    watchdog = Watchdog(clock, 5)
    watchdog.startService()
    assert systemd.recv(99) == b"WATCHDOG=1"
    clock.advance(interval)
    assert systemd.recv(99) == b"WATCHDOG=1"
    watchdog.stopService()
    clock.advance(interval)
    systemd.setblocking(False)
    with pytest.raises(BlockingIOError):
        systemd.recv(99)
    assert not clock.getDelayedCalls()
    watchdog.stopService()


def test_noWatchdog(systemd: socket.socket) -> None:
    """Without WatchdogSec= systemd is not told of beats."""
    clock = Clock()
    watchdog = Watchdog(clock, 5)
    watchdog.startService()
    watchdog.stopService()
    systemd.setblocking(False)
    with pytest.raises(BlockingIOError):
        systemd.recv(99)


class _Looks:
    """Stands in for the event on which the thread waits between two looks: the test says when it looks."""

    def __init__(self) -> None:
        self.waits, self.may = threading.Semaphore(0), threading.Semaphore(0)
        self.isSet = False

    def wait(self, seconds: float) -> bool:
        self.waits.release()
        assert self.may.acquire(timeout=30)
        return self.isSet

    def look(self) -> None:
        """Let it look, and wait until it has."""
        assert self.waits.acquire(timeout=30)
        self.may.release()
        assert self.waits.acquire(timeout=30)
        self.waits.release()

    def set(self) -> None:
        self.isSet = True
        self.may.release()

    def clear(self) -> None:
        """Begin."""


def test_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """When no beat comes for so many looks, the log says once where the reactor is; after the next beat it may again."""
    looks, clock = _Looks(), Clock()
    monkeypatch.setattr(
        module, "threading", SimpleNamespace(Event=lambda: looks, Thread=threading.Thread, get_ident=threading.get_ident)
    )
    watchdog = Watchdog(clock, 5)
    watchdog.startService()

    def still(count: int) -> list[Any]:
        with capturedLogs() as events:
            for _ in range(count):
                looks.look()
        return events

    assert still(1 + 4) == []
    assert len(events := still(1)) == 1
    assert events[0]["log_level"].name == "critical"
    assert "stuck for {duration:g} s" in events[0]["log_format"]
    assert "test_looks" in events[0]["traceback"]
    assert still(20) == []
    clock.advance(BEAT)
    assert still(1) == []
    assert len(still(5)) == 1
    watchdog.stopService()


def test_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread looks by itself while it beats, and ends with it, also when it is started again."""
    monkeypatch.setattr(module, "BEAT", 0.001)
    before = threading.active_count()
    watchdog = Watchdog(Clock(), 0.003)
    told = threading.Event()

    def observe(event: Any) -> None:
        if "stuck" in event.get("log_format", ""):
            told.set()

    globalLogPublisher.addObserver(observe)
    try:
        for _ in range(2):
            told.clear()
            watchdog.startService()
            assert told.wait(30)
            watchdog.stopService()
            assert threading.active_count() == before
    finally:
        globalLogPublisher.removeObserver(observe)
