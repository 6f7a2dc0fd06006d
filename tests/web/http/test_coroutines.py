"""Answers of coroutines that wait: hooks run in one context of their own, from their beginning to their end."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.logger import capturedLogs

from tests.web.worlds import World
from twisted_ws.channels.service import ChannelService

_asking: ContextVar[str] = ContextVar("_asking", default="nobody")


class Asking(ChannelService):
    """Notes in a context variable for whom it works, and asks somebody else meanwhile."""

    def __init__(self, answer: Deferred[Any]) -> None:
        super().__init__()
        self.answer = answer
        self.found: list[str] = []

    async def onSubscribe(self, caller: Any, channel: str) -> None:
        before = _asking.set(channel)
        try:
            await self.answer
            self.found.append(_asking.get())
        finally:
            _asking.reset(before)  # a ValueError in a context other than that of its set

    def onPresence(self, caller: Any, channel: str) -> None:
        self.found.append(_asking.get())
        _asking.set("left behind")


@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
def test_contextOfHooks(later: bool) -> None:
    """A context variable set by a hook keeps its value until the hook has ended, in its own request only."""
    answer: Deferred[Any] = Deferred() if later else succeed(None)
    service = Asking(answer)
    world = World(service)
    client = world.client()
    client.ask("/channels/a")
    if later:
        assert client.take() == b""
        answer.callback(None)
    (response,) = client.responses()
    assert response.status == 200
    assert service.found == ["a", "nobody"]
    assert _asking.get() == "nobody"


class Cancelled(ChannelService):
    """Has had enough of something else, which asyncio says with no Exception."""

    def onSubscribe(self, caller: Any, channel: str) -> None:
        raise asyncio.CancelledError

    def onPublish(self, caller: Any, channel: str, message: Any) -> None:
        raise asyncio.CancelledError


@pytest.mark.parametrize("line", ["GET /channels/a", "GET /channels/a?wait=1", "POST /channels/a"])
def test_failsWithoutException(line: str) -> None:
    """A hook that raises a BaseException is a 500 like any other, and the connection goes on."""
    client = World(Cancelled()).client()
    body = "Content-Type: text/plain\r\nContent-Length: 1\r\n\r\nx" if line.startswith("POST") else "\r\n"
    client.send(f"{line} HTTP/1.1\r\nHost: localhost\r\n{body}".encode())
    client.ask("/nothing")
    assert [response.status for response in client.responses()] == [500, 404]


def test_failsLater() -> None:
    """A coroutine that fails after it has waited is a 500, like one that fails at once."""
    answer: Deferred[Any] = Deferred()
    client = World(Asking(answer)).client()
    client.ask("/channels/a")
    answer.errback(RuntimeError("broken"))
    (response,) = client.responses()
    assert response.status == 500


class Stubborn(ChannelService):
    """Continues when it is cancelled, as code does that catches every exception."""

    def __init__(self, answer: Deferred[Any]) -> None:
        super().__init__()
        self.answer = answer
        self.caught = 0
        self.subscribed: list[str] = []

    async def onSubscribe(self, caller: Any, channel: str) -> None:
        try:
            await self.answer
        except Exception:
            self.caught += 1

    def onUnsubscribe(self, caller: Any, channel: str) -> None:
        self.subscribed.append(channel)


@pytest.mark.parametrize("how", ["events", "poll", "wait"])
def test_leftAllTheSame(how: str) -> None:
    """A client that has left is subscribed to nothing, whatever the hooks do, and causes no log line."""
    service = Stubborn(Deferred())
    world = World(service)
    client = world.client()
    with capturedLogs() as logs:
        client.ask("/channels/a" + "?wait=30" * (how == "wait"), *["Accept: text/event-stream"] * (how == "events"))
        client.transport.abortConnection()
    assert service.caught == 1
    assert world.server.channels.count("a") == 0
    assert service.subscribed == []  # not even for a moment
    assert [event for event in logs if "log_failure" in event] == []


class Broken(ChannelService):
    def onSubscribe(self, caller: Any, channel: str) -> None:
        raise RuntimeError("broken")


class BrokenAtLast(ChannelService):
    def onUpgrade(self, request: Any) -> Any:
        return self

    def channelsOf(self, request: Any) -> Any:
        raise RuntimeError("broken")


@pytest.mark.parametrize("kind", [Broken, BrokenAtLast])
def test_brokenForAll(kind: type[ChannelService]) -> None:
    """A failing service is logged, but a peer cannot fill the log by asking again and again."""
    client = World(kind()).client()
    with capturedLogs() as logs:
        for _ in range(50):
            assert client.get("/channels/a").status == 500
    assert 1 <= len([event for event in logs if "log_failure" in event]) <= 10
