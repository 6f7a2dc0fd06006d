"""What holds whatever a service does and whenever the peer, the clock and other handlers do something in between."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionLost
from twisted.logger import capturedLogs

from tests.dispatch.support import Turns
from tests.memory import MemoryClient, clientFrame
from twisted_ws import Caller, ChannelError, CloseFrame, Limits, WebSocketServer
from twisted_ws.logs import Throttle


class Bug(Exception):
    """What the handlers raise."""


class Actor:
    """Does what each message says, and writes down what happens to it."""

    idleTimeout = 20

    def __init__(self, opening: str) -> None:
        self.opening = opening
        self.heard: list[Any] = []
        self.waiting: list[Deferred[Any]] = []
        self.raised = 0
        self.begun = 0  # streams that were asked for an item
        self.ended = 0

    def onOpen(self, caller: Caller) -> Any:
        self.heard.append("open")
        return self.act(self.opening, caller)

    def onTextMessage(self, caller: Caller, text: str) -> Any:
        number, _, what = text.partition(" ")
        self.heard.append(int(number))
        return self.act(what, caller)

    def onPing(self, caller: Caller, data: bytes) -> Any:
        return self.act(data.decode(), caller)

    def onPong(self, caller: Caller, data: bytes) -> Any:
        return self.act(data.decode(), caller)

    def onIdleTimeout(self, caller: Caller) -> Any:
        return self.wait()

    def onError(self, caller: Caller, error: Exception) -> Any:
        self.heard.append("error")
        return self.wait()

    def onClose(self, caller: Caller, statusCode: int, reason: str) -> Any:
        self.heard.append("close")
        raise self.bug()

    def bug(self) -> Bug:
        self.raised += 1
        return Bug()

    def wait(self) -> Deferred[Any]:
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def act(self, what: str, caller: Caller) -> Any:
        return getattr(self, what)(caller)

    def nothing(self, caller: Caller) -> None: ...

    def text(self, caller: Caller) -> str:
        return "text"

    def json(self, caller: Caller) -> Any:
        return succeed({"a": 1})

    def large(self, caller: Caller) -> bytes:
        return b"x" * 100_000

    def fails(self, caller: Caller) -> Any:
        raise self.bug()

    def failed(self, caller: Caller) -> Any:
        return fail(self.bug())

    async def later(self, caller: Caller) -> Any:
        return await self.wait()

    def deferred(self, caller: Caller) -> Any:
        return self.wait()

    async def laterFails(self, caller: Caller) -> Any:
        await self.wait()
        raise self.bug()

    async def writes(self, caller: Caller) -> None:
        await caller.writeTextMessage("one")
        await caller.writeBinaryMessage(b"two" * 20_000)
        await caller.ping()

    async def closes(self, caller: Caller) -> str:
        await caller.close(4000, "enough")
        return "dropped"

    def leaves(self, caller: Caller) -> str:
        caller.close(4001)
        return "dropped"

    def drops(self, caller: Caller) -> None:
        caller.close(timeout=0)

    def says(self, caller: Caller) -> CloseFrame:
        return CloseFrame(4002)

    def stream(self, caller: Caller) -> Iterator[Any]:
        return self.items(5)

    def endless(self, caller: Caller) -> Iterator[Any]:
        return self.items(1_000_000)

    def items(self, count: int) -> Iterator[Any]:
        self.begun += 1
        try:
            yield from range(count)
        finally:
            self.ended += 1

    async def asyncStream(self, caller: Caller) -> AsyncIterator[Any]:
        self.begun += 1
        try:
            while True:
                yield await self.wait()
        finally:
            self.ended += 1

    async def failingStream(self, caller: Caller) -> AsyncIterator[Any]:
        yield "one"
        raise self.bug()


ACTS = [
    *("nothing", "text", "json", "large", "fails", "failed", "later", "deferred", "laterFails", "writes", "closes", "leaves"),
    *("drops", "says", "stream", "endless", "asyncStream", "failingStream"),
]
acts = st.sampled_from(ACTS)
quiet = st.sampled_from(["nothing", "text", "json", "later", "writes", "stream", "endless", "asyncStream"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("message"), quiet),
        st.tuples(st.just("message"), acts),
        st.tuples(st.just("ping"), acts),
        st.tuples(st.just("pong"), acts),
        st.tuples(st.just("answer"), st.integers(0, 3)),
        st.tuples(st.just("fail"), st.integers(0, 3)),
        st.tuples(st.just("cancel"), st.integers(0, 3)),
        st.tuples(st.just("time"), st.sampled_from([0, 0.5, 6, 15])),
        st.tuples(st.just("room"), st.sampled_from([0, 10, 70_000, None])),
        st.tuples(st.just("broadcast"), st.just(None)),
        st.tuples(st.just("end"), st.sampled_from(["hang up", "break", "close", "protocol error", "stop"])),
    ),
    max_size=25,
)


class Story:
    """Two connections to one server: the one that things happen to, and one that must not notice."""

    def __init__(self, opening: str) -> None:
        self.clock = Turns()
        self.clock.advance(1000)
        limits = Limits(readAhead=200, streams=2, pingInterval=0, maxSendBuffer=300_000)
        self.server = WebSocketServer(reactor=self.clock, limits=limits)
        self.server.runtime.throttle = Throttle(self.clock.seconds, lines=1000)  # each exception is looked for
        self.actor = Actor(opening)
        self.server.mount("/actor", self.actor)
        self.server.mount("/echo", type("Echo", (), {"onTextMessage": lambda self, caller, text: text})())
        self.client, self.other = (MemoryClient(self.server.factory(), self.clock) for _ in range(2))
        self.other.connect("/echo")
        self.client.connect("/actor")
        self.sent = 0
        self.stopped: list[Any] = []

    def step(self, what: str, how: Any) -> None:
        actor, client = self.actor, self.client
        if what == "message":
            # What a paused transport does not read waits in the kernel.
            if client.transport.reading:
                client.send(clientFrame(1, f"{self.sent} {how}".encode()))
                self.sent += 1
        elif what in ("ping", "pong"):
            client.send(clientFrame(9 if what == "ping" else 10, how.encode()))
        elif what in ("answer", "fail", "cancel"):
            waiting = [each for each in actor.waiting if not each.called]
            if waiting:
                each = waiting[how % len(waiting)]
                if what == "answer":
                    each.callback("answer")
                elif what == "fail":
                    each.errback(actor.bug())
                else:
                    each.cancel()
        elif what == "time":
            self.clock.turn()
            if how:
                client.advance(how, 0.5)
        elif what == "room":
            client.transport.room = how
        elif what == "broadcast":
            try:
                self.server.broadcast("all")
            except ChannelError:
                assert self.server.readiness() is not None  # it has stopped
        elif what == "end":
            self.end(how)
        client.transport.settle()

    def end(self, how: str) -> None:
        client = self.client
        if how == "hang up":
            client.hangUp()
        elif how == "break":
            client.hangUp(ConnectionLost())
        elif how == "close":
            client.send(clientFrame(8, (1000).to_bytes(2, "big")))
        elif how == "protocol error":
            client.send(clientFrame(3, b"no such opcode"))
        elif not self.stopped:
            self.server.stop(5).addCallback(self.stopped.append)

    def finish(self) -> None:
        """Let the peer leave, and everything that waits come to its end."""
        self.client.hangUp()
        self.client.advance(30, 0.5)
        for each in list(self.actor.waiting):
            if not each.called:
                each.callback(None)
        self.client.advance(30, 0.5)
        self.actor.waiting.clear()  # so that what nobody has looked at is told of


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["nothing", "text", "later", "laterFails", "fails", "leaves", "asyncStream", "stream"]), steps)
def test_whateverHappens(opening: str, happens: list[tuple[str, Any]]) -> None:
    """Messages come in order, onClose once and last; each exception is logged once; streams end; nothing is left behind."""
    with capturedLogs() as logs:
        story = Story(opening)
        actor = story.actor
        for step in happens:
            story.step(*step)
            if not story.stopped and not story.other.transport.closed and story.server.readiness() is None:
                story.other.send(clientFrame(1, b"hello"))
                assert "hello" in story.other.messages()
        story.finish()
        gc.collect()

    numbers = [each for each in actor.heard if isinstance(each, int)]
    assert numbers == list(range(len(numbers)))
    assert actor.heard[0] == "open"
    assert actor.heard[-1] == "close"
    assert (actor.heard.count("open"), actor.heard.count("close")) == (1, 1)
    assert actor.heard.count("error") <= 1

    failures = [each["log_failure"] for each in logs if "log_failure" in each]
    assert not [each for each in logs if "Unhandled" in str(each.get("log_format"))]
    assert sum(each.check(Bug) is not None for each in failures) == actor.raised
    assert actor.begun == actor.ended

    assert len(story.server.callers) == (0 if story.stopped or story.server.readiness() else 1)
    if not story.server.callers:
        assert story.server.stop().called  # no handler is waited for
    assert [call for call in story.clock.getDelayedCalls() if "Wheel" not in str(call)] == []
