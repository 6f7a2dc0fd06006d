"""Spans of what the server does, in memory."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from twisted_ws import Reject, WebSocketService
from twisted_ws.access.asking.backend import BackEnd
from twisted_ws.access.asking.exchange import Answer, Question, Unanswered
from twisted_ws.channels.service import ChannelService
from twisted_ws.client import HandshakeRefused
from twisted_ws.identity import Identity
from twisted_ws.telemetry import tracing
from twisted_ws.telemetry.records import recordOf
from twisted_ws.testing import serve

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Spans:
    """What was traced."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def named(self, name: str) -> list[ReadableSpan]:
        """Return the spans of a name that have ended."""
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def one(self, name: str) -> Any:
        """Return the only one."""
        (span,) = self.named(name)
        return span


@pytest.fixture
def spans() -> Iterator[Spans]:
    found = Spans()
    tracing.begin(found.provider.get_tracer("test"))
    try:
        yield found
        # Whatever was begun must not go on in what the reactor does next.
        assert not trace.get_current_span().get_span_context().is_valid
    finally:
        tracing.end()
        found.provider.shutdown()


def parent(span: Any) -> int | None:
    """Return the number of the span that one is a part of."""
    return None if span.parent is None else span.parent.span_id


class Room(WebSocketService):
    """Does what it is told, now or later."""

    def __init__(self) -> None:
        self.later: Deferred[Any] = Deferred()
        self.answer: Any = self

    def onUpgrade(self, request: Any) -> Any:
        return self.answer

    async def onTextMessage(self, caller: Any, text: str) -> Any:
        if text == "wait":
            await self.later
        if text == "fail":
            raise ValueError("secret")
        published = await self.server.publish("news", text)
        return str(published.recipients)

    def onBinaryMessage(self, caller: Any, data: bytes) -> bytes:
        return data


def test_handshake(spans: Spans) -> None:
    """A handshake is a span, a part of the trace that the client names; what the service is asked is a part of it."""
    with serve({"/room": Room()}) as server:
        server.connect("/room?token=secret", headers={"traceparent": PARENT})
    handshake, asked = spans.one("handshake"), spans.one("onUpgrade")
    assert f"{handshake.context.trace_id:032x}" == PARENT[3:35]
    assert f"{parent(handshake):016x}" == PARENT[36:52]
    assert parent(asked) == handshake.context.span_id
    assert handshake.attributes["url.path"] == "/room"
    assert "secret" not in str(handshake.attributes)


def test_authenticators(spans: Spans) -> None:
    """So is the question who the client is, which ends when that is known, with the name of the authenticator."""
    known: Deferred[Identity] = Deferred()
    site = SimpleNamespace(identify=lambda request: known, claims=lambda request: True)
    with serve({"/room": Room()}, authenticators={"site": site}, authenticate=["site"]) as server:
        connecting = server.connecting("/room")
        server.settle()
        assert spans.named("authenticate") == []
        known.callback(Identity("ann", by="site"))
        server.settle()
        assert connecting.called
    authenticate = spans.one("authenticate")
    assert parent(authenticate) == spans.one("handshake").context.span_id
    assert authenticate.attributes["twisted_ws.by"] == "site"


def test_refused(spans: Spans) -> None:
    """A refusal is no mistake, says its status, and its line in the log names the span."""
    room = Room()
    with serve({"/room": room}) as server, capturedLogs() as events:
        room.answer = Deferred()
        room.answer.errback(Reject(403, "no"))
        with pytest.raises(HandshakeRefused):
            server.connect("/room")
    handshake = spans.one("handshake")
    assert handshake.attributes["twisted_ws.code"] == 403
    assert handshake.status.status_code is trace.StatusCode.UNSET
    (line,) = [recordOf(event) for event in events if event.get("event") == "handshake.refused"]
    assert line.trace == f"{handshake.context.trace_id:032x}"


def test_handler(spans: Spans) -> None:
    """A handler is a span until it is done, also if it waits; what it publishes is a part of it, with the recipients."""
    room = Room()
    with serve({"/room": room}) as server:
        client = server.connect("/room")
        client.writeTextMessage("wait")
        assert spans.named("Room.onTextMessage") == []
        room.later.callback(None)
        assert client.readTextMessage() == "0"
        client.writeBinaryMessage(b"x")
        assert client.readBinaryMessage() == b"x"
    handler, publish = spans.one("Room.onTextMessage"), spans.one("publish")
    assert parent(handler) is None
    assert parent(publish) == handler.context.span_id
    assert (publish.attributes["messaging.destination.name"], publish.attributes["twisted_ws.recipients"]) == ("news", 0)
    assert handler.attributes["twisted_ws.connection"] == spans.one("Room.onBinaryMessage").attributes["twisted_ws.connection"]


def test_failure(spans: Spans) -> None:
    """A handler that fails is a span with an error, without its text; its line in the log names the span."""
    with serve({"/room": Room()}) as server:
        client = server.connect("/room")
        with capturedLogs() as events:
            client.writeTextMessage("fail")
        server.flushErrors(ValueError)
    handler = spans.one("Room.onTextMessage")
    assert handler.status.status_code is trace.StatusCode.ERROR
    assert "secret" not in str(handler.attributes) + str(handler.events)
    (line,) = [recordOf(event) for event in events if event.get("event") == "handler.failed"]
    assert (line.trace, line.span) == (f"{handler.context.trace_id:032x}", f"{handler.context.span_id:016x}")


def test_manyAtOnce(spans: Spans) -> None:
    """Handlers that wait at the same time keep their own traces."""
    room = Room()
    with serve({"/room": room}) as server:
        clients = [server.connect("/room") for _ in range(3)]
        for client in clients:
            client.writeTextMessage("wait")
        room.later.callback(None)
        for client in clients:
            client.readTextMessage()
    handlers = {span.context.span_id: span.context.trace_id for span in spans.named("Room.onTextMessage")}
    assert len({*handlers.values()}) == 3
    publishes: list[Any] = spans.named("publish")
    assert {parent(span): span.context.trace_id for span in publishes} == handlers


def test_without() -> None:
    """Without OpenTelemetry there is no span, and no line of the log names one."""
    assert tracing.tracer is None
    assert tracing.ofError(ValueError()) == tracing.ofSpan(None) == tracing.ofContext() == {}
    with capturedLogs() as events, serve({"/room": Room()}) as server:
        server.connect("/room").writeTextMessage("fail")
        server.flushErrors(ValueError)
    assert {recordOf(event).trace for event in events} == {None}


class Asks(ChannelService):
    """Is asked who may subscribe."""

    async def onSubscribe(self, caller: Any, channel: str) -> None:
        """Allow all."""


def test_hooks(spans: Spans) -> None:
    """A hook of a service of channels is a span."""
    with serve({"/channels": Asks()}) as server:
        client = server.connect("/channels", subProtocols=["twisted-ws.v1"])
        client.writeMessage({"type": "subscribe", "channel": "news"})
        while client.readMessage(dict)["type"] != "subscribed":
            pass
    assert spans.one("Asks.onSubscribe").attributes["twisted_ws.handler"] == "onSubscribe"


@pytest.mark.parametrize(("answer", "isError"), [(Answer(200), False), (Answer(503), True), (Unanswered("it is gone"), True)])
def test_backEnds(spans: Spans, answer: Any, isError: bool) -> None:
    """A question to the application is a span, which the request names to it, whatever comes of it."""
    sent: list[Question] = []
    answered: Deferred[Any] = Deferred()

    def send(question: Question) -> Deferred[Any]:
        sent.append(question)
        return answered

    backEnd = BackEnd("authenticator site", Clock(), send, 5, 10, lambda: succeed(None))
    with spans.provider.get_tracer("test").start_as_current_span("around") as around:
        asked = backEnd.ask(Question("GET", "https://app.example/who", (("Accept", "*/*"),)))
    (answered.errback if isinstance(answer, Exception) else answered.callback)(answer)
    asked.addErrback(lambda failure: None)
    span = spans.one("ask the back end")
    context = span.context
    accept, (name, value) = sent[0].headers
    assert (accept, name) == (("Accept", "*/*"), "traceparent")
    assert value.startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")
    assert parent(span) == around.get_span_context().span_id
    assert (span.status.status_code is trace.StatusCode.ERROR) is isError


def test_cancelled(spans: Spans) -> None:
    """A client that leaves while it is decided on ends the span, and that is no error."""
    room = Room()
    room.answer = Deferred()
    with serve({"/room": room}) as server:
        connecting = server.connecting("/room")
        connecting.addErrback(lambda failure: None)
        connecting.cancel()
        server.settle()
    handshake = spans.one("handshake")
    assert handshake.attributes["error.type"] == "CancelledError"
    assert handshake.status.status_code is trace.StatusCode.UNSET
