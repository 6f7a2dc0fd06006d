from __future__ import annotations

import socket
import threading
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from tests.daemon.test_systemd import systemd as systemd
from twisted_ws.daemon import watchdog as module
from twisted_ws.daemon.watchdog import Watchdog


@pytest.mark.parametrize(("limit", "interval"), [("30000000", 1.0), ("500000", 0.25), ("", 1.0), ("x", 1.0)])
def test_beats(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch, limit: str, interval: float) -> None:
    """It beats each second, or twice in the time of systemd's watchdog where that is less, from its start until its stop."""
    monkeypatch.setenv("WATCHDOG_USEC", limit)
    clock = Clock()
    watchdog = Watchdog(clock, 5)
    watchdog.startService()
    assert watchdog._beats == 1
    assert systemd.recv(99) == b"WATCHDOG=1"
    clock.advance(interval)
    assert watchdog._beats == 2
    assert systemd.recv(99) == b"WATCHDOG=1"
    watchdog.stopService()
    clock.advance(interval)
    assert watchdog._beats == 2
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


def test_looks() -> None:
    """When no beat comes for so many looks, the log says once where the reactor is; after the next beat it may again."""
    watchdog = Watchdog(Clock(), 5)
    watchdog._reactorThread = threading.get_ident()

    def still(looks: int) -> list[Any]:
        with capturedLogs() as events:
            for _ in range(looks):
                watchdog._look()
        return events

    watchdog._beat()
    assert still(1 + 4) == []
    assert len(events := still(1)) == 1
    assert events[0]["log_level"].name == "critical"
    assert "stuck for {seconds:g} s" in events[0]["log_format"]
    assert "test_looks" in events[0]["stack"]
    assert still(20) == []
    watchdog._beat()
    assert still(1) == []
    assert len(still(5)) == 1


def test_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread looks by itself while it beats, and ends with it, also when it is started again."""
    monkeypatch.setattr(module, "BEAT", 0.001)
    looked = threading.Event()

    class Seen(Watchdog):
        def _look(self) -> None:
            looked.set()

    before = threading.active_count()
    watchdog = Seen(Clock(), 5)
    for _ in range(2):
        looked.clear()
        watchdog.startService()
        assert looked.wait(30)
        watchdog.stopService()
        assert threading.active_count() == before
