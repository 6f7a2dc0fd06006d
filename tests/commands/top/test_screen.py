from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from twisted_ws.client import ConnectError
from twisted_ws.commands import top


class Terminal:
    """Keeps what is written."""

    isFull = False

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data


class Keyboard:
    """No key is pressed."""

    def read(self) -> Deferred[bytes]:
        return Deferred()


class Site:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.stream: Deferred[Any] = Deferred()
        self.asked: list[Deferred[Any]] = []

    async def watch(self, channels: dict[str, int], take: Any) -> Deferred[Any]:
        return self.stream

    def ask(self, *request: Any, **query: Any) -> Deferred[Any]:
        self.asked.append(Deferred())
        return self.asked[-1]


def test_nothingIsDrawnAfterTheEnd(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is lost because the command ends is not drawn over what the shell shows; before, it is shown."""
    monkeypatch.setattr(top, "Input", lambda reactor, descriptor: Keyboard())
    clock, site, terminal = Clock(), Site(), Terminal()
    screen = top.Screen(clock, site, "http://x", terminal, None)  # type: ignore[arg-type]
    running = Deferred.fromCoroutine(screen.run())
    site.asked.pop().errback(ConnectError("lost once"))
    assert b"lost once" in terminal.written
    clock.advance(10)
    (asked,) = site.asked
    screen.stop()
    shown = terminal.written
    asked.errback(ConnectError("lost at the end"))
    screen.say("more")
    clock.advance(10)
    assert (terminal.written, len(site.asked), running.called) == (shown, 1, False)
