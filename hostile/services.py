"""The services of the attacked daemon: one for the good clients, and some that misbehave."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from twisted_ws import Caller, UpgradeRequest, WebSocketService

__all__ = ["Counter", "Evil", "Good", "Hesitant", "Raising"]


class Good(WebSocketService):
    """The service for the good clients: it echoes, and sends the channel ``good`` and every broadcast."""

    async def onOpen(self, caller: Caller) -> str:
        """Subscribe, and say so."""
        await caller.subscribe("good")
        return "ready"

    def onTextMessage(self, caller: Caller, text: str) -> str:
        """Echo."""
        return text


class Counter(WebSocketService):
    """Count the messages of each caller, also over hand-overs; end the process in the middle of one if a file says so.

    The files ``old dies`` and ``new dies`` in the directory of the daemon have the number of callers after which; each is for
    one time.
    """

    resumable = True

    def __init__(self) -> None:
        self.moved = 0

    def onOpen(self, caller: Caller) -> None:
        """Begin."""
        caller.attributes["count"] = 0

    def onTextMessage(self, caller: Caller, text: str) -> str:
        """Count."""
        caller.attributes["count"] += 1
        return f"{caller.attributes['count']} {os.getpid()}"

    def onHandOver(self, caller: Caller) -> None:
        """End the old process if it is to die now."""
        self._die("old dies")

    def onResume(self, caller: Caller, state: object) -> None:
        """End the new process if it is to die now."""
        self._die("new dies")

    def _die(self, name: str) -> None:
        self.moved += 1
        with suppress(FileNotFoundError):
            if self.moved >= int(Path(name).read_text()):
                os.unlink(name)
                os.kill(os.getpid(), signal.SIGKILL)


class Hesitant(WebSocketService):
    """Take a second for each handshake."""

    def onUpgrade(self, request: UpgradeRequest) -> Deferred[WebSocketService]:
        """Decide later."""
        return deferLater(reactor, 1.0, lambda: self)

    def onTextMessage(self, caller: Caller, text: str) -> str:
        """Echo."""
        return text


class Evil(WebSocketService):
    """Misbehave in the way that each message names."""

    def onTextMessage(self, caller: Caller, text: str) -> Any:
        """Misbehave."""
        match text.split():
            case ["raise"]:
                raise RuntimeError("a bug")
            case ["hang"]:
                return Deferred()
            case ["block"]:
                time.sleep(0.05)
                return "blocked"
            case ["forever"]:
                return (f"{number} {'x' * 1000}" for number in iter(int, 1))
            case ["many"]:
                return (str(number) for number in range(100_000))
            case ["empty"]:
                return iter(())
            case ["object"]:
                return object()
            case ["surrogate"]:
                return "\ud800"
            case ["hoard", count]:
                for _ in range(int(count)):
                    caller.writeTextMessage("x" * 1000)
            case ["recurse"]:
                # When a thousand handlers broadcast in one turn, each broadcast also reaches its own sender.
                self.server.publish("evil", text)
            case ["broken"]:
                return self._broken()
            case ["twice"]:
                caller.close(4000, "first")
                caller.close(4001, "second")
                caller.writeTextMessage("after the end")
        return None

    def _broken(self) -> Iterator[str]:
        yield "one"
        raise RuntimeError("a bug in an iterator")


class Raising(WebSocketService):
    """Raise in the event that the path names."""

    idleTimeout = 1

    def _raise(self, request: UpgradeRequest, event: str) -> None:
        if request.pathParams["event"] == event:
            raise RuntimeError(f"a bug in {event}")

    def onUpgrade(self, request: UpgradeRequest) -> WebSocketService:
        """Raise, or accept."""
        self._raise(request, "onUpgrade")
        return self

    def onOpen(self, caller: Caller) -> None:
        """Raise, or do nothing."""
        self._raise(caller.request, "onOpen")

    def onTextMessage(self, caller: Caller, text: str) -> None:
        """Raise, or do nothing."""
        self._raise(caller.request, "onTextMessage")

    def onBinaryMessage(self, caller: Caller, data: bytes) -> None:
        """Raise, or do nothing."""
        self._raise(caller.request, "onBinaryMessage")

    def onPing(self, caller: Caller, data: bytes) -> None:
        """Raise, or do nothing."""
        self._raise(caller.request, "onPing")

    def onPong(self, caller: Caller, data: bytes) -> None:
        """Raise, or do nothing."""
        self._raise(caller.request, "onPong")

    def onIdleTimeout(self, caller: Caller) -> None:
        """Raise, or do nothing."""
        self._raise(caller.request, "onIdleTimeout")

    def onError(self, caller: Caller, error: Exception) -> None:
        """Raise, or do nothing."""
        self._raise(caller.request, "onError")

    def onClose(self, caller: Caller, statusCode: int, reason: str) -> None:
        """Raise, or do nothing."""
        self._raise(caller.request, "onClose")
