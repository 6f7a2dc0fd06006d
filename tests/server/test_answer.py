from __future__ import annotations

import gc

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent

from tests.channels.listeners import LateEngine
from tests.memory import SteadyClock
from twisted_ws import WebSocketServer
from twisted_ws.errors import ChannelError
from twisted_ws.message import Published


class Engine(LateEngine):
    isSlow = False

    def broadcast(self, message):
        return self._ask("broadcast")


class Orders:
    """A service."""

    def __init__(self, server):
        self.server = server

    def onTextMessage(self, caller, text):
        self.server.publish("orders.42", text)

    def onBinaryMessage(self, caller, data):
        self.server.broadcast(data)

    async def onMessage(self, caller, message):
        await self.server.publish("orders.42", message)


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def server(engine):
    return WebSocketServer(engine=lambda runtime: engine, reactor=SteadyClock())


def fails(engine, error=None):
    """Let what was asked fail, and return what is logged of it."""
    gc.collect()  # what others have left behind
    with capturedLogs() as logged:
        engine.asked.pop().errback(error or ChannelError("unavailable", "It is away."))
        gc.collect()
    return [formatEvent(each) for each in logged]


@pytest.mark.parametrize(
    ("event", "what"), [("onTextMessage", "publish to a channel of orders"), ("onBinaryMessage", "broadcast")]
)
def test_ignored(engine, server, event, what):
    """When what a service does not wait for fails, one line has the place in its code, the namespace and the reason."""
    getattr(Orders(server), event)(None, "1")
    (line,) = fails(engine)
    place, _, rest = line.partition(" (tests.server.test_answer, line ")
    assert place == f"Orders.{event}"
    assert rest.partition(") ")[2] == f"could not {what}: It is away."


def test_throttled(engine, server):
    """A service that publishes on during an outage does not fill the log."""
    orders = Orders(server)
    lines = []
    for _ in range(100):
        orders.onTextMessage(None, "1")
        lines += fails(engine)
    assert len(lines) == 10


def test_awaited(engine, server):
    """Whoever waits for the answer gets the failure, and nothing is logged."""
    answer = Deferred.fromCoroutine(Orders(server).onMessage(None, "1"))
    errors = []
    answer.addErrback(errors.append)
    assert fails(engine) == []
    assert errors[0].check(ChannelError)


def test_answered(engine, server):
    """What is answered is passed on, and nothing is logged."""
    answers = []
    server.publish("a", "1").addCallback(answers.append)
    server.publish("a", "2")
    with capturedLogs() as logged:
        for offset in 2, 1:
            engine.asked.pop().callback(Published("a", f"e:{offset}", 0))
        gc.collect()
    assert ([each.id for each in answers], logged) == (["e:1"], [])


def test_cancelled(engine, server):
    """Who cancels the answer cancels the question."""
    answer = server.broadcast("1")
    answer.addErrback(lambda _: None)
    answer.cancel()
    assert engine.asked[0].called


def test_mistake(engine, server):
    """Another failure, such as one of the service's own callbacks, is reported as Twisted does it: with its traceback."""
    server.broadcast("1").addCallback(lambda count: 1 / 0)
    gc.collect()
    with capturedLogs() as logged:
        engine.asked.pop().callback(1)
        gc.collect()
    assert any("Unhandled error in Deferred" in formatEvent(each) for each in logged)
