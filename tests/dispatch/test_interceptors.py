"""Interceptors stand around every handler and hook, and cost nothing where there are none."""

from __future__ import annotations

import json

import pytest
from twisted.internet.defer import Deferred

from tests.web.worlds import Client
from twisted_ws import Reject, ServiceError, WebSocketService, dispatches
from twisted_ws.channels.service import ChannelService
from twisted_ws.client import HandshakeRefused
from twisted_ws.testing import serve
from twisted_ws.web.pages import pagesSite


class Notes:
    """An interceptor that notes each call, what it was called with, and what it returned."""

    def __init__(self, name=""):
        self.name = name
        self.calls = []

    def __call__(self, event, caller, call):
        self.calls.append((event, *call.arguments))
        assert (call.event, call.caller) == (event, caller)
        return call()


class Echo(WebSocketService):
    dispatcherKey = "event"

    def onUpgrade(self, request):
        return self

    def onOpen(self, caller):
        return "welcome"

    def onTextMessage(self, caller, text):
        return text.upper()

    def onBinaryMessage(self, caller, data):
        return data[::-1]

    @dispatches("sub")
    def onSub(self, caller, message: dict[str, str]):
        return message

    def onSubError(self, caller, error):
        return "bad"

    def onPing(self, caller, data):
        caller.pong(data)

    def onClose(self, caller, statusCode, reason):
        pass


def test_everyHandler():
    """Each event passes: messages of all kinds, dispatched ones and their errors, pings, the handshake and the end."""
    notes = Notes()
    with serve({"/ws": Echo()}, interceptors=[notes]) as server:
        client = server.connect("/ws")
        assert client.readTextMessage() == "welcome"
        client.writeTextMessage("hello")
        assert client.readTextMessage() == "HELLO"
        client.writeBinaryMessage(b"abc")
        assert client.readBinaryMessage() == b"cba"
        client.writeTextMessage('{"event":"sub"}')
        assert json.loads(client.readTextMessage()) == {"event": "sub"}
        client.writeTextMessage('{"event":"sub","n":5}')
        assert client.readTextMessage() == "bad"
        ponged = client.client.ping(b"p")
        server.settle()
        assert ponged.called
        client.close()
    events = [call[0] for call in notes.calls]
    assert events == [
        "onUpgrade", "onOpen", "onTextMessage", "onBinaryMessage", "onSub", "onSubError", "onPing", "onClose",
    ]  # fmt: skip
    assert notes.calls[2] == ("onTextMessage", "hello")
    assert notes.calls[-1] == ("onClose", 1000, "")


def test_order():
    """The server's are outside those of the mount, in the order in which they are named; each may change what is returned."""

    def adding(letter):
        def around(event, caller, call):
            result = call()
            return result + letter if event == "onTextMessage" else result

        return around

    with serve({}, interceptors=[adding("a"), adding("b")]) as server:
        server.server.mount("/ws", Echo(), interceptors=[adding("c")])
        client = server.connect("/ws")
        client.readTextMessage()
        client.writeTextMessage("x")
        assert client.readTextMessage() == "Xcba"


def test_refuses():
    """An interceptor may refuse: a handshake by Reject, a message by not calling the handler."""

    def around(event, caller, call):
        if event == "onUpgrade" and "no" in caller.query:
            raise Reject(403, "no")
        return "too long" if event == "onTextMessage" and len(call.arguments[0]) > 5 else call()

    with serve({"/ws": Echo()}, interceptors=[around]) as server:
        with pytest.raises(HandshakeRefused):
            server.connect("/ws?no")
        client = server.connect("/ws")
        client.readTextMessage()
        client.writeTextMessage("123456")
        client.writeTextMessage("12345")
        assert client.readMessages() == ["too long", "12345"]


def test_async():
    """One that is async waits for the handler, whether that is async or not, and the order of messages stays."""
    waiting: list[Deferred[None]] = []
    seen = []

    class Slow(WebSocketService):
        async def onTextMessage(self, caller, text):
            waiting.append(Deferred())
            await waiting[-1]
            return text

        def onBinaryMessage(self, caller, data):
            return data

    async def around(event, caller, call):
        result = await call.finish()
        seen.append(result)
        return result

    with serve({"/ws": Slow()}, interceptors=[around]) as server:
        client = server.connect("/ws")
        client.writeTextMessage("a")
        client.writeBinaryMessage(b"b")
        assert seen == []
        waiting[0].callback(None)
        assert client.readMessages() == ["a", b"b"]
    assert seen == ["a", b"b"]


def test_raises():
    """What an interceptor raises counts as raised by the handler: the service's name and the event are in the log."""

    def around(event, caller, call):
        raise KeyError("x")

    with serve(
        {"/ws": Echo()},
        interceptors=[lambda event, caller, call: call() if event != "onTextMessage" else around(event, caller, call)],
    ) as server:
        client = server.connect("/ws")
        client.readTextMessage()
        client.writeTextMessage("hello")
        assert client.closed == (1011, "internal error")
        (error,) = server.flushErrors(KeyError)
        assert error.args == ("x",)


def test_hooks():
    """The hooks of channels pass on every transport, with the visitor where it is HTTP."""
    notes = Notes()
    service = ChannelService(publish=True, presence=True)
    with serve({"/channels/{channel}": service, "/channels": service}, interceptors=[notes]) as server:
        client = server.connect("/channels/a")
        client.writeTextMessage("hello")
        http = Client(server.server.factory(pagesSite(server.server)), server.clock)
        assert http.get("/channels/a").status == 200
        assert http.post("/channels/a", b"x", "Content-Type: text/plain").status == 200
        client.close()
    assert [call for call in notes.calls if call[0].startswith(("onSub", "onPub", "onUns"))] == [
        ("onSubscribe", "a"),
        ("onPublish", "a", "hello"),
        ("onSubscribe", "a"),
        ("onPublish", "a", "x"),
        ("onUnsubscribe", "a"),
    ]


def test_none():
    """Without interceptors a handler is called as before, by the service itself."""
    with serve({"/ws": Echo()}) as server:
        client = server.connect("/ws")
        assert server.server.services["/ws"] is server.server.find("/ws")
        assert client.readTextMessage() == "welcome"


def test_notCallable():
    """An interceptor that cannot be called is refused when it is named."""
    with pytest.raises(ServiceError, match="callable with"):
        serve({"/ws": Echo()}, interceptors=["notes"])
