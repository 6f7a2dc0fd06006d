from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import msgspec
import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import TestCase

from tests.dispatch.support import Peer, Recorder, alive
from twisted_ws.caller import Caller
from twisted_ws.dispatch.iterations import Iterations
from twisted_ws.dispatch.queue import STEP, MessageQueue, weight
from twisted_ws.errors import BindingError, ConnectionClosed, HandlerError, ProtocolError
from twisted_ws.limits import Limits
from twisted_ws.message import BINARY, TEXT
from twisted_ws.service import CloseFrame, dispatches


class Order(msgspec.Struct):
    id: int


class Buggy(msgspec.Struct):
    id: int

    def __post_init__(self) -> None:
        raise KeyError("a bug of the type")


class Story(Recorder):
    """Writes down every event."""

    def onOpen(self, caller: Caller) -> None:
        self.heard.append("open")

    def onTextMessage(self, caller: Caller, text: str) -> None:
        self.heard.append(text)

    def onBinaryMessage(self, caller: Caller, data: bytes) -> None:
        self.heard.append(data)

    def onPing(self, caller: Caller, data: bytes) -> None:
        self.heard.append(("ping", data))

    def onPong(self, caller: Caller, data: bytes) -> None:
        self.heard.append(("pong", data))


class Slow(Story):
    """Waits for a Deferred at each message; onPing and onPong do not."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Deferred[Any]] = []

    def wait(self) -> Deferred[Any]:
        self.waiting.append(Deferred())
        return self.waiting[-1]

    async def onTextMessage(self, caller: Caller, text: str) -> Any:  # type: ignore[override]
        self.heard.append(text)
        result = await self.wait()
        self.heard.append(f"{text} done")
        return result

    def go(self, result: Any = None) -> None:
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            each.callback(result)


class Shop(Recorder):
    dispatcherKey = "event"

    def onMessage(self, caller: Caller, message: Any) -> None:
        self.heard.append(("message", message))

    def onUnSubscribe(self, caller: Caller, message: str) -> None:
        self.heard.append(("unsubscribe", message))

    def onOrder(self, caller: Caller, message: Order) -> None:
        self.heard.append(message)

    def onOrderError(self, caller: Caller, error: BindingError) -> str:
        self.heard.append(error)
        return "wrong order"

    def onPay(self, caller: Caller, message: Order) -> None:
        self.heard.append(message)

    @dispatches("settle!")
    def payNow(self, caller: Caller, message: dict[str, Any]) -> None:
        self.heard.append(("pay now", message))

    def onBug(self, caller: Caller, message: Buggy) -> None: ...

    async def onWait(self, caller: Caller, message: Any) -> str:
        return "waited"


def test_everything() -> None:
    """Events reach their handlers in order, each with its arguments."""
    service = Story()
    peer = Peer(service).open().say("a", b"b")
    assert peer.dispatcher.pingReceived(b"1")
    peer.dispatcher.pongReceived(b"2")
    peer.leave(1000, "bye")
    assert service.heard == ["open", "a", b"b", ("ping", b"1"), ("pong", b"2"), (1000, "bye")]


def test_tooManyValues() -> None:
    """A message with too many JSON values counts as one that does not fit: it goes to on<Event>Error or ends the connection."""

    class Service:
        dispatcherKey = "event"
        heard: ClassVar[list[Any]] = []

        def onGuarded(self, caller: Caller, message: dict[str, Any]) -> None: ...

        def onGuardedError(self, caller: Caller, error: BindingError) -> None:
            self.heard.append(error.reason)

        def onMessage(self, caller: Caller, message: list[Any]) -> None:
            self.heard.append(message)

    peer = Peer(Service(), Limits(jsonValues=5)).open()
    peer.say("[1,2,3,4]", '{"event":"guarded","more":[1]}', "[1,2,3,4,5]")
    assert Service.heard == [[1, 2, 3, 4], "bad data: too many values"]
    assert [(error.code, error.reason) for error in peer.errors] == [(1003, "bad data: too many values")]


def test_nothing() -> None:
    """An event without a handler is skipped."""

    class Deaf:
        def onUpgrade(self, request: Any) -> Any: ...

    peer = Peer(Deaf()).open().say("a", b"b")
    assert not peer.dispatcher.pingReceived(b"")
    peer.dispatcher.pongReceived(b"")
    peer.dispatcher.failed(ProtocolError("x"))
    assert peer.caller in peer.callers
    peer.leave()
    assert (peer.sent, peer.errors, peer.callers) == ([], [], set())


def test_callers() -> None:
    """A caller is among the callers before onOpen, and no longer at onClose."""
    seen = []

    class Chat:
        def onOpen(self, caller: Caller) -> None:
            seen.append(caller in peer.callers)

        def onClose(self, caller: Caller, statusCode: int, reason: str) -> None:
            seen.append(caller in peer.callers)

    peer = Peer(Chat())
    peer.open()
    peer.leave()
    assert seen == [True, False]


def test_closing() -> None:
    """A caller that is closing is hidden from others long before onClose; a stop still waits for it."""
    peer = Peer(Story()).open()
    peer.caller.close(4000, "enough")
    assert peer.callers == set()
    assert [dispatcher.caller for dispatcher in peer.leaving] == [peer.caller]
    peer.leave()
    assert peer.leaving == {}


def test_neverOpened() -> None:
    """Without onOpen there is no onClose."""
    service = Story()
    Peer(service).leave()
    assert service.heard == []


@pytest.mark.parametrize(
    ("event", "message", "heard"),
    [
        ("onMessage", "a", "a"),
        ("onMessage", b"a", b"a"),
        ("onTextMessage", "a", "a"),
        ("onTextMessage", b"a", None),
        ("onBinaryMessage", b"a", b"a"),
        ("onBinaryMessage", "a", None),
    ],
)
def test_kinds(event: str, message: str | bytes, heard: Any) -> None:
    """A kind of message that no handler takes is ignored."""
    heardNow: list[Any] = []
    service = type("Chat", (), {event: lambda self, caller, message: heardNow.append(message)})()
    assert Peer(service).open().say(message).errors == []
    assert heardNow == ([] if heard is None else [heard])


def test_binding() -> None:
    """OnMessage takes what the two others do not, in the form of its annotation."""
    heard: list[Any] = []

    class Chat:
        def onTextMessage(self, caller: Caller, text: str) -> None:
            heard.append(text)

        def onMessage(self, caller: Caller, message: Order) -> str:
            heard.append(message)
            return "ok"

    peer = Peer(Chat()).open().say("{}", b'{"id": 1}')
    assert heard == ["{}", Order(1)]
    assert peer.texts() == ["ok"]


class Orders(Recorder):
    def onMessage(self, caller: Caller, message: Order) -> None:
        self.heard.append(message)


def test_misfit() -> None:
    """A message that does not fit ends the connection with 1003 after onError, and names the field."""
    service = Orders()
    peer = Peer(service).open().say('{"id": "x"}')
    (error,) = service.heard
    assert peer.errors == [error]
    assert (error.code, error.field, error.reason) == (1003, "id", "bad data: id")


@pytest.mark.parametrize(
    ("message", "heard"),
    [
        ('{"event": "un subscribe"}', ("unsubscribe", '{"event": "un subscribe"}')),
        ('{"event": "order", "id": 1}', Order(1)),
        (b'{"event": "order", "id": 1}', Order(1)),
        ('{"event": "settle!", "id": 1}', ("pay now", {"event": "settle!", "id": 1})),
        ('{"event": "payNow"}', ("message", '{"event": "payNow"}')),
        ('{"event": "close"}', ("message", '{"event": "close"}')),
        ('{"event": "orderError"}', ("message", '{"event": "orderError"}')),
        ('{"event": "order error"}', ("message", '{"event": "order error"}')),
        ('{"event": "message"}', ("message", '{"event": "message"}')),
        ('{"event": 5}', ("message", '{"event": 5}')),
        ('{"event": null}', ("message", '{"event": null}')),
        ('{"event": ["order"]}', ("message", '{"event": ["order"]}')),
        ('{"event": ""}', ("message", '{"event": ""}')),
        ("{}", ("message", "{}")),
        ("[]", ("message", "[]")),
        ("{", ("message", "{")),
        (b"\xff", ("message", b"\xff")),
        ("[" * 100_000, ("message", "[" * 100_000)),
    ],
)
def test_dispatch(message: str | bytes, heard: Any) -> None:
    """The value of the dispatcher field selects the handler; everything else goes to onMessage."""
    service = Shop()
    assert Peer(service).open().say(message).errors == []
    assert service.heard == [heard]


def test_dispatchElsewhere() -> None:
    """What no dispatched handler takes goes to onTextMessage or onBinaryMessage if defined, and is ignored otherwise."""

    class Both(Story):
        dispatcherKey = "event"

        def onOrder(self, caller: Caller, message: Order) -> None:
            self.heard.append(message)

    class Only:
        dispatcherKey = "event"

        def onOrder(self, caller: Caller, message: Order) -> None: ...

    service = Both()
    Peer(service).open().say("{}", b"{}", '{"event": "order", "id": 1}', b'{"event": "order", "id": 2}')
    assert service.heard == ["open", "{}", b"{}", Order(1), Order(2)]
    assert Peer(Only()).open().say("{}", b"{}", '{"event": "x"}').errors == []


def test_dispatchMisfit() -> None:
    """A binding error goes to on<Event>Error and the connection goes on; without one, it ends the connection."""
    service = Shop()
    peer = Peer(service).open().say('{"event": "order"}', '{"event": "order", "id": 2}', '{"event": "wait"}')
    assert isinstance(service.heard[0], BindingError)
    assert (service.heard[0].field, service.heard[1]) == ("id", Order(2))
    assert (peer.texts(), peer.errors) == (["wrong order", "waited"], [])
    peer.say('{"event": "pay", "id": 1.5}')
    assert peer.failedWith() == [1003]
    assert service.heard[-1].reason == "bad data: id"


class Waiting(TestCase):
    """Order, waiting, and the end."""

    def test_oneAtATime(self) -> None:
        """While a handler waits, later messages of its connection wait; other connections, pings and pongs do not."""
        service, other, before = Slow(), Story(), alive(MessageQueue)
        peer = Peer(service).open().say("a", "b", b"c")
        assert peer.dispatcher.pingReceived(b"1")
        peer.dispatcher.pongReceived(b"2")
        Peer(other).open().say("x")
        assert service.heard == ["open", "a", ("ping", b"1"), ("pong", b"2")]
        assert other.heard == ["open", "x"]
        service.go("answer")
        assert service.heard[-2:] == ["a done", "b"]
        assert peer.texts() == ["answer"]
        service.go()
        assert service.heard[-2:] == ["b done", b"c"]
        assert alive(MessageQueue) <= before

    def test_onOpenWaits(self) -> None:
        """Messages wait for an async onOpen, whose value is sent."""

        class Chat(Slow):
            def onOpen(self, caller: Caller) -> Any:
                return self.wait()

        service = Chat()
        peer = Peer(service).open().say("a")
        assert service.heard == []
        service.go("welcome")
        assert (peer.texts(), service.heard) == (["welcome"], ["a"])

    def test_chained(self) -> None:
        """A Deferred that has fired and waits for another one is not done."""
        inner: Deferred[str] = Deferred()

        class Chat(Recorder):
            def onTextMessage(self, caller: Caller, text: str) -> Any:
                self.heard.append(text)
                return succeed(None).addCallback(lambda _: inner) if text == "a" else None

        service = Chat()
        peer = Peer(service).open().say("a", "b")
        assert service.heard == ["a"]
        inner.callback("answer")
        assert (service.heard, peer.texts()) == (["a", "b"], ["answer"])

    def test_thousandsWait(self) -> None:
        """Any number of waiting messages is handled without recursion, whether their handlers are plain or async."""

        class Chat(Recorder):
            first: Deferred[None] | None = None

            async def onTextMessage(self, caller: Caller, text: str) -> None:
                self.heard.append(text)
                if self.first is None:
                    self.first = Deferred()
                    await self.first

        service, before = Chat(), alive(MessageQueue)
        messages = [str(number) for number in range(3000)]
        peer = Peer(service, Limits(readAhead=10_000_000)).open().say(*messages)
        assert service.heard == ["0"]
        service.first.callback(None)  # type: ignore[union-attr]
        assert service.heard == messages
        assert peer.waiting == 0
        assert alive(MessageQueue) <= before

    def test_reading(self) -> None:
        """Reading pauses while more waits than may be read ahead; each message is charged on top of its size."""
        service = Slow()
        limits = Limits(readAhead=sum(map(weight, ("bb", b"cc", "ü"))))
        peer = Peer(service, limits).open().say("a", "bb", b"cc", "ü")
        assert peer.reading
        peer.say("d")
        assert not peer.reading
        peer.say("e")
        assert peer.pauses == 1
        service.go()
        assert not peer.reading
        service.go()
        service.go()
        assert peer.reading

    def test_weight(self) -> None:
        """The connection is told, in steps of some KiB, how much memory the waiting messages take, until none wait."""
        service = Slow()
        peer = Peer(service, Limits(readAhead=1 << 30)).open().say("a", "small")
        assert peer.waiting == 0
        peer.say("x" * 10_000)
        assert 10_000 < peer.waiting < 10_000 + 2 * STEP
        peer.say("x" * 10_000 + "\U0001f600")
        assert 50_000 < peer.waiting < 50_000 + 2 * STEP
        for _ in range(4):
            service.go()
        assert peer.waiting == 0
        assert service.heard[-1].endswith("\U0001f600 done")

    def test_weightAtTheEnd(self) -> None:
        """Waiting messages no longer count once the connection has failed or the grace is over."""
        for fails in (False, True):
            peer = Peer(Slow(), Limits(handlerGrace=5)).open().say("a", "x" * 10_000)
            assert peer.waiting
            if fails:
                peer.fail(ProtocolError("wrong"))
            peer.leave()
            peer.clock.advance(10)
            assert peer.waiting == 0

    def test_moreWhenReading(self) -> None:
        """Messages that come the moment reading resumes keep their place."""
        service = Slow()
        peer = Peer(service, Limits(readAhead=1)).open().say("a", "b")
        assert not peer.reading
        more = ["c", "d"]
        peer.onResume = lambda: peer.say(more.pop(0), more.pop(0)) and None  # type: ignore[assignment]
        service.go()
        peer.onResume = lambda: None
        for _ in range(3):
            service.go()
        assert service.heard == ["open", "a", "a done", "b", "b done", "c", "c done", "d", "d done"]

    def test_closeAfterMessages(self) -> None:
        """Messages that came before the end are handled first, then onClose is called once, and no timer is left."""
        service = Slow()
        peer = Peer(service).open().say("a", "b")
        peer.leave(1001, "away")
        assert peer.callers == set()
        assert service.heard == ["open", "a"]
        service.go("dropped")
        service.go("dropped")
        assert service.heard == ["open", "a", "a done", "b", "b done", (1001, "away")]
        assert peer.sent == []
        assert not peer.clock.getDelayedCalls()

    def test_grace(self) -> None:
        """A handler that hangs holds onClose back for the grace; then the rest is dropped, with one line in the log."""
        service = Slow()
        peer = Peer(service, Limits(handlerGrace=5)).open().say("a", "b", "c")
        peer.leave()
        with capturedLogs() as events:
            peer.clock.advance(4.9)
            assert service.heard == ["open", "a"]
            peer.clock.advance(0.2)
        assert service.heard == ["open", "a", (1006, "")]
        assert len(events) == 1
        assert (events[0]["service"], events[0]["count"]) == ("Slow", 2)
        service.go("late")
        assert service.heard == ["open", "a", (1006, ""), "a done"]
        assert peer.sent == []
        assert not peer.clock.getDelayedCalls()

    def test_graceOfOnOpen(self) -> None:
        """An onOpen that hangs is given the same grace; onClose comes after it, or at the end of the grace."""

        class Chat(Slow):
            def onOpen(self, caller: Caller) -> Any:
                return self.wait()

        for hangs in (False, True):
            service = Chat()
            peer = Peer(service).open()
            peer.leave()
            assert service.heard == []
            if hangs:
                peer.clock.advance(Limits().handlerGrace)
            else:
                service.go()
            assert service.heard == [(1006, "")]
            assert not peer.clock.getDelayedCalls()

    def test_leaving(self) -> None:
        """A stop knows of a caller until its handlers and its onClose have ended."""

        class Chat(Slow):
            def onClose(self, caller: Caller, statusCode: int, reason: str) -> Any:
                self.heard.append((statusCode, reason))
                return self.wait()

        for messages in ((), ("a",), ("a", "b")):
            service, ends = Chat(), []
            peer = Peer(service).open().say(*messages)
            peer.leave()
            peer.leaving[peer.dispatcher] = end = Deferred[None]()  # as who waits does it
            end.addCallback(ends.append)
            for _ in messages:
                service.go()
            assert service.heard[-1] == (1006, "")
            assert ends == []
            service.go()
            assert ends == [None]
            assert peer.leaving == {}
        plain = Peer(Story()).open()
        plain.leave()
        assert plain.leaving == {}

    def test_lateAndClosing(self) -> None:
        """A handler that ends while onClose is still running does not end onClose."""

        class Chat(Slow):
            closing: Deferred[Any]

            def onClose(self, caller: Caller, statusCode: int, reason: str) -> Any:
                self.closing = Deferred()
                return self.closing

        service = Chat()
        peer = Peer(service).open().say("a")
        peer.leave()
        peer.clock.advance(Limits().handlerGrace)
        service.go()
        assert peer.leaving
        service.closing.errback(KeyError("a bug"))
        assert peer.leaving == {}
        assert len(self.flushLoggedErrors(KeyError)) == 1

    def test_onCloseThatHangs(self) -> None:
        """An onClose that never ends is given up, as a stop would give it up, with one line in the log."""

        class Chat:
            async def onClose(self, caller: Caller, statusCode: int, reason: str) -> None:
                await Deferred()

        peer = Peer(Chat(), Limits(drainTimeout=20)).open()
        peer.leave()
        with capturedLogs() as events:
            peer.clock.advance(19)
            assert (list(peer.leaving), events) == ([peer.dispatcher], [])
            peer.clock.advance(1)
        assert peer.leaving == {}
        assert [formatEvent(event) for event in events] == ["Chat.onClose is still running; the stop no longer waits for it"]
        assert not peer.clock.getDelayedCalls()

    def test_giveUp(self) -> None:
        """When nobody waits any longer, onClose is called at once, and only once."""
        for asynchronous in (False, True):

            class Chat(Slow):
                def onClose(self, caller: Caller, statusCode: int, reason: str) -> Any:
                    self.heard.append((statusCode, reason))
                    return Deferred() if asynchronous else None  # noqa: B023 - called in this turn of the loop

            service = Chat()
            peer = Peer(service).open().say("a", "b")
            peer.leave()
            for _ in range(2):
                peer.dispatcher.giveUp()
                assert service.heard == ["open", "a", (1006, "")]
                assert peer.leaving == {}
            service.go()
            assert service.heard == ["open", "a", (1006, ""), "a done"]
            assert not peer.clock.getDelayedCalls()

    def test_lateError(self) -> None:
        """What a handler raises after the end is logged, and nothing else."""
        service = Slow()
        peer = Peer(service).open().say("a", b"b")
        peer.leave()
        service.waiting.pop().errback(KeyError("a bug"))
        assert service.heard == ["open", "a", b"b", (1006, "")]
        assert peer.errors == []
        assert len(self.flushLoggedErrors(KeyError)) == 1

    def test_waitsForThePeer(self) -> None:
        """A handler that waits for a write to a peer that leaves is not at fault."""

        class Chat(Recorder):
            async def onTextMessage(self, caller: Caller, text: str) -> None:
                await caller.writeTextMessage("a")
                await caller.writeTextMessage("b")

            def onBinaryMessage(self, caller: Caller, data: bytes) -> Any:
                return caller.writeTextMessage("c")

        service = Chat()
        peer = Peer(service).open()
        peer.reads = False
        peer.say("m", b"m")
        peer.leave()
        assert service.heard == [(1006, "")]
        assert peer.errors == []
        assert self.flushLoggedErrors() == []

    def test_othersGone(self) -> None:
        """ConnectionClosed of another caller is the handler's error: it has to expect that."""

        class Chat(Recorder):
            def onTextMessage(self, caller: Caller, text: str) -> Any:
                return fail(ConnectionClosed())

        peer = Peer(Chat()).open().say("m")
        assert peer.failedWith() == [1011]
        assert len(self.flushLoggedErrors(ConnectionClosed)) == 1


class Reentrant(TestCase):
    """Handlers that make things happen while they run."""

    def test_closedMeanwhile(self) -> None:
        """OnClose waits for the handler on the stack, and its value is dropped."""

        class Chat(Story):
            def onTextMessage(self, caller: Caller, text: str) -> Any:
                peer.leave()
                self.heard.append(text)
                return "late"

            def onOpen(self, caller: Caller) -> None:
                self.heard.append("open")

        service = Chat()
        peer = Peer(service)
        peer.open().say("a")
        assert service.heard == ["open", "a", (1006, "")]
        assert peer.sent == []
        assert not peer.clock.getDelayedCalls()

    def test_closedInOnOpen(self) -> None:
        """OnClose comes after onOpen, even if onOpen closes the connection."""

        class Chat(Recorder):
            def onOpen(self, caller: Caller) -> None:
                peer.leave()
                self.heard.append("open")

        service = Chat()
        peer = Peer(service)
        peer.open()
        assert service.heard == ["open", (1006, "")]
        assert not peer.clock.getDelayedCalls()

    def test_messageMeanwhile(self) -> None:
        """A message that comes while a plain handler runs is handled after it."""

        class Chat(Recorder):
            def onTextMessage(self, caller: Caller, text: str) -> str:
                self.heard.append(f"{text} begins")
                if text == "a":
                    peer.say("b")
                self.heard.append(f"{text} ends")
                return text

        service = Chat()
        peer = Peer(service)
        peer.open().say("a")
        assert service.heard == ["a begins", "a ends", "b begins", "b ends"]
        assert peer.texts() == ["a", "b"]

    def test_closesAndReturns(self) -> None:
        """What a handler returns after closing is dropped; what it raises is still reported."""

        class Chat(Recorder):
            def onTextMessage(self, caller: Caller, text: str) -> Any:
                caller.close(4000, "done")
                if text == "raise":
                    raise KeyError("a bug")
                return text

        for message in ("a", "raise"):
            peer = Peer(Chat()).open().say(message)
            assert (peer.sent, peer.closedWith) == ([], (4000, "done"))
            assert peer.failedWith() == ([1011] if message == "raise" else [])
        assert len(self.flushLoggedErrors(KeyError)) == 1

    def test_writesLater(self) -> None:
        """A handler may write in a later turn."""

        class Chat:
            def onTextMessage(self, caller: Caller, text: str) -> None:
                peer.clock.callLater(1, caller.writeTextMessage, text)

        peer = Peer(Chat())
        peer.open().say("a")
        peer.clock.advance(1)
        assert peer.texts() == ["a"]


class Idle(TestCase):
    def test_without(self) -> None:
        """Without onIdleTimeout the connection is closed with 1000."""
        peer = Peer(Story()).open()
        peer.dispatcher.idle()
        assert peer.closedWith == (1000, "idle timeout")

    def test_handlers(self) -> None:
        """The connection is closed after onIdleTimeout, plain or async, unless it wrote to the caller."""
        for answer, closed in (
            (lambda caller: None, True),
            (lambda caller: succeed(None), True),
            (lambda caller: "still there?", False),
            (lambda caller: succeed("still there?"), False),
            (lambda caller: caller.ping() and None, False),
            (lambda caller: iter(["a"]), False),
            (lambda caller: CloseFrame(4000, "own"), None),
        ):
            service = type("Chat", (), {"onIdleTimeout": staticmethod(answer)})()
            peer = Peer(service).open()
            peer.dispatcher.idle()
            assert peer.closedWith == ((4000, "own") if closed is None else (1000, "idle timeout") if closed else None)

    def test_slow(self) -> None:
        """OnIdleTimeout is not called again while it is running, but may be after that."""
        calls: list[Deferred[str]] = []

        class Chat:
            def onIdleTimeout(self, caller: Caller) -> Deferred[str]:
                calls.append(Deferred())
                return calls[-1]

        peer = Peer(Chat()).open()
        peer.dispatcher.idle()
        peer.dispatcher.idle()
        assert len(calls) == 1
        calls[0].callback("wait")
        assert peer.closedWith is None
        peer.dispatcher.idle()
        assert len(calls) == 2
        peer.leave()
        calls[1].callback("gone")
        assert peer.texts() == ["wait"]
        assert peer.closedWith is None

    def test_raises(self) -> None:
        """An onIdleTimeout that raises is a handler's error, not a normal close."""
        for answer in (lambda caller: 1 / 0, lambda caller: fail(ZeroDivisionError())):
            service = type("Chat", (), {"onIdleTimeout": staticmethod(answer)})()
            peer = Peer(service).open()
            peer.dispatcher.idle()
            assert peer.failedWith() == [1011]
            assert peer.closedWith is None
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 2


def raising(error: BaseException, how: str) -> Any:
    """Return a handler that raises: at once, as a coroutine, or with a Deferred."""

    def plain(self: Any, *arguments: Any) -> Any:
        raise error

    async def coroutine(self: Any, *arguments: Any) -> Any:
        raise error

    def deferred(self: Any, *arguments: Any) -> Any:
        return fail(error)

    return {"plain": plain, "coroutine": coroutine, "deferred": deferred}[how]


HOWS = ("plain", "coroutine", "deferred")


class Raising(TestCase):
    """One bad service never hurts another."""

    def test_everyEvent(self) -> None:
        """A handler that raises is logged once, by name; the peer gets 1011 without detail, and other connections go on."""
        drive = {
            "onOpen": lambda peer: None,
            "onTextMessage": lambda peer: peer.say("a"),
            "onBinaryMessage": lambda peer: peer.say(b"a"),
            "onMessage": lambda peer: peer.say("a"),
            "onPing": lambda peer: peer.dispatcher.pingReceived(b""),
            "onPong": lambda peer: peer.dispatcher.pongReceived(b""),
            "onIdleTimeout": lambda peer: peer.dispatcher.idle(),
        }
        callers: set[Caller] = set()
        good = Story()
        other = Peer(good, callers=callers).open()
        for event, act in drive.items():
            for how in HOWS:
                bug = KeyError("db password")
                service: Any = type("Bad", (Recorder,), {event: raising(bug, how)})()
                peer = Peer(service, callers=callers)
                with capturedLogs() as events:
                    peer.open()
                    act(peer)
                (error,) = peer.errors
                assert isinstance(error, HandlerError)
                assert (error.code, error.reason, error.event, error.__cause__) == (1011, "internal error", event, bug)
                assert "password" not in str(error)
                assert [(each["service"], each["handler"], each["log_failure"].value) for each in events] == [("Bad", event, bug)]
                peer.leave(1011)
                assert service.heard == [error, (1011, "")]
                assert not peer.clock.getDelayedCalls()
                self.flushLoggedErrors(KeyError)
        other.say("a")
        assert good.heard == ["open", "a"]
        assert callers == {other.caller}

    def test_lastEvents(self) -> None:
        """OnError and onClose that raise are logged, and nothing else happens."""
        for event in ("onError", "onClose"):
            for how in HOWS:
                bug = KeyError("a bug")
                service = type("Bad", (), {event: raising(bug, how), "onOpen": lambda self, caller: None})()
                peer = Peer(service).open()
                with capturedLogs() as events:
                    peer.fail(ProtocolError("x"))
                    peer.leave(1002)
                assert [each["handler"] for each in events] == [event]
                assert (peer.failedWith(), peer.callers) == ([1002], set())
                assert len(self.flushLoggedErrors(KeyError)) == 1

    def test_lastEventsReturn(self) -> None:
        """What onError and onClose return is not sent."""
        waiting: Deferred[str] = Deferred()
        service = type("Chat", (), {"onError": lambda *_: "a", "onClose": lambda *_: waiting})()
        peer = Peer(service).open()
        peer.fail(ProtocolError("x"))
        peer.leave()
        waiting.callback("b")
        assert peer.sent == []

    def test_everyException(self) -> None:
        """A BaseException is caught, too: a cancellation, or a SystemExit, to which no service has a right."""
        for error in (CancelledError(), asyncio.CancelledError(), SystemExit(1), KeyboardInterrupt(), GeneratorExit()):
            for how in HOWS:
                peer = Peer(type("Bad", (), {"onTextMessage": raising(error, how)})()).open().say("a")
                assert peer.failedWith() == [1011]
                assert len(self.flushLoggedErrors(type(error))) == 1

    def test_bugInType(self) -> None:
        """A message type whose own code raises is a handler's error, with and without dispatching."""

        class Chat:
            def onMessage(self, caller: Caller, message: Buggy) -> None: ...

        for service, message in ((Chat(), '{"id": 1}'), (Shop(), '{"event": "bug", "id": 1}')):
            assert Peer(service).open().say(message).failedWith() == [1011]
            assert len(self.flushLoggedErrors(KeyError)) == 1

    def test_waitingDropped(self) -> None:
        """When a service's error ends the connection, later messages are dropped."""
        service = Slow()
        peer = Peer(service, Limits(readAhead=10)).open().say("a", "b", b"c")
        service.waiting.pop().errback(KeyError("a bug"))
        peer.leave(1011)
        assert service.heard == ["open", "a", peer.errors[0], (1011, "")]
        assert len(self.flushLoggedErrors(KeyError)) == 1

    def test_onErrorCloses(self) -> None:
        """OnError may close the connection itself."""

        class Chat:
            def onError(self, caller: Caller, error: Exception) -> None:
                caller.close(4000, "own")

        peer = Peer(Chat()).open()
        peer.fail(ProtocolError("x"))
        assert peer.closedWith == (4000, "own")

    def test_badObjects(self) -> None:
        """Values that raise when they are examined are caught like any other error."""

        class Evil:
            def __await__(self) -> Any:
                raise KeyError("a bug")

        class EvilStream:
            def __aiter__(self) -> Any:
                raise KeyError("a bug")

        for value in (Evil(), EvilStream()):
            peer = Peer(type("Bad", (), {"onTextMessage": lambda self, caller, text, value=value: value})()).open().say("a")
            assert peer.failedWith() == [1011]
            assert len(self.flushLoggedErrors(KeyError)) == 1


def test_lean() -> None:
    """For a plain handler that returns None, a str or bytes, no reply machinery is made."""

    class Echo:
        def onTextMessage(self, caller: Caller, text: str) -> Any:
            return {"x": 1} if text == "x" else text or None

        def onBinaryMessage(self, caller: Caller, data: bytes) -> bytes:
            return data

    before = alive(MessageQueue, Iterations)
    peer = Peer(Echo()).open().say("a", "", b"b", "x")
    assert peer.sent == [(TEXT, b"a"), (BINARY, b"b"), (TEXT, b'{"x":1}')]
    assert alive(MessageQueue, Iterations) <= before
    assert not hasattr(peer.dispatcher, "__dict__")
