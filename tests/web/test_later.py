"""Answers of coroutines that wait: hooks run in one context of their own, from their beginning to their end."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed

from tests.web.channels import World
from twisted_ws.services.channels import ChannelService

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
    """What a hook sets in a context variable stands until it has ended, and nowhere outside of its request."""
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
    """A hook that raises what is no Exception is a 500 as any other, and the connection goes on."""
    client = World(Cancelled()).client()
    body = "Content-Type: text/plain\r\nContent-Length: 1\r\n\r\nx" if line.startswith("POST") else "\r\n"
    client.send(f"{line} HTTP/1.1\r\nHost: localhost\r\n{body}".encode())
    client.ask("/nothing")
    assert [response.status for response in client.responses()] == [500, 404]


def test_failsLater() -> None:
    """A coroutine that fails after it has waited is a 500, as one that fails at once."""
    answer: Deferred[Any] = Deferred()
    client = World(Asking(answer)).client()
    client.ask("/channels/a")
    answer.errback(RuntimeError("broken"))
    (response,) = client.responses()
    assert response.status == 500
