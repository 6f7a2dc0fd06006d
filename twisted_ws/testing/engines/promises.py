"""The promises of the contract of engines, each a test for pytest.

The module imports no pytest: its users have it, and this package does not need it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from operator import attrgetter
from typing import Any, ClassVar, TypeVar

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_ws.engines.contract import (
    Description,
    Disconnect,
    EngineState,
    History,
    HistoryLimits,
    NodeInfo,
    Revocation,
    Unsubscribe,
)
from twisted_ws.engines.newest import newest
from twisted_ws.errors import ChannelError, ConfigurationError
from twisted_ws.limits import Limits
from twisted_ws.message import START, Kind, Message, Position, Published, parsePosition
from twisted_ws.testing.engines.harness import Capability, Data, EngineHarness
from twisted_ws.testing.engines.recording import Feed, RecordingNode

_T = TypeVar("_T")
_Test = TypeVar("_Test", bound=Callable[..., None])

MANY = HistoryLimits(10_000, 300, 64 << 20)  # enough for all that a test publishes
CHARGE = 256  # bytes that each message is charged in a history, besides its payload and key


def needs(*capabilities: Capability) -> Callable[[_Test], _Test]:
    """Say what an engine must be capable of for a test to apply to it."""

    def mark(test: _Test) -> _Test:
        test.needs = frozenset(capabilities)  # type: ignore[attr-defined]
        return test

    return mark


@implementer(ILogObserver)
class _Tracebacks:
    """Notes the failures that are logged."""

    def __init__(self) -> None:
        self.failures: list[Any] = []

    def __call__(self, event: LogEvent) -> None:
        """Take one event of the log."""
        if "log_failure" in event:
            self.failures.append(event["log_failure"])


def later(call: Callable[..., Any], *arguments: Any, **options: Any) -> Deferred[Any]:
    """Return an answer as a Deferred, whether or not it has come."""
    answer: Deferred[Any] = maybeDeferred(call, *arguments, **options)
    return answer


class EngineContract:
    """The tests; a subclass sets `Harness`, and pytest collects those that its capabilities allow.

    ::

        class TestMyEngine(EngineContract):
            Harness = MyHarness

    Unless a test needs something else, it runs with two nodes if the engine can have several.

    Attributes:
        Harness: the subclass of `EngineHarness`.
        harness: one of these, for each test.
    """

    Harness: ClassVar[type[EngineHarness]]
    harness: EngineHarness

    def __init_subclass__(cls) -> None:
        if not hasattr(cls, "Harness"):
            return
        for name in dir(cls):
            needed: frozenset[Capability] = getattr(getattr(cls, name), "needs", frozenset())
            if not needed <= cls.Harness.capabilities:
                setattr(cls, name, None)  # pytest collects no such attribute

    def setup_method(self) -> None:
        """Prepare the harness."""
        self._nodes: list[RecordingNode] = []
        self.random = random.Random(4)
        self.harness = self.Harness()
        self.harness.setUp()
        self._observer = _Tracebacks()
        globalLogPublisher.addObserver(self._observer)

    def teardown_method(self) -> None:
        """Stop the engines; there must be no traceback in the log."""
        try:
            for node in self._nodes:
                with suppress(ChannelError):
                    self.harness.wait(node.engine.stop())
        finally:
            self.harness.tearDown()
            globalLogPublisher.removeObserver(self._observer)
        assert not self._observer.failures, f"logged: {self._observer.failures}"

    # What the tests are written with.

    def node(self, **limits: Any) -> RecordingNode:
        """Return a new node whose engine has started."""
        node = RecordingNode()
        node.engine = self.harness.engine(node, Limits(**limits))
        self._nodes.append(node)
        self.harness.wait(node.engine.start(node))
        return node

    def pair(self, **limits: Any) -> tuple[RecordingNode, RecordingNode]:
        """Return two nodes; for an engine that has only one, that one twice."""
        first = self.node(**limits)
        return first, self.node(**limits) if Capability.NODES in self.harness.capabilities else first

    def distinct(self, pair: tuple[RecordingNode, RecordingNode]) -> list[RecordingNode]:
        """Return the nodes of a pair, one if there is only one."""
        return list({node.id: node for node in pair}.values())

    def watch(self, node: RecordingNode, channel: str, after: Position | None = None) -> Feed:
        """Return a subscription that has begun, the one that there is if there is one."""
        feed = node.feeds.get(channel) or node.watch(channel, after)
        if not channel.endswith("*"):
            self.until(lambda: feed.isLive, "the subscription begins")
        else:
            self.harness.settle()
        return feed

    def publish(self, node: RecordingNode, channel: str, *texts: str, **options: Any) -> list[Published]:
        """Publish texts one after the other, and return the answers."""
        return [self.harness.wait(node.engine.publish(channel, Message.of(text), **options)) for text in texts]

    def since(self, node: RecordingNode, channel: str, after: Position | None, limit: int | None = None) -> tuple[Any, ...]:
        """Return what is kept: (position, recovered, texts)."""
        history: History = self.harness.wait(node.engine.since(channel, after, limit))
        return history.position, history.recovered, [each.payload.decode() for each in history.publications]

    def describe(self, node: RecordingNode, channel: str) -> Description:
        """Return what is known of a channel that there is."""
        found = self.harness.wait(node.engine.describe(channel))
        assert isinstance(found, Description), f"{channel} is unknown"
        return found

    def until(self, condition: Callable[[], object], what: str, seconds: float = 10) -> None:
        """Wait for something that has to come."""
        assert self.harness.until(condition, seconds), f"not within {seconds} seconds: {what}"

    def untilEach(self, items: Iterable[_T], condition: Callable[[_T], object], what: str, seconds: float = 10) -> None:
        """Wait for the same of each."""
        for each in items:
            self.until(partial(condition, each), what, seconds)

    def refused(self, call: Callable[[], Any]) -> str:
        """Return the code of the `ChannelError` that a call must fail with."""
        try:
            answer = self.harness.wait(call())
        except ChannelError as error:
            return error.code
        raise AssertionError(f"not refused, but answered: {answer}")

    # Publishing.

    def test_offsets(self) -> None:
        """The offsets of a channel go up by 1, whoever publishes, and no two messages have one id."""
        first, second = self.pair()
        published = [
            self.publish(node, channel, "text")[0] for node in (first, second, first, first, second) for channel in ("a", "b")
        ]
        for channel in "ab":
            positions = [parsePosition(each.id) for each in published if each.channel == channel]
            epoch, begin = positions[0]
            assert positions == [Position(epoch, begin + number) for number in range(5)]

    def test_everyWatcher(self) -> None:
        """Every node that watches a channel gets each message once, in the order of offsets, its own too."""
        pair = self.pair()
        feeds = [self.watch(node, "a") for node in pair]
        texts = [str(number) for number in range(50)]
        for number, text in enumerate(texts):
            self.publish(pair[number % 2], "a", text)
        self.until(lambda: all(len(feed.heard) >= 50 for feed in feeds), "50 messages")
        self.harness.settle()
        for feed in feeds:
            assert (feed.texts, feed.gaps) == (texts, [])
            assert [each.offset - feed.heard[0].offset for each in feed.heard] == [*range(50)]

    def test_watched(self) -> None:
        """A node that does not watch a channel does not get what is published to it."""
        first, second = self.pair()
        self.watch(first, "a")
        if second is not first:
            self.watch(second, "b")
        self.publish(second, "b", "1")
        self.publish(second, "a", "2")
        self.until(lambda: first.publications, "the message")
        assert [each.payload for each in first.publications] == [b"2"]

    def test_servedFirst(self) -> None:
        """A publisher gets its answer after the subscribers of its node were served."""
        node = self.node()
        self.watch(node, "a")
        node.recipients = served = Deferred[int]()
        heard: list[Any] = []
        answer = later(node.engine.publish, "a", Message.of("1"))
        answer.addCallback(lambda published: heard.append([each.payload for each in node.publications]))
        self.until(lambda: node.publications, "the message")
        self.harness.settle()
        assert heard == []
        node.recipients = 1
        served.callback(1)
        self.until(lambda: heard, "the answer")
        assert heard == [[b"1"]]

    def test_publishInside(self) -> None:
        """What a node publishes while it takes a message comes after that, for everybody."""
        first, second = self.pair()
        feeds = [self.watch(node, "a") for node in self.distinct((first, second))]
        first.onReceived = lambda publication: publication.payload == b"1" and first.engine.publish("a", Message.of("2"))
        self.publish(second, "a", "1")
        self.until(lambda: all(len(feed.heard) == 2 for feed in feeds), "two messages")
        assert [feed.texts for feed in feeds] == [["1", "2"]] * len(feeds)

    def test_sameOrder(self) -> None:
        """Of many messages that two nodes publish at once, each comes once, in the same order at both."""
        pair = self.pair()
        feeds = [self.watch(node, "a") for node in pair]
        answers = [
            later(node.engine.publish, "a", Message.of(f"{place}.{number}"), limits=MANY)
            for number in range(1000)
            for place, node in enumerate(pair)
        ]
        published = [self.harness.wait(answer, 60) for answer in answers]
        assert len({each.id for each in published}) == 2000
        self.until(lambda: all(len(feed.heard) >= 2000 for feed in feeds), "2,000 messages", 60)
        assert feeds[0].texts == feeds[1].texts
        assert sorted(feeds[0].texts) == sorted(f"{place}.{number}" for place in (0, 1) for number in range(1000))
        for place in "01":
            assert [text for text in feeds[0].texts if text[0] == place] == [f"{place}.{number}" for number in range(1000)]

    def test_interleavings(self) -> None:
        """Whoever begins to watch and then asks for the history misses nothing, whenever others publish."""
        first, second = self.pair()
        feeds: list[Feed] = []
        answers: list[Deferred[Published]] = []
        for channel in range(1000):
            begin = self.random.randrange(10)
            for number in range(10):
                if number == begin:
                    feeds.append(first.watch(str(channel), START))
                node = self.random.choice((first, second))
                answers.append(later(node.engine.publish, str(channel), Message.of(str(number))))
                if not self.random.randrange(20):
                    self.harness.advance(0.005)
            if len(answers) > 1000:
                while answers:
                    self.harness.wait(answers.pop(), 60)
        self.until(lambda: all(len(feed.heard) >= 10 for feed in feeds), "10 messages of each channel", 60)
        for feed in feeds:
            # What two nodes publish at once has no order.
            assert sorted(feed.texts) == [str(number) for number in range(10)]
            assert [each.offset - feed.heard[0].offset for each in feed.heard] == [*range(10)]
            assert feed.gaps == []

    def test_payloads(self) -> None:
        """Every payload comes back as it was, live and from the history, with its kind and its key."""
        payloads = [
            (Kind.BINARY, bytes(range(256)), None),
            (Kind.JSON, b'""', "a key"),
            (Kind.JSON, b"17", None),
            (Kind.TEXT, b"17", "kéy"),
            (Kind.TEXT, b"", ""),
            (Kind.TEXT, "a\r\nb\0c\N{SNOWMAN}".encode(), "\r\n"),
            (Kind.BINARY, b"\xff", None),
            (Kind.BINARY, b"", None),
            (Kind.BINARY, self.random.randbytes(1 << 20), None),
        ]
        first, second = self.pair()
        feed = self.watch(first, "a")
        for kind, payload, key in payloads:
            self.harness.wait(second.engine.publish("a", Message(kind, payload), key, limits=MANY))
        self.until(lambda: len(feed.heard) >= len(payloads), "all messages")
        history: History = self.harness.wait(first.engine.since("a", START))
        for heard in (feed.heard, [*history.publications]):
            assert [(each.kind, each.key) for each in heard] == [(kind, key) for kind, _, key in payloads]
            for each, (_, payload, _) in zip(heard, payloads, strict=True):
                isSame = each.payload == payload  # pytest would take minutes to describe how a megabyte differs
                assert isSame, f"a payload of {len(payload)} bytes came back as {len(each.payload)} others"

    # Watching.

    def test_unwatch(self) -> None:
        """After the end of a subscription nothing comes, at the latest when the engine has rested; a new one is whole."""
        first, second = self.pair()
        self.watch(first, "a")
        (published,) = self.publish(second, "a", "1")
        self.until(lambda: first.publications, "the message")
        first.unwatch("a")
        self.harness.advance(self.harness.watchRest)
        self.publish(second, "a", "2")
        self.harness.settle()
        assert [each.payload for each in first.publications] == [b"1"]
        feed = self.watch(first, "a", parsePosition(published.id))
        self.publish(second, "a", "3")
        self.until(lambda: len(feed.heard) >= 2, "two messages")
        assert (feed.texts, feed.gaps) == (["2", "3"], [])

    def test_watchAgainAtOnce(self) -> None:
        """A subscription that ends and begins again at once is whole."""
        first, second = self.pair()
        for number in range(5):
            feed = self.watch(first, "a", START)
            self.publish(second, "a", str(number))
            self.until(partial(self._hasHeard, feed, number + 1), "the message")
            assert (feed.texts, feed.gaps) == ([str(each) for each in range(number + 1)], [])
            first.unwatch("a")

    def test_patterns(self) -> None:
        """A pattern gets what matches it, once, even if the channel itself is watched, too."""
        first, second = self.pair()
        for channel in ("a.*", "a.b", "a.b.*"):
            self.watch(first, channel)
        for channel in ("a", "a.b", "ab", "a.b.c", "b"):
            self.publish(second, channel, channel)
        self.publish(second, "a.end", "end")
        self.until(lambda: first.publications and first.publications[-1].payload == b"end", "the last message")
        assert [each.channel for each in first.publications] == ["a.b", "a.b.c", "a.end"]
        for channel in ("a.*", "a.b.*"):
            first.unwatch(channel)
        self.harness.advance(self.harness.watchRest)
        self.publish(second, "a.end", "1")
        self.publish(second, "a.b", "2")
        self.until(lambda: first.publications[-1].payload == b"2", "the last message")
        assert [each.channel for each in first.publications] == ["a.b", "a.b.c", "a.end", "a.b"]

    def test_patternsMeanwhile(self) -> None:
        """A pattern gets each message once, in order, while a channel that it matches is watched and left."""
        first, second = self.pair()
        self.watch(first, "a.*")
        for number in range(40):
            published = second.engine.publish("a.b", Message.of(str(number)))
            if number % 2:
                first.unwatch("a.b")
            else:
                first.watch("a.b")
            if number % 4 == 0:
                self.harness.wait(published)
        self.until(lambda: first.publications[-1:] and first.publications[-1].payload == b"39", "the last message")
        assert [int(each.payload) for each in first.publications] == [*range(40)]

    # The history.

    def test_since(self) -> None:
        """What came since a position is recovered exactly if all of it is kept, and its position is before the first of it."""
        pair = self.pair()
        small = HistoryLimits(3, 300, 1 << 20)
        published = [self.publish(pair[number % 2], "a", str(number), limits=small)[0] for number in range(1, 6)]
        epoch, last = parsePosition(published[-1].id)

        def at(offset: int) -> Position:
            return Position(epoch, last - 5 + offset)

        cases = [
            (None, at(5), False, []),
            (at(5), at(5), True, []),
            (at(3), at(3), True, ["4", "5"]),
            (at(2), at(2), True, ["3", "4", "5"]),
            (at(1), at(2), False, ["3", "4", "5"]),
            (at(0), at(2), False, ["3", "4", "5"]),
            (at(6), at(5), False, []),
            (Position("old", last - 1), at(2), False, ["3", "4", "5"]),
            (Position("old", last + 9), at(2), False, ["3", "4", "5"]),
            (START, at(2), True, ["3", "4", "5"]),
        ]
        for node in pair:
            for after, *answer in cases:
                assert [*self.since(node, "a", after)] == answer, f"after {after}"

    def test_unknownChannel(self) -> None:
        """A channel that does not exist has nothing to miss, and nothing is known of it."""
        node, _ = self.pair()
        _, recovered, texts = self.since(node, "a", START)
        assert (recovered, texts) == (True, [])
        assert self.since(node, "a", None)[1:] == (False, [])
        assert self.since(node, "a", Position("old", 3))[1:] == (False, [])
        assert self.harness.wait(node.engine.describe("a")) is None
        assert self.harness.wait(node.engine.forget("a")) == 0

    def test_beforeTheFirst(self) -> None:
        """A position of a channel that does not exist yet stays good: nothing is missed while there is nothing, or since then."""
        first, second = self.pair()
        position, _, _ = self.since(first, "a", None)
        position, recovered, texts = self.since(second, "a", position)
        assert (recovered, texts) == (True, [])
        self.publish(first, "a", "1", "2")
        assert self.since(second, "a", position)[1:] == (True, ["1", "2"])

    def test_pages(self) -> None:
        """A history that is read in pages has no gaps, each page begins after the last message of the one before."""
        first, second = self.pair()
        texts = [str(number) for number in range(25)]
        self.publish(first, "a", *texts)
        for after, recovered in ((START, True), (Position("old", 4), False)):
            position, found = after, []
            for page in range(4):
                history: History = self.harness.wait(second.engine.since("a", position, 10))
                publications = [*history.publications]
                assert history.recovered is (recovered or page > 0)
                assert len(publications) == (10, 10, 5, 0)[page]
                found += [each.payload.decode() for each in publications]
                position = publications[-1].position if publications else position
            assert found == texts

    def test_newest(self) -> None:
        """A history is read backwards by offsets: the newest messages first, then those before them, up to the oldest kept."""
        pair = self.pair()
        small = HistoryLimits(10, 300, 1 << 20)
        published = [self.publish(pair[number % 2], "a", str(number), limits=small)[0] for number in range(13)]
        ids = [parsePosition(each.id) for each in published]
        for node in pair:
            found: list[str] = []
            before: Position | None = None
            for size in (4, 4, 2, 0):
                history: History = self.harness.wait(newest(node.engine, "a", 4, before))
                page = [*history.publications]
                assert (len(page), history.recovered) == (size, False)
                found = [each.payload.decode() for each in page] + found
                if page:
                    assert history.position == page[0].position._replace(offset=page[0].offset - 1)
                    before = history.position
            assert found == [str(number) for number in range(3, 13)]

            def texts(limit: int, before: Position | None, channel: str = "a", at: RecordingNode = node) -> list[str]:
                history: History = self.harness.wait(newest(at.engine, channel, limit, before))
                return [each.payload.decode() for each in history.publications]

            assert texts(999_999_999, None) == found
            assert texts(20, ids[5]) == ["3", "4", "5"]
            assert texts(20, ids[1]) == []  # gone
            assert texts(2, ids[12]._replace(offset=ids[12].offset + 5)) == ["11", "12"]
            assert texts(2, Position("old", ids[8].offset)) == []
            assert texts(3, None, "unknown") == []

    def test_keptByNumber(self) -> None:
        """Of more messages than the channel's limit, the oldest go; with a limit of 0 nothing is kept, and nothing is missed."""
        first, second = self.pair()
        self.publish(first, "a", *"12345", limits=HistoryLimits(2, 300, 1 << 20))
        assert self.since(second, "a", START)[1:] == (True, ["4", "5"])
        published = self.publish(first, "b", *"12", limits=HistoryLimits(0, 300, 1 << 20))
        assert self.since(second, "b", parsePosition(published[1].id)) == (parsePosition(published[1].id), True, [])
        assert self.since(second, "b", parsePosition(published[0].id))[1:] == (False, [])

    def test_keptByBytes(self) -> None:
        """Of more bytes than the channel's limit, the oldest messages go, each charged for what is around its payload."""
        first, second = self.pair()
        size = 4096
        self.publish(first, "a", *["x" * size] * 60, limits=HistoryLimits(1000, 300, 20 * (size + CHARGE)))
        kept = len(self.since(second, "a", START)[2])
        assert abs(kept - 20) <= 20 * self.harness.byteTolerance

    def test_keptByAge(self) -> None:
        """Messages older than the channel's limit are gone; an older position is not recovered, unless nothing was missed."""
        first, second = self.pair()
        brief = HistoryLimits(1000, 1, 1 << 20)
        published = self.publish(first, "a", "1", "2", limits=brief)
        self.publish(first, "b", "1")
        self.harness.advance(1.1)
        assert self.since(second, "a", START)[2] == []
        assert self.since(second, "a", parsePosition(published[0].id))[1:] == (False, [])
        assert self.since(second, "b", START)[2] == ["1"]

    def test_limitsOfLast(self) -> None:
        """The limits of the last message hold for what is kept of its channel."""
        first, second = self.pair()
        self.publish(first, "a", *"123", limits=HistoryLimits(2, 300, 1 << 20))
        self.publish(second, "a", *"45")
        assert self.since(first, "a", START)[2] == ["2", "3", "4", "5"]
        self.publish(first, "a", "6", limits=HistoryLimits(3, 300, 1 << 20))
        assert self.since(second, "a", START)[2] == ["4", "5", "6"]

    def test_forget(self) -> None:
        """A history that was deleted is gone, its numbering goes on, and older positions are not recovered."""
        first, second = self.pair()
        published = [parsePosition(each.id) for each in self.publish(first, "a", *"123")]
        assert self.harness.wait(second.engine.forget("a")) == 3
        assert self.since(first, "a", published[2]) == (published[2], True, [])
        assert self.since(first, "a", published[0])[1:] == (False, [])
        ((_, identity, _),) = self.publish(first, "a", "4")
        assert parsePosition(identity) == (published[2].epoch, published[2].offset + 1)
        assert self.since(second, "a", published[2])[1:] == (True, ["4"])

    def test_idsNeverAgain(self) -> None:
        """When a channel was forgotten, none of its ids comes again, and no position in it is taken for one in the new one."""
        first, second = self.pair()
        brief = HistoryLimits(1000, 1, 1 << 20)
        before = self.publish(first, "a", *"123", limits=brief)
        self.harness.advance(3)
        after = self.publish(second, "a", *"4567", limits=brief)
        assert not {each.id for each in before} & {each.id for each in after}
        _, recovered, texts = self.since(first, "a", parsePosition(before[0].id))
        assert (recovered, texts) == (False, ["4", "5", "6", "7"])

    # Idempotency.

    def test_idempotency(self) -> None:
        """A key publishes once in its channel, whichever node it is given to, and has the same answer each time."""
        first, second = self.pair()
        feed = self.watch(first, "a")
        answers = [self.publish(node, "a", "1", idempotencyKey="k")[0] for node in (first, second, second, first)]
        assert len({each.id for each in answers}) == 1
        self.publish(second, "b", "1", idempotencyKey="k")
        self.publish(second, "a", "2", idempotencyKey="l")
        self.until(lambda: len(feed.heard) >= 2, "two messages")
        assert feed.texts == ["1", "2"]

    def test_idempotencyInFlight(self) -> None:
        """The same holds while the first answer is not there yet."""
        first, second = self.pair()
        feed = self.watch(first, "a")
        answers = [later(node.engine.publish, "a", Message.of("1"), idempotencyKey="k") for node in (first, second) * 10]
        assert len({self.harness.wait(answer).id for answer in answers}) == 1
        self.publish(second, "a", "2")
        self.until(lambda: len(feed.heard) >= 2, "two messages")
        assert feed.texts == ["1", "2"]

    def test_keyOfAnother(self) -> None:
        """A key that comes with another message is refused, and neither is published again."""
        first, second = self.pair()
        feed = self.watch(first, "a")
        (published,) = self.publish(first, "a", "1", idempotencyKey="k", fingerprint=b"1")
        other = Message.of("2")
        assert self.refused(lambda: second.engine.publish("a", other, None, "k", b"2")) == "key-reused"
        assert self.publish(second, "a", "1", idempotencyKey="k", fingerprint=b"1")[0].id == published.id
        self.publish(second, "a", "3")
        self.until(lambda: len(feed.heard) >= 2, "two messages")
        assert feed.texts == ["1", "3"]

    def test_keysEnd(self) -> None:
        """A key publishes again when its time is over."""
        first, second = self.pair(idempotencyAge=1)
        before = self.publish(first, "a", "1", idempotencyKey="k")
        self.harness.advance(1.3)
        assert self.publish(second, "a", "1", idempotencyKey="k")[0].id != before[0].id

    # What is known.

    def test_list(self) -> None:
        """Channels are listed by name, from a name on and by prefix, and all nodes say the same of them."""
        pair = self.pair()
        for channel in ("b", "a.2", "a.1", "c"):
            self.publish(pair[0], channel, "1", "2")
        for node in pair:

            def names(prefix: str, after: str, limit: int, node: RecordingNode = node) -> list[str]:
                found: list[Description] = self.harness.wait(node.engine.list(prefix, after, limit))
                return [each.channel for each in found]

            assert names("", "", 10) == ["a.1", "a.2", "b", "c"]
            assert names("", "a.2", 1) == ["b"]
            assert names("a.", "", 10) == ["a.1", "a.2"]
            assert names("a.", "a.1", 10) == ["a.2"]
            assert names("z", "", 10) == []
        first, second = [self.harness.wait(node.engine.list("", "", 10)) for node in pair]
        assert first == second

    def test_describe(self) -> None:
        """A channel is described by its last position and what is kept, and all nodes say the same."""
        pair = self.pair()
        published = self.publish(pair[0], "a", *"12345", limits=HistoryLimits(3, 300, 1 << 20))
        described = self.describe(pair[0], "a")
        assert (described.channel, described.messages) == ("a", 3)
        assert (described.position, described.oldest) == (parsePosition(published[4].id), parsePosition(published[2].id))
        assert described == self.describe(pair[1], "a")
        self.harness.wait(pair[0].engine.forget("a"))
        described = self.describe(pair[1], "a")
        assert (described.position, described.oldest, described.messages) == (parsePosition(published[4].id), None, 0)

    def test_counts(self) -> None:
        """A publisher learns how many connections its message goes to at all nodes; so does whoever asks about the channel."""
        pair = self.pair()
        distinct = self.distinct(pair)
        for count, node in enumerate(distinct, 2):
            node.counts["a"] = count
            self.watch(node, "a")
        total = sum([node.counts["a"] for node in distinct])
        if self.harness.countDelay:
            self.harness.advance(self.harness.countDelay)
            self.until(lambda: self.publish(pair[0], "a", "0")[0].recipients == total, "the right number")
        for node in pair:
            assert self.publish(node, "a", "1")[0].recipients == total
            assert self.describe(node, "a").subscribers == total
            assert self.harness.wait(node.engine.members("a", "", 10, 1000)).subscribers == total
        assert self.publish(pair[1], "b", "1")[0].recipients == 0

    # Everybody.

    def test_broadcast(self) -> None:
        """A message to everybody comes to each node once, and the answer is how many connections got it at all of them."""
        pair = self.pair()
        distinct = self.distinct(pair)
        for node in distinct:
            node.connections = {f"{node.id}.{number}": None for number in range(3)}
        messages = [Message.of(each) for each in ("text", b"\0\xff", {"a": 1})]
        for message in messages:
            assert self.harness.wait(pair[1].engine.broadcast(message)) == 3 * len(distinct)
        assert [node.broadcasts for node in distinct] == [messages] * len(distinct)

    def test_commands(self) -> None:
        """A command comes to the node that has the connection or the user, and the answer is how many it concerned."""
        first, second = self.pair()
        first.connections[f"{first.id}.1"] = "ann"
        first.connections[f"{first.id}.2"] = None
        second.connections[f"{second.id}.3"] = "ann"
        engine = second.engine
        assert self.harness.wait(engine.command(Unsubscribe(None, "ann", "a", "left"))) == 2
        assert self.harness.wait(engine.command(Unsubscribe(f"{first.id}.2", None, "a.*", ""))) == 1
        for gone in (Disconnect("nowhere.1", None, 1000, ""), Disconnect(None, "bob", 4000, "")):
            assert self.harness.wait(engine.command(gone)) == 0
        assert self.harness.wait(engine.command(Disconnect(f"{first.id}.2", None, 1000, ""))) == 1
        assert self.harness.wait(engine.command(Disconnect(None, "ann", 4001, "gone"))) == 2
        assert (first.connections, second.connections) == ({}, {})
        assert Unsubscribe(None, "ann", "a", "left") in first.commands
        assert Disconnect(None, "ann", 4001, "gone") in first.commands

    def test_nodes(self) -> None:
        """The nodes are those that are there."""
        first, second = self.pair()
        first.connections["1"] = None
        infos = sorted([node.info() for node in self.distinct((first, second))], key=attrgetter("id"))
        for node in (first, second):
            self.until(partial(self._areNodes, node, infos), "all nodes")

    @needs(Capability.NODES)
    def test_nodeStops(self) -> None:
        """A node that has stopped is none of the nodes any more."""
        first, second = self.pair()
        self.until(lambda: len(self._ids(first)) == 2, "two nodes")
        self.harness.wait(second.engine.stop())
        self.until(lambda: self._ids(first) == [first.id], "one node", self.harness.lease + 2)

    def test_claim(self) -> None:
        """A key is claimed once, whichever nodes try, and for others it is another matter."""
        pair = self.pair()
        until = self._unixTime() + 100
        answers = [later(node.engine.claim, "k", until) for node in pair * 5]
        assert sorted([self.harness.wait(answer) for answer in answers]) == [False] * 9 + [True]
        assert self.harness.wait(pair[1].engine.claim("l", until))

    def test_revoke(self) -> None:
        """What is revoked is told to every node, and to those that come until it ends."""
        first, second = self.pair()
        until = self._unixTime() + 100
        revocations = [Revocation("t", None, 0, until), Revocation(None, "ann", 12.5, until)]
        for each in revocations:
            self.harness.wait(first.engine.revoke(each))
        self.untilEach((first, second), lambda node: node.revocations == revocations, "both revocations")
        if Capability.NODES in self.harness.capabilities:
            third = self.node()
            self.until(lambda: sorted(third.revocations, key=repr) == sorted(revocations, key=repr), "both revocations")

    def test_ask(self) -> None:
        """A question is answered by every node."""
        first, second = self.pair()
        ids = sorted({first.id, second.id})
        self.until(lambda: self._ids(second) == ids, "all nodes")
        answers = self.harness.wait(second.engine.ask("kind", b"\0payload"))
        assert sorted(answers) == [f"{each} kind ".encode() + b"\0payload" for each in ids]

    # Presence.

    def test_presence(self) -> None:
        """The first connection of a user is told to every node that watches the channel, another one is not, wherever it is."""
        pair = self.pair()
        distinct = self.distinct(pair)
        for node in distinct:
            self.watch(node, "a")
        pair[0].enter("a", 1, "ann", b'{"n":1}')
        pair[1].enter("a", 2, "ann", b'{"n":2}')
        pair[1].enter("a", 3, "bob")
        self.untilEach(distinct, lambda node: len(node.joins) >= 2, "two users")
        for node in distinct:
            told = {member.user: (channel, bytes(member.info)) for channel, member in node.joins}
            assert told.keys() == {"ann", "bob"}
            assert told["bob"] == ("a", b"null")
            assert told["ann"][0] == "a"
        self.until(lambda: sorted(self._members(pair[0])) == [("ann", 2), ("bob", 1)], "both users")
        self.harness.settle()
        assert [len(node.joins) for node in distinct] == [2] * len(distinct)
        assert sorted(self._members(pair[1])) == [("ann", 2), ("bob", 1)]

    def test_leaves(self) -> None:
        """A user has left when it has not come back in time, to whichever node; the last info of a user counts then."""
        pair = self.pair(presenceDelay=1)
        distinct = self.distinct(pair)
        for node in distinct:
            self.watch(node, "a")
        pair[0].enter("a", 1, "ann")
        pair[0].enter("a", 2, "bob", b'"b"')
        self.until(lambda: all(len(node.joins) == 2 for node in distinct), "two users")
        pair[0].leave("a", 1)
        pair[1].enter("a", 3, "ann")
        pair[0].leave("a", 2)
        self.untilEach(distinct, lambda node: node.leaves, "the leave")
        self.harness.advance(1.5)
        for node in distinct:
            assert [(channel, member.user, bytes(member.info)) for channel, member in node.leaves] == [("a", "bob", b'"b"')]
            assert len(node.joins) == 2
        assert self._members(pair[1]) == [("ann", 1)]
        pair[1].leave("a", 3)
        self.untilEach(distinct, lambda node: len(node.leaves) == 2, "the second leave")
        assert self._members(pair[0]) == []

    def test_membersAndMoves(self) -> None:
        """Whoever watches a channel and asks who is there knows everybody: by the answer, and by what is told since then."""
        first, second = self.pair(presenceDelay=0.1)
        self.watch(first, "a")
        here: dict[int, RecordingNode] = {}
        asked: list[tuple[int, Deferred[Any]]] = []
        for number in range(200):
            node = here[number] = self.random.choice((first, second))
            node.enter("a", number, f"{number:03}")
            if self.random.randrange(3):
                gone = self.random.choice([*here])
                here.pop(gone).leave("a", gone)
            if not number % 4:
                asked.append((len(first.moves), later(first.engine.members, "a", "", 1000, 1 << 20)))
            if not self.random.randrange(3):
                self.harness.advance(0.005)
        answers = [(mark, {each.user for each in self.harness.wait(answer).members}) for mark, answer in asked]
        present = {f"{number:03}" for number in here}
        self.until(lambda: {user for user, _ in self._members(second)} == present, "those who have left are gone")
        for mark, known in answers:
            self.until(lambda mark=mark, known=known: self._after(known, first.moves[mark:]) == present, "all is told")  # type: ignore[misc]

    def _after(self, users: set[str], moves: Iterable[tuple[str, str, str]]) -> set[str]:
        """Return who of these users, and of those who have moved since, is there."""
        last = {user: what for what, _, user in moves}
        return {user for user in users | {*last} if last.get(user) != "left"}

    def test_delaysOfLeaves(self) -> None:
        """A leave is told after its own delay, whatever others are waited for."""
        first = self.pair(presenceDelay=60)[0]
        for channel in "ab":
            self.watch(first, channel)
            first.enter(channel, 1, "ann")
            first.enter(channel, 2, "bob")
        self.until(lambda: len(first.joins) == 4, "two users on each channel")
        first.leave("a", 1)
        first.leave("b", 1, 30)
        self.harness.settle()
        first.leave("b", 2, 1)
        self.until(lambda: first.leaves, "a leave")
        self.harness.advance(1.5)
        assert [(channel, member.user) for channel, member in first.leaves] == [("b", "bob")]
        assert self._members(first) == [("bob", 1)]

    def test_manyMembers(self) -> None:
        """The users on a channel come in pages by name, of so many users or bytes, and none is missing or twice."""
        first, second = self.pair()
        users = [f"{number * 7919 % 10_000:05}" for number in range(10_000)]
        for number, user in enumerate(users):
            first.enter("a", number, user, b'"xxxxxxxx"')
            if not number % 500:
                self.harness.turn()
        self.until(lambda: self._count(second) == 10_000, "10,000 users", 60)
        found, pages, after = [], 0, ""
        while after is not None:
            page = self.harness.wait(second.engine.members("a", after, 1000, 1 << 20))
            found += [each.user for each in page.members]
            pages, after = pages + 1, page.next
        assert (found, pages) == (sorted(users), 10)
        page = self.harness.wait(second.engine.members("a", "00004", 1000, 1))
        assert ([each.user for each in page.members], page.next) == (["00005"], "00005")

    @needs(Capability.NODES, Capability.DEATH)
    def test_nodeDies(self) -> None:
        """The users of a node that dies have left when its lease and their time are over, and the node is gone."""
        first, second = self.pair(presenceDelay=1)
        self.watch(first, "a")
        second.enter("a", 1, "ann")
        first.enter("a", 2, "bob")
        self.until(lambda: len(first.joins) == 2, "two users")
        self._die(second)
        self.until(lambda: first.leaves, "the leave", self.harness.lease + 5)
        assert [member.user for _, member in first.leaves] == ["ann"]
        assert self._members(first) == [("bob", 1)]
        self.until(lambda: self._ids(first) == [first.id], "one node", 5)
        self.publish(first, "a", "1")
        assert self.harness.wait(first.engine.broadcast(Message.of("1"))) == 0

    # Beginning and ending.

    def test_start(self) -> None:
        """An engine that has started is up; one that has stopped is not, and each change is told."""
        node = self.node()
        assert (node.engine.state, node.states[-1]) == (EngineState.UP, EngineState.UP)
        self.harness.wait(node.engine.stop())
        assert (node.engine.state, node.states[-1]) == (EngineState.DOWN, EngineState.DOWN)

    def test_stop(self) -> None:
        """What is being published when an engine stops is finished first, whatever comes later is refused."""
        first, second = self.pair()
        self.watch(first, "a")
        first.recipients = served = Deferred[int]()
        answer = later(first.engine.publish, "a", Message.of("1"))
        self.until(lambda: first.publications, "the message")
        stopped = later(first.engine.stop)
        assert self.refused(lambda: first.engine.publish("a", Message.of("2"))) == "unavailable"
        first.recipients = 1
        served.callback(1)
        self.harness.wait(stopped)
        assert self.harness.wait(answer).channel == "a"
        for call in (
            lambda: first.engine.publish("a", Message.of("3")),
            lambda: first.engine.since("a", None),
            lambda: first.engine.broadcast(Message.of("")),
        ):
            assert self.refused(call) == "unavailable"
        if second is not first:
            assert self.since(second, "a", START)[2] == ["1"]
            self.publish(second, "a", "4")

    def test_cancelled(self) -> None:
        """Whoever waits no longer for an answer leaves nothing behind: everything else goes on as before."""
        first, second = self.pair()
        feed = self.watch(first, "a")
        self.publish(first, "a", "before")
        ended: list[Failure] = []
        calls: tuple[Callable[[RecordingNode], Any], ...] = (
            lambda node: node.engine.publish("a", Message.of("cancelled"), None, "k"),
            lambda node: node.engine.publish("a", Message.of("cancelled"), None, "k"),
            lambda node: node.engine.since("a", START),
            lambda node: node.engine.describe("a"),
            lambda node: node.engine.list("", "", 10),
            lambda node: node.engine.members("a", "", 10, 1000),
            lambda node: node.engine.nodes(),
            lambda node: node.engine.broadcast(Message.of("")),
            lambda node: node.engine.command(Disconnect(None, "nobody", 1000, "")),
            lambda node: node.engine.ask("kind", b""),
            lambda node: node.engine.watch("b"),
        )
        for turns in range(3):
            answers = [call(node) for node in (first, second) for call in calls]
            for _ in range(turns):
                self.harness.turn()
            for answer in answers:
                if isinstance(answer, Deferred):
                    answer.addErrback(ended.append)
                    answer.cancel()
        assert all(failure.check(CancelledError) for failure in ended)
        for node in (first, second):
            node.engine.unwatch("b")
            self.publish(node, "a", "after")
            self.publish(node, "a", "cancelled", idempotencyKey="k")
        self.until(lambda: feed.texts.count("after") >= 2, "the messages after")
        self.harness.settle()
        assert feed.texts.count("cancelled") == 1
        assert feed.gaps == []

    @needs(Capability.SYNCHRONOUS)
    def test_noDeferreds(self) -> None:
        """Publishing, watching and reading the history make no Deferreds."""
        node = self.node()
        made: list[Deferred[Any]] = []
        original = Deferred.__init__

        def make(self: Deferred[Any], *arguments: Any, **options: Any) -> None:
            made.append(self)
            original(self, *arguments, **options)

        Deferred.__init__ = make  # type: ignore[method-assign]
        try:
            assert isinstance(node.engine.watch("a"), Position)
            node.engine.watch("*")
            for _ in range(2):
                assert isinstance(node.engine.publish("a", Message.of("1"), None, "k"), Published)
            assert isinstance(node.engine.since("a", START, 10), History)
        finally:
            Deferred.__init__ = original  # type: ignore[method-assign]
        assert made == []

    # Faults.

    @needs(Capability.SERVER)
    def test_noServer(self) -> None:
        """An engine whose server does not exist says so in one line, within 5 seconds."""
        node = RecordingNode()
        node.engine = self.harness.lonely(node, Limits())
        errors: list[Failure] = []
        later(node.engine.start, node).addErrback(errors.append)
        self.until(lambda: errors, "the start fails", 6)
        assert errors[0].check(ConfigurationError), errors[0]
        assert str(errors[0].value)
        assert "\n" not in str(errors[0].value)

    @needs(Capability.BYTES, Capability.NODES)
    def test_cutAtEachByte(self) -> None:
        """Wherever the way to the others breaks while a message is published, the message is there once."""
        first, second = self.pair()
        feeds = [self.watch(node, "a") for node in (first, second)]
        count = 0
        while True:
            wasCut = self.harness.cutAfter(first.engine, count)
            publisher = _Publisher(self, first, "a", [str(count)])
            self.untilEach([publisher], attrgetter("isDone"), f"published, though cut after {count} bytes", 30)
            for feed in feeds:
                self.until(partial(self._hasHeard, feed, count + 1), "the message", 30)
            if not wasCut():
                break
            self.until(lambda: first.engine.state is EngineState.UP, "the engine is up", 30)
            count += 1
        assert count > 10, "it was never cut"
        self.harness.settle()
        for feed in feeds:
            assert (feed.texts, feed.gaps) == ([str(number) for number in range(count + 1)], [])

    @needs(Capability.LINK, Capability.NODES)
    def test_cut(self) -> None:
        """A node whose way to the others is cut while all publish has missed nothing in the end, and nothing comes twice."""
        traffic = _Traffic(self)
        traffic.run(50)
        self.harness.cut(traffic.nodes[0].engine)
        self.until(lambda: traffic.nodes[0].engine.state is not EngineState.UP, "the cut is noticed", self.harness.noticeAfter)
        traffic.run(100, traffic.nodes[1:])
        self.harness.advance(3)
        self.harness.heal(traffic.nodes[0].engine)
        traffic.finish()

    @needs(Capability.LINK, Capability.NODES)
    def test_silenceAfterCut(self) -> None:
        """What was published during a cut comes though nothing is published after it; presence is as it was."""
        first, second = self.pair()
        feed = self.watch(first, "a")
        first.enter("a", 1, "ann")
        self.publish(second, "a", "1")
        self.until(lambda: feed.texts == ["1"], "the message")
        self.harness.cut(first.engine)
        self.until(lambda: first.engine.state is not EngineState.UP, "the cut is noticed", self.harness.noticeAfter)
        self.publish(second, "a", "2")
        self.harness.heal(first.engine)
        self.until(lambda: feed.texts == ["1", "2"], "the message that was missed", 30)
        assert feed.gaps == []
        self.until(lambda: self._members(second) == [("ann", 1)], "the user")

    @needs(Capability.LINK, Capability.NODES)
    def test_refusedWhileCut(self) -> None:
        """A publisher at a node that is cut off is told that it is, after a while; what it then publishes again is there once."""
        first, second = self.pair()
        feed = self.watch(second, "a")
        self.harness.cut(first.engine)
        assert self.refused(lambda: first.engine.publish("a", Message.of("1"), None, "k")) == "unavailable"
        self.harness.heal(first.engine)
        publisher = _Publisher(self, first, "a", ["1"], "k")
        self.until(lambda: publisher.isDone, "published", 30)
        self.publish(second, "a", "2")
        self.until(lambda: len(feed.heard) >= 2, "both messages")
        assert feed.texts == ["1", "2"]

    @needs(Capability.SERVER, Capability.NODES)
    def test_stall(self) -> None:
        """A server that stands still for 10 seconds is noticed, and nothing is lost, doubled or out of order by it."""
        traffic = _Traffic(self)
        traffic.run(50)
        self.harness.stall()
        try:
            down, seconds = "the standstill is noticed", self.harness.noticeAfter
            self.untilEach(traffic.nodes, lambda node: node.engine.state is not EngineState.UP, down, seconds)
            traffic.begin(50)
            self.harness.advance(10 - self.harness.noticeAfter)
        finally:
            self.harness.goOn()
        traffic.finish()

    @needs(Capability.DATA, Capability.NODES)
    def test_sameData(self) -> None:
        """When the server was killed and has all its data, no acknowledged message is lost, doubled or out of order."""
        self._serverBreaks(lambda: self.harness.restart(Data.SAME))

    @needs(Capability.DATA, Capability.NODES)
    def test_olderData(self) -> None:
        """When the server was killed and has older data, no acknowledged message is lost, doubled or out of order."""
        self._serverBreaks(lambda: self.harness.restart(Data.OLDER))

    @needs(Capability.DATA, Capability.NODES)
    def test_noData(self) -> None:
        """When the server was killed and has no data, no acknowledged message is lost, doubled or out of order."""
        self._serverBreaks(lambda: self.harness.restart(Data.EMPTY))

    @needs(Capability.FAILOVER, Capability.NODES)
    def test_failOver(self) -> None:
        """When a replica that is behind takes over, no acknowledged message is lost, doubled or out of order."""
        self._serverBreaks(self.harness.failOver)

    @needs(Capability.VERSIONS, Capability.NODES)
    def test_newer(self) -> None:
        """A message in the form of a later version is understood, or the channel says that it has lost something."""
        first, second = self.pair()
        feed = self.watch(first, "a")
        self.publish(second, "a", "1")
        self.until(lambda: feed.texts == ["1"], "the message")
        self.harness.publishNewer("a")
        self.publish(second, "a", "2")
        self.until(lambda: feed.texts[-1] == "2", "the next message")
        assert feed.gaps or len(feed.heard) == 3
        other = self.watch(first, "b")
        self.publish(second, "b", "1")
        self.until(lambda: other.texts == ["1"], "the message of another channel")

    @needs(Capability.NODES)
    def test_pushes(self) -> None:
        """Of very many messages that come at once, only some are passed on in one turn of the reactor."""
        first, second = self.pair()
        feed = self.watch(first, "a")
        turns: set[int] = set()

        def take(publication: Any) -> None:
            turns.add(self.harness.turns)
            self.harness.spend(0.001)

        first.onReceived = take
        answers = [later(second.engine.publish, "a", Message.of("x" * 100), limits=MANY) for _ in range(2000)]
        for answer in answers:
            self.harness.wait(answer, 60)
        self.until(lambda: len(feed.heard) == 2000, "all messages", 60)
        # 20 milliseconds a turn, and half as much again.
        assert len(turns) > 2000 * 0.001 / 0.03

    @needs(Capability.DEAF, Capability.NODES)
    def test_deaf(self) -> None:
        """A node that takes nothing any more is cut off before it costs much, and the others go on."""
        first, second = self.pair()
        self.watch(second, "a")
        feed = self.watch(first, "a")
        held = self.harness.deafen(second.engine)
        most, brief = 0, HistoryLimits(10, 300, 1 << 22)
        for _ in range(200):
            self.harness.wait(first.engine.publish("a", Message(Kind.BINARY, bytes(1 << 20)), limits=brief), 60)
            most = max(most, held())
        assert most <= self.harness.heldMost
        self.until(lambda: len(feed.heard) == 200, "all messages")
        self.until(lambda: held() == 0, "the node is cut off", 30)
        self._nodes.remove(second)

    # Helpers of the tests above.

    def _hasHeard(self, feed: Feed, count: int) -> bool:
        return len(feed.heard) >= count

    def _areNodes(self, node: RecordingNode, infos: list[NodeInfo]) -> bool:
        return sorted(self.harness.wait(node.engine.nodes()), key=attrgetter("id")) == infos

    def _unixTime(self) -> float:
        return time.time()

    def _ids(self, node: RecordingNode) -> list[str]:
        return sorted([each.id for each in self.harness.wait(node.engine.nodes())])

    def _members(self, node: RecordingNode, channel: str = "a") -> list[tuple[str, int]]:
        """Return the users that are there, not those that are about to have left."""
        page = self.harness.wait(node.engine.members(channel, "", 100, 100_000))
        return [(each.user, each.connections) for each in page.members if each.connections]

    def _count(self, node: RecordingNode) -> int:
        return len(self.harness.wait(node.engine.members("a", "", 20_000, 100 << 20)).members)

    def _die(self, node: RecordingNode) -> None:
        self.harness.kill(node.engine)
        self._nodes.remove(node)

    def _serverBreaks(self, fault: Callable[[], None]) -> None:
        """Let all publish while the server breaks, and say whether the promises held; positions from before count after it."""
        traffic = _Traffic(self)
        traffic.run(50)
        before = {channel: self.since(traffic.nodes[0], channel, None)[0] for channel in traffic.channels}
        known = {channel: len(traffic.feed(0, channel).heard) for channel in traffic.channels}
        if Capability.DATA in self.harness.capabilities:
            self.harness.save()
        traffic.run(50)
        traffic.begin(30)
        fault()
        traffic.finish()
        for channel, position in before.items():
            for node in traffic.nodes:
                _, recovered, texts = self.since(node, channel, position)
                if recovered:
                    assert texts == traffic.feed(0, channel).texts[known[channel] :]
        traffic.run(20)
        traffic.finish()


class _Publisher:
    """Publishes texts one after the other, and each again until it is acknowledged, as a good client does."""

    def __init__(
        self, test: EngineContract, node: RecordingNode, channel: str, texts: Iterable[str], idempotencyKey: str | None = None
    ) -> None:
        self._test = test
        self._node = node
        self._channel = channel
        self._texts = list(texts)
        self._key = idempotencyKey
        self.isDone = False
        self._next()

    def _next(self) -> None:
        if not self._texts:
            self.isDone = True
            return
        text = self._texts[0]
        key = self._key or f"{self._channel}.{text}"
        answer = later(self._node.engine.publish, self._channel, Message.of(text), None, key, limits=MANY)
        answer.addCallbacks(self._published, self._refused)

    def _published(self, published: Published) -> None:
        del self._texts[0]
        self._test.harness.reactor.callLater(0, self._next)

    def _refused(self, failure: Failure) -> None:
        failure.trap(ChannelError)
        assert isinstance(failure.value, ChannelError)
        assert failure.value.code == "unavailable", failure.value
        self._test.harness.reactor.callLater(0.05, self._next)


class _Traffic:
    """Two nodes that publish to the same channels and watch them, with what should have come of it."""

    channels = ("a", "b", "c")

    def __init__(self, test: EngineContract) -> None:
        self._test = test
        self.nodes: Sequence[RecordingNode] = test.pair()
        for node in self.nodes:
            for channel in self.channels:
                test.watch(node, channel)
        self._number = 0
        self._publishers: list[_Publisher] = []
        self._published: dict[str, list[str]] = {channel: [] for channel in self.channels}

    def feed(self, node: int, channel: str) -> Feed:
        """Return a subscription."""
        return self.nodes[node].feeds[channel]

    def begin(self, count: int, nodes: Sequence[RecordingNode] = ()) -> None:
        """Begin to publish so many messages to each channel, at each node."""
        for node in nodes or self.nodes:
            for channel in self.channels:
                texts = [f"{node.id}.{self._number + number}" for number in range(count)]
                self._published[channel] += texts
                self._publishers.append(_Publisher(self._test, node, channel, texts))
        self._number += count

    def run(self, count: int, nodes: Sequence[RecordingNode] = ()) -> None:
        """Publish so many messages."""
        self.begin(count, nodes)
        self._wait()

    def finish(self) -> None:
        """Wait until all is published and heard; check that nothing is lost, doubled or in another order."""
        self._wait()
        for channel in self.channels:
            wanted = self._published[channel]
            for number in range(len(self.nodes)):
                feed = self.feed(number, channel)
                self._test.until(partial(self._test._hasHeard, feed, len(wanted)), f"all of {channel}", 30)
                assert feed.gaps == []
                assert len(feed.texts) == len(wanted)
                assert set(feed.texts) == set(wanted)
            assert self.feed(0, channel).texts == self.feed(1, channel).texts
            for node in self.nodes:
                own = [text for text in wanted if text.startswith(node.id)]
                assert [text for text in self.feed(0, channel).texts if text.startswith(node.id)] == own

    def _wait(self) -> None:
        self._test.until(lambda: all(each.isDone for each in self._publishers), "all is acknowledged", 60)
