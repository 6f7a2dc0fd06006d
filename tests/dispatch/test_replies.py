from __future__ import annotations

import asyncio
import dataclasses
import tracemalloc
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred, inlineCallbacks, succeed
from twisted.trial.unittest import TestCase

from tests.dispatch.support import Peer
from twisted_ws.caller import Caller
from twisted_ws.dispatch.awaitables import asDeferred
from twisted_ws.errors import HandlerError
from twisted_ws.limits import Limits
from twisted_ws.message import BINARY, TEXT
from twisted_ws.service import CloseFrame


class Answer:
    """Returns one thing for every text."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def onTextMessage(self, caller: Caller, text: str) -> Any:
        return self.value

    def onPing(self, caller: Caller, data: bytes) -> Any:
        return self.value


class Call:
    """Returns what a function of the message returns."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.closed = 0

    def onTextMessage(self, caller: Caller, text: str) -> Any:
        return self.function(text)

    def onBinaryMessage(self, caller: Caller, data: bytes) -> Any:
        return data

    def onPing(self, caller: Caller, data: bytes) -> Any:
        return self.function(data)

    def onClose(self, caller: Caller, statusCode: int, reason: str) -> None:
        self.closed += 1


class Ask:
    dispatcherKey = "event"
    dispatcherStreamId = "id"

    def __init__(self, value: Any) -> None:
        self.value = value

    def onAsk(self, caller: Caller, message: dict[str, Any]) -> Any:
        return self.value

    async def onLater(self, caller: Caller, message: dict[str, Any]) -> Any:
        return self.value

    def onPick(self, caller: Caller, message: list[int]) -> None: ...

    def onPickError(self, caller: Caller, error: Exception) -> Any:
        return {"error": 1}


class Text(str):
    __slots__ = ()


class Point(msgspec.Struct):
    x: int


@dataclasses.dataclass
class Pair:
    a: int


class Awaitable:
    def __await__(self) -> Iterator[Any]:
        return succeed("awaited").__await__()  # type: ignore[no-any-return]


async def value(result: Any) -> Any:
    return result


@inlineCallbacks
def generated(result: Any) -> Any:
    yield succeed(None)
    return result


WRAPS = [lambda it: it, value, succeed, generated]


@pytest.mark.parametrize("wrap", WRAPS, ids=["plain", "async", "Deferred", "inlineCallbacks"])
@pytest.mark.parametrize(
    ("result", "sent"),
    [
        (None, []),
        ("text", [(TEXT, b"text")]),
        ("", [(TEXT, b"")]),
        ("\u00fc", [(TEXT, b"\xc3\xbc")]),
        (Text("sub"), [(TEXT, b"sub")]),
        (b"bytes", [(BINARY, b"bytes")]),
        (bytearray(b"ba"), [(BINARY, b"ba")]),
        (memoryview(b"mv"), [(BINARY, b"mv")]),
        ({"a": 1}, [(TEXT, b'{"a":1}')]),
        ([1, "b"], [(TEXT, b'[1,"b"]')]),
        ((1, 2), [(TEXT, b"[1,2]")]),
        (5, [(TEXT, b"5")]),
        (False, [(TEXT, b"false")]),
        (Point(1), [(TEXT, b'{"x":1}')]),
        (Pair(1), [(TEXT, b'{"a":1}')]),
    ],
)
def test_values(wrap: Any, result: Any, sent: list[tuple[int, bytes]]) -> None:
    """Each kind of returned value is sent as its kind of message, now or later."""
    peer = Peer(Call(lambda text: wrap(result))).open().say("a")
    assert peer.sent == sent
    assert peer.dispatcher.pingReceived(b"")
    assert peer.sent == sent * 2
    assert not peer.errors


def test_closeFrame() -> None:
    """A returned CloseFrame closes with its code and reason."""
    for wrap in WRAPS:
        assert Peer(Answer(wrap(CloseFrame(4001, "bye")))).open().say("a").closedWith == (4001, "bye")
    peer = Peer(Answer(iter(["a", CloseFrame(4001, "bye"), "b"]))).open().say("a")
    assert (peer.texts(), peer.closedWith) == (["a"], (4001, "bye"))


def test_awaitables() -> None:
    """Any awaitable is waited for."""
    assert Peer(Answer(Awaitable())).open().say("a").texts() == ["awaited"]
    assert asDeferred("text") is None


def test_futures() -> None:
    """A Future of asyncio is waited for while its loop runs."""
    loop = asyncio.new_event_loop()
    try:
        future = loop.create_future()
        peer = Peer(Answer(future)).open().say("a", b"")
        assert peer.sent == []
        future.set_result("done")
        loop.run_until_complete(asyncio.sleep(0))
        assert peer.texts() == ["done"]
    finally:
        loop.close()


class Errors(TestCase):
    def test_notEncodable(self) -> None:
        """A value that JSON cannot express is the handler's error."""
        for result in (object(), {"a": object()}, "\ud800", CloseFrame, iter(["a", object()])):
            peer = Peer(Answer(result)).open().say("a")
            assert peer.failedWith() == [1011]
            assert isinstance(peer.errors[0], HandlerError)
            assert len(self.flushLoggedErrors()) == 1

    def test_closed(self) -> None:
        """A value for a caller that has left is dropped silently."""
        for result in ("a", b"a", {"a": 1}, object(), CloseFrame(4000), Awaitable()):
            waiting: Deferred[Any] = Deferred()
            peer = Peer(Answer(waiting)).open().say("a")
            peer.leave()
            waiting.callback(result)
            assert (peer.sent, peer.errors) == ([], [])
        assert self.flushLoggedErrors() == []


def test_streamId() -> None:
    """The request's id goes into replies that are JSON objects, including later ones and streams, and into no others."""
    message = '{"event": "ask", "id": {"n":1}}'
    own = {"a": 1}
    for result, sent in (
        (own, ['{"a":1,"id":{"n":1}}']),
        ({}, ['{"id":{"n":1}}']),
        ({"id": 5, "b": 2}, ['{"id":{"n":1},"b":2}']),
        (Point(1), ['{"x":1,"id":{"n":1}}']),
        (Pair(1), ['{"a":1,"id":{"n":1}}']),
        ({1: msgspec.Raw(b"1.50")}, ['{"1":1.50,"id":{"n":1}}']),
        (msgspec.Raw(b'{ "a": 1 } '), ['{"a":1,"id":{"n":1}}']),
        (msgspec.Raw(b"{ }"), ['{"id":{"n":1}}']),
        ([1], ["[1]"]),
        ("text", ["text"]),
        (5, ["5"]),
    ):
        assert Peer(Ask(result)).open().say(message).texts() == sent
        assert Peer(Ask(result)).open().say(message.replace("ask", "later")).texts() == sent
        assert Peer(Ask(iter([result, result]))).open().say(message).texts() == sent * 2
    assert own == {"a": 1}
    assert Peer(Ask(b"b")).open().say(message).sent == [(BINARY, b"b")]
    assert Peer(Ask({})).open().say('{"event": "ask", "id": null}').texts() == ['{"id":null}']
    assert Peer(Ask({})).open().say('{"event": "ask"}').texts() == ["{}"]
    assert Peer(Ask({})).open().say('{"event": "pick", "id": 7}').texts() == ['{"error":1,"id":7}']


@pytest.mark.parametrize("end", ["leaves", "reads"])
def test_idsCount(end: str) -> None:
    """The ids that iterators hold count towards the memory of their caller until they end."""

    class Many(Ask):
        def onAsk(self, caller: Caller, message: dict[str, Any]) -> Any:
            return iter([{}])

    peer = Peer(Many(None), Limits(streams=2)).open()
    peer.reads = False
    for count in (1, 2, 3, 3):  # the third waits, and the fourth is not looked at before
        peer.say('{"event": "ask", "id": "%s"}' % ("i" * 100_000))
        assert peer.kept == count * 100_002
    if end == "leaves":
        peer.leave()
    else:
        peer.read()
        assert len(peer.texts()) == 4
    assert peer.kept == 0


def test_idOfManyFields() -> None:
    """Adding the id to a reply makes no objects of its other fields, however many there are."""
    peer = Peer(Ask({f"{number:x}": 1 for number in range(50_000)})).open()
    tracemalloc.start()
    try:
        peer.say('{"event": "ask", "id": 7}')
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    (text,) = peer.texts()
    assert text.endswith(',"c34f":1,"id":7}')
    assert peak < 6 * len(text)


def test_noStreamId() -> None:
    """Without a dispatcherStreamId no field of a request goes into a reply, whatever its name."""

    class Plain:
        dispatcherKey = "event"

        def onAsk(self, caller: Caller, message: dict[str, Any]) -> Any:
            return {"a": 1}

    assert Peer(Plain()).open().say('{"event": "ask", "": 7}').texts() == ['{"a":1}']


def test_anyStreamId() -> None:
    """The id goes back exactly as it came: no number loses a digit, and no nesting that was read fails to be written."""
    for number in ("0.12345678901234567890", "1e5", "123456789012345678901234567890"):
        assert Peer(Ask({})).open().say(f'{{"event": "ask", "id": {number}}}').texts() == [f'{{"id":{number}}}']
    answered = 0
    for depth in range(900, 1100):
        for event in ("ask", "later"):
            peer = Peer(Ask({})).open().say(f'{{"event": "{event}", "id": {"[" * depth}{"]" * depth}}}')
            answered += len(peer.sent)
            assert not (peer.sent and peer.errors)
    assert answered
