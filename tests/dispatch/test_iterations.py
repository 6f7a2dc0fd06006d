from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import AsyncIterator, Iterator
from types import CoroutineType
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import TestCase

from tests.dispatch.support import Peer, alive
from tests.dispatch.test_replies import WRAPS, Answer, Ask, Call
from twisted_ws.dispatch.iterations import ITEM, Iteration
from twisted_ws.limits import Limits
from twisted_ws.message import BINARY, TEXT
from twisted_ws.wire.loop.turns import STEPS


class Endless:
    """An iterator that never ends, and says whether it was closed."""

    def __init__(self, item: Any = "x") -> None:
        self.item = item
        self.count = 0
        self.closed = 0

    def __iter__(self) -> Endless:
        return self

    def __next__(self) -> Any:
        self.count += 1
        return self.item

    def close(self) -> None:
        self.closed += 1


async def asynchronously(items: list[Any]) -> AsyncIterator[Any]:
    for each in items:
        yield each


class Iterable:
    """Async iterable, without being an iterator."""

    def __aiter__(self) -> AsyncIterator[Any]:
        return asynchronously(["a", "b"])


@pytest.mark.parametrize("wrap", WRAPS[:3], ids=["plain", "async", "Deferred"])
def test_streams(wrap: Any) -> None:
    """Iterators and async iterators are sent item by item, None left out."""
    items = ["a", None, {"b": 1}, 5]
    for make in (lambda: iter(items), lambda: (each for each in items), lambda: asynchronously(items)):
        assert Peer(Answer(wrap(make()))).open().say("m").texts() == ["a", '{"b":1}', "5"]
    assert Peer(Answer(wrap(Iterable()))).open().say("m").texts() == ["a", "b"]


def test_pace() -> None:
    """The next item is requested once the peer has taken the last one; messages and pings are served meanwhile."""
    endless = Endless()
    peer = Peer(Call(lambda text: endless if text == "stream" else "answer")).open()
    peer.reads = False
    peer.say("stream")
    assert endless.count == 1
    peer.say("m", b"b")
    assert peer.dispatcher.pingReceived(b"")
    assert peer.sent == [(TEXT, b"x"), (TEXT, b"answer"), (BINARY, b"b"), (TEXT, b"answer")]
    assert endless.count == 1
    for each in peer.unread[:1]:
        each.callback(None)
    assert endless.count == 2
    del peer.unread[0]
    peer.leave()
    assert endless.closed == 1
    assert not peer.clock.getDelayedCalls()


@pytest.mark.parametrize("item", ["x", None])
@pytest.mark.parametrize(("callers", "streams"), [(1, 1), (5, 16)])
def test_fastStreams(item: Any, callers: int, streams: int) -> None:
    """Endless iterators let the reactor turn after a few items in all, even if they send nothing."""
    some = [Endless(item) for _ in range(callers * streams)]
    waiting = iter(some)
    service = Call(lambda text: next(waiting))
    peers = [Peer(service)]
    peers += [Peer(service, beside=peers[0]) for _ in range(callers - 1)]
    clock, total = peers[0].clock, 0
    for peer in peers:
        peer.open().say(*["m"] * streams)
    for _ in range(20):
        before, total = total, sum([each.count for each in some])
        assert total - before <= STEPS // ITEM + len(some)
        clock.turn()
    assert min([each.count for each in some]) > 5 * STEPS // ITEM // len(some)  # everybody has its share
    for peer in peers:
        peer.leave()
    counts = [each.count for each in some]
    for _ in range(3):
        clock.turn()
    assert [(each.count, each.closed) for each in some] == [(count, 1) for count in counts]
    assert not clock.getDelayedCalls()


def test_slowStream() -> None:
    """An iterator that is slow to make its items lets the reactor turn after each."""
    answer = Answer(None)
    peer = Peer(answer)

    class Slow(Endless):
        def __next__(self) -> Any:
            peer.clock.rightNow += 0.01
            return super().__next__()

    slow = Slow()
    answer.value = slow
    peer.open().say("m")
    assert slow.count == 1
    peer.clock.turn()
    assert slow.count == 2
    peer.leave()


def test_limit() -> None:
    """With as many streams as are allowed, later messages wait until one of them ends."""
    made: list[Any] = []

    def stream(text: str) -> Any:
        if text == "m":
            return "answer"
        made.append(iter([text] * 2))
        return made[-1]

    peer = Peer(Call(stream), Limits(streams=2)).open()
    peer.reads = False
    peer.say("a", "b", "m")
    assert peer.texts() == ["a", "b", "answer"]
    peer.say("c", "m", "m")
    assert peer.texts() == ["a", "b", "answer"]
    peer.unread.pop(0).callback(None)
    assert peer.texts() == ["a", "b", "answer", "a"]
    peer.unread.pop(2).callback(None)
    assert peer.texts() == ["a", "b", "answer", "a", "c", "answer", "answer"]
    peer.leave()


def test_limitAndClose() -> None:
    """A stream that waits for its turn is closed with the others, and the messages behind it are handled before onClose."""
    streams = [Endless(), Endless()]
    waiting = list(streams)
    order: list[str] = []
    service = Call(lambda text: waiting.pop(0) if text == "s" else order.append(f"message, {service.closed}"))
    peer = Peer(service, Limits(streams=1)).open()
    peer.reads = False
    peer.say("s", "s", "m")
    assert order == []
    peer.leave()
    assert [each.closed for each in streams] == [1, 1]
    assert (order, service.closed) == (["message, 0"], 1)
    assert streams[1].count == 0
    assert not peer.clock.getDelayedCalls()


def test_limitOfWaiting() -> None:
    """A stream that waits behind another waiting stream is closed with it when the caller leaves."""
    endless = Endless()

    async def waits() -> AsyncIterator[str]:
        await Deferred()
        yield "a"

    streams: list[Any] = [waits(), endless]
    service = Call(lambda text: streams.pop(0))
    peer = Peer(service, Limits(streams=1)).open().say("m", "m")
    assert endless.count == 0
    peer.leave()
    assert (endless.count, endless.closed, service.closed) == (0, 1, 1)


class Iterators(TestCase):
    def test_iteratorRaises(self) -> None:
        """An iterator that raises counts as the handler's error; its earlier items are sent."""

        def items() -> Iterator[str]:
            yield "a"
            raise KeyError("a bug")

        async def asyncItems() -> AsyncIterator[str]:
            yield "a"
            raise KeyError("a bug")

        class NoAwaitable:
            def __aiter__(self) -> Any:
                return self

            def __anext__(self) -> str:
                return "a"

        class Unclosable(Endless):
            def close(self) -> None:
                raise KeyError("a bug")

            def __next__(self) -> Any:
                if self.count:
                    raise StopIteration
                self.count = 1
                return "a"

        for make, error in ((items, KeyError), (asyncItems, KeyError), (NoAwaitable, TypeError), (Unclosable, KeyError)):
            peer = Peer(Answer(make())).open().say("a")
            assert peer.texts() == ([] if make is NoAwaitable else ["a"])
            assert peer.failedWith() == [1011]
            assert len(self.flushLoggedErrors(error)) == 1

    def test_limitOfPings(self) -> None:
        """Pings do not wait, so a service that answers each with a stream fails at the limit instead of holding ever more."""
        made: list[Endless] = []

        def stream(_: Any) -> Endless:
            made.append(Endless())
            return made[-1]

        peer = Peer(Call(stream), Limits(streams=2)).open()
        peer.reads = False
        for _ in range(3):
            peer.dispatcher.pingReceived(b"")
        assert peer.failedWith() == [1011]
        assert [each.closed for each in made] == [0, 0, 1]
        peer.leave()
        assert [each.closed for each in made] == [1, 1, 1]
        assert len(self.flushLoggedErrors(RuntimeError)) == 1

    def test_cancelled(self) -> None:
        """When its caller leaves, an async generator is cancelled where it waits, and its clean-up runs."""
        happened: list[str] = []
        waiting: Deferred[None] = Deferred()

        async def items() -> AsyncIterator[str]:
            try:
                yield "a"
                await waiting
            finally:
                happened.append("cleaned up")

        peer = Peer(Answer(items())).open().say("m")
        assert peer.texts() == ["a"]
        peer.leave()
        assert happened == ["cleaned up"]

    def test_refusesToEnd(self) -> None:
        """A generator that goes on after being cancelled is closed, and sends nothing more."""

        async def items() -> AsyncIterator[str]:
            yield "a"
            try:
                await Deferred()
            except BaseException:
                yield "b"

        peer = Peer(Answer(items())).open().say("m")
        peer.leave()
        assert peer.texts() == ["a"]

    def test_cancelRaises(self) -> None:
        """A canceller that raises is logged; every other stream is ended and onClose is called."""

        def broken(_: Any) -> None:
            raise KeyError("a bug")

        async def items() -> AsyncIterator[str]:
            await Deferred(broken)
            yield "a"

        class Items:
            def __aiter__(self) -> Items:
                return self

            def __anext__(self) -> Deferred[str]:
                return Deferred(broken)

        for make in (items, Items):
            endless = Endless()
            streams: list[Any] = [make(), endless]
            service = Call(lambda text, streams=streams: streams.pop(0))
            peer = Peer(service).open().say("m", "m")
            peer.leave()
            assert endless.closed == 1
            assert service.closed == 1
            assert len(self.flushLoggedErrors()) == 1

    def test_cancelledElsewhere(self) -> None:
        """A generator that ends because something else was cancelled has failed."""
        task: Deferred[None] = Deferred()

        async def items() -> AsyncIterator[str]:
            await task
            yield "a"

        peer = Peer(Answer(items())).open().say("m")
        task.cancel()
        assert peer.failedWith() == [1011]
        assert len(self.flushLoggedErrors()) == 1

    def test_closesOnTheWay(self) -> None:
        """An iterator during which the peer leaves is closed, and the item in the making is dropped."""

        class Leaving(Endless):
            def __next__(self) -> Any:
                if self.count == 1:
                    peer.leave()
                return super().__next__()

        for item in ("x", None):
            leaving = Leaving(item)
            service = Call(lambda text, leaving=leaving: leaving)
            peer = Peer(service)
            peer.open().say("m")
            assert peer.texts() == ([item] if item else [])
            assert (leaving.count, leaving.closed, service.closed) == (2, 1, 1)
            assert not peer.clock.getDelayedCalls()

    def test_peerLeavesBetween(self) -> None:
        """A write that can never reach the peer ends the stream quietly."""
        endless = Endless()
        peer = Peer(Answer(endless)).open()
        peer.reads = False
        peer.say("m")
        peer.leave()
        assert endless.closed == 1
        assert peer.errors == []

    def test_closedBefore(self) -> None:
        """A stream for a caller that has left, or is leaving, is closed without being asked for an item."""
        endless = Endless()
        waiting: Deferred[Any] = Deferred()
        peer = Peer(Answer(waiting)).open().say("m")
        peer.caller.close()
        waiting.callback(endless)
        assert (endless.count, endless.closed) == (0, 1)

    def test_withoutClose(self) -> None:
        """An iterator that cannot be closed just ends."""
        before = alive(Iteration)
        peer = Peer(Answer(iter("ab"))).open().say("m")
        assert peer.texts() == ["a", "b"]
        assert alive(Iteration) <= before


def test_collectedWhileItWaits() -> None:
    """An iterator that refuses to end is collected with its stream, and is not closed while it runs."""

    async def stubborn() -> AsyncIterator[str]:
        while True:
            with contextlib.suppress(CancelledError):
                await Deferred()
            yield "never"

    peer = Peer(Ask(stubborn())).open().say('{"event": "ask"}')
    running = [each for each in gc.get_objects() if isinstance(each, CoroutineType) and each.__qualname__ == "Iteration._run"]
    assert running
    with warnings.catch_warnings(record=True) as warned:
        for each in running:
            each.close()  # as the collector does; a RuntimeError where it awaits anything
    assert (peer.texts(), warned) == ([], [])
