from __future__ import annotations

from functools import partial

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from tests.testing import shared
from tests.testing.shared import Middle, SharedEngine, SharedHarness
from twisted_ws.engines.contract import History
from twisted_ws.engines.memory import MemoryEngine
from twisted_ws.message import Kind, Message, Position, Publication, parsePosition
from twisted_ws.testing.engines import Capability, ClockHarness, EngineContract, RecordingNode

TESTS = {name: test for name, test in vars(EngineContract).items() if name.startswith("test_")}


class TestShared(EngineContract):
    Harness = SharedHarness


# Engines that break one promise each.


class LosesTheLast(SharedEngine):
    """Every tenth publication gets lost on its way to a node; the others show that it is missing, but the last has no other."""

    def received(self, publication):
        return super().received(publication) if publication.offset % 10 else 0


class Repeats(SharedEngine):
    def received(self, publication):
        super().received(publication)
        return super().received(publication)


class PassesOnAll(SharedEngine):
    def isWatching(self, channel):
        return True


class AnswersEarly(SharedEngine):
    def received(self, publication):
        super().received(publication)
        return 1


class Skips(SharedEngine):
    """Every second offset is given to a message that nobody gets."""

    def publish(self, channel, *details, **more):
        def publish():
            published = self.middle.engine.publish(channel, *details, **more)
            self.middle.engine.publish(channel, Message.of("skipped"))
            return published

        return self.call(publish)

    def received(self, publication):
        return 0 if publication.payload == b"skipped" else super().received(publication)


class ForgetsKeys(SharedEngine):
    def publish(self, channel, message, key=None, idempotencyKey=None, fingerprint=b"", limits=None):
        return self.call(lambda: self.middle.engine.publish(channel, message, key, limits=limits))


class KnowsOwnKeys(SharedEngine):
    def publish(self, channel, message, key=None, idempotencyKey=None, fingerprint=b"", limits=None):
        own = idempotencyKey and self.node.id + idempotencyKey
        return self.call(lambda: self.middle.engine.publish(channel, message, key, own, fingerprint, limits))


class ComparesNothing(SharedEngine):
    def publish(self, channel, message, key=None, idempotencyKey=None, fingerprint=b"", limits=None):
        return self.call(lambda: self.middle.engine.publish(channel, message, key, idempotencyKey, b"", limits))


class KnowsNoLimits(SharedEngine):
    def publish(self, channel, message, key=None, idempotencyKey=None, fingerprint=b"", limits=None):
        return self.call(lambda: self.middle.engine.publish(channel, message, key, idempotencyKey, fingerprint))


class AsText(Middle):
    """Payloads make a detour through text."""

    def received(self, publication):
        each = publication
        payload = each.payload.decode(errors="replace").encode()
        return super().received(Publication(each.channel, each.epoch, each.offset, each.kind, payload, each.key, each.at))


class KindLost(Middle):
    def received(self, publication):
        each = publication
        return super().received(Publication(each.channel, each.epoch, each.offset, Kind.BINARY, each.payload, each.key, each.at))


class AlwaysRecovers(SharedEngine):
    def since(self, channel, after, limit=None):
        return self.call(lambda: self.middle.engine.since(channel, after, limit)._replace(recovered=after is not None))


class KnowsNoPages(SharedEngine):
    def since(self, channel, after, limit=None):
        return self.call(lambda: self.middle.engine.since(channel, after))


class BeginsAnew(SharedEngine):
    """Nothing is found by an offset of which it does not keep the message."""

    def since(self, channel, after, limit=None):
        def since():
            found = self.middle.engine.since(channel, after, limit)
            return found if found.recovered or after is None else found._replace(publications=[])

        return self.call(since)


class CountsOwn(SharedEngine):
    def publish(self, channel, *details, **more):
        answer = self.call(lambda: self.middle.engine.publish(channel, *details, **more))
        return answer.addCallback(lambda published: published._replace(recipients=self.node.subscribers(channel)))


class GoesOn(SharedEngine):
    def unwatch(self, channel):
        pass


class BroadcastsHere(SharedEngine):
    def broadcast(self, message):
        return self.call(lambda: self.node.broadcasted(message))


class CommandsHere(SharedEngine):
    def command(self, command):
        return self.call(lambda: self.node.obey(command))


class AsksHere(SharedEngine):
    def ask(self, kind, payload):
        return self.call(lambda: [self.node.answer(kind, payload)])


class KnowsItself(SharedEngine):
    def nodes(self):
        return self.call(lambda: [self.node.info()])


class ClaimsHere(SharedEngine):
    def claim(self, key, until):
        return self.call(lambda: self.middle.engine.claim(self.node.id + key, until))


class RevokesNow(Middle):
    def revoked(self, revocation):
        self.each(lambda each: each.node.revoked(revocation))


class TellsTwice(Middle):
    def joined(self, channel, member):
        super().joined(channel, member)
        super().joined(channel, member)


class TellsAtOnce(SharedEngine):
    def leave(self, channel, connection, delay=None):
        member = self.middle.engine.members(channel, "", 1, 1).members[0]
        super().leave(channel, connection, delay)
        self.middle.send(self.middle.left, channel, member)


class DiesSilently(SharedEngine):
    def die(self):
        self.present = {}
        super().die()


class StopsAtOnce(SharedEngine):
    def stop(self):
        self.cut()
        self.die()


class SaysNothing(SharedEngine):
    def become(self, state):
        self.state = state


class ForgetsWhatIsUnderWay(SharedEngine):
    """While a channel begins to be watched, nothing of it is passed on, whoever has a pattern."""

    def __init__(self, middle):
        super().__init__(middle)
        self.asking = []

    def watch(self, channel, by=None):
        self.asking.append(channel)
        return super().watch(channel, by).addBoth(lambda answer: (self.asking.remove(channel), answer)[1])

    def received(self, publication):
        return 0 if publication.channel in self.asking else super().received(publication)


class ListsAll(SharedEngine):
    def list(self, prefix, after, limit):
        return self.call(lambda: self.middle.engine.list("", after, limit))


class ForgetsNumbers(SharedEngine):
    """After `forget`, the numbering begins with 1 again, as publishers are told."""

    def __init__(self, middle):
        super().__init__(middle)
        middle.before = 0

    def forget(self, channel):
        self.middle.before = self.middle.engine.describe(channel).position.offset
        return self.call(lambda: self.middle.engine.forget(channel))

    def publish(self, channel, *details, **more):
        return self.call(lambda: lowered(self.middle.engine.publish(channel, *details, **more), self.middle.before))


class NumbersAnew(SharedEngine):
    """A channel that was forgotten begins with 1 again, as publishers are told."""

    def __init__(self, middle):
        super().__init__(middle)
        middle.before = 0

    def publish(self, channel, *details, **more):
        def publish():
            isNew = self.middle.engine.describe(channel) is None
            published = self.middle.engine.publish(channel, *details, **more)
            if isNew:
                self.middle.before = parsePosition(published.id).offset - 1
            return lowered(published, self.middle.before)

        return self.call(publish)


def lowered(published, by):
    """Return what a publisher is told, with a lower offset."""
    position = parsePosition(published.id)
    return published._replace(id=str(position._replace(offset=position.offset - by)))


class CancelsAll(SharedEngine):
    """Whoever cancels one answer gets an error for the others, too."""

    def call(self, call):
        answer = super().call(call)
        answer.addErrback(lambda failure: (self.cut(), self.heal(), failure)[2])
        return answer


class DoesNotCatchUp(SharedEngine):
    def resume(self):
        self.become(self.state.UP)


class HangsWhileCut(SharedEngine):
    def call(self, call):
        return Deferred() if self.isCut else super().call(call)


class MakesDeferreds(MemoryEngine):
    def since(self, channel, after, limit=None):
        Deferred()
        return super().since(channel, after, limit)


class LosesInner(SharedEngine):
    """What is published while a message is taken goes to nobody."""

    isTaking = False

    def received(self, publication):
        self.isTaking = True
        try:
            return super().received(publication)
        finally:
            self.isTaking = False

    def publish(self, channel, *details, **more):
        return Deferred() if self.isTaking else self.call(partial(self.middle.engine.publish, channel, *details, **more))


class Swaps(SharedEngine):
    """At one node, messages come in pairs that are exchanged."""

    held = None

    def received(self, publication):
        if self is next(iter(self.middle.shared.values())):
            return super().received(publication)
        before, self.held = self.held, publication
        if before is None:
            return 0
        self.held = None
        super().received(before._replace(payload=publication.payload))
        return super().received(publication._replace(payload=before.payload))


class WatchesLate(SharedEngine):
    """The history is told before anything is passed on."""

    def since(self, channel, after, limit=None):
        return self.middle.engine.since(channel, after, limit)

    def watch(self, channel, by=None):
        def watch():
            self.middle.clock.callLater(0.1, self.watching.add, channel)
            return self.middle.engine.watch(channel, by)

        return self.call(watch)


class UnwatchesLate(SharedEngine):
    """The end of a subscription ends the one that comes after it."""

    def unwatch(self, channel):
        self.middle.send(super().unwatch, channel)


class ForgetsOne(SharedEngine):
    def forget(self, channel):
        return self.call(lambda: max(self.middle.engine.forget(channel), 1))


class HasNoPlaceBefore(SharedEngine):
    """A channel that does not exist has another position each time."""

    def since(self, channel, after, limit=None):
        def since():
            found = self.middle.engine.since(channel, after, limit)
            isThere = self.middle.engine.describe(channel) is not None
            return found if isThere else found._replace(position=Position("none", 0))

        return self.call(since)


class KeepsKeys(SharedEngine):
    def publish(self, channel, message, key=None, idempotencyKey=None, fingerprint=b"", limits=None):
        known = vars(self.middle).setdefault("known", {})
        place = channel, idempotencyKey

        def publish():
            if idempotencyKey is None or place not in known:
                known[place] = self.middle.engine.publish(channel, message, key, None, b"", limits)
            return known[place]

        return self.call(publish)


class DescribesLate(SharedEngine):
    """A description is that of the question before."""

    before = None

    def describe(self, channel):
        def describe():
            before, self.before = self.before, self.middle.engine.describe(channel)
            return before or self.before

        return self.call(describe)


class ListsTheGone(SharedEngine):
    def start(self, node):
        super().start(node)
        vars(self.middle).setdefault("ever", []).append(node)

    def nodes(self):
        return self.call(lambda: [node.info() for node in self.middle.ever])


class AnswersOnce(SharedEngine):
    """Who is there is for ever what it was at the first question."""

    first = None

    def members(self, *question):
        def members():
            self.first = self.first or self.middle.engine.members(*question)
            return self.first

        return self.call(members)


class OneDelay(SharedEngine):
    def leave(self, channel, connection, delay=None):
        super().leave(channel, connection)


class Overlaps(SharedEngine):
    """A page of members begins with the last one of the page before."""

    def members(self, channel, after, limit, size):
        return self.call(lambda: self.middle.engine.members(channel, after[:-1], limit, size))


BROKEN = [
    ("test_publishInside", LosesInner),
    ("test_sameOrder", Swaps),
    ("test_interleavings", WatchesLate),
    ("test_watchAgainAtOnce", UnwatchesLate),
    ("test_unknownChannel", ForgetsOne),
    ("test_beforeTheFirst", HasNoPlaceBefore),
    ("test_keysEnd", KeepsKeys),
    ("test_describe", DescribesLate),
    ("test_nodeStops", ListsTheGone),
    ("test_membersAndMoves", AnswersOnce),
    ("test_delaysOfLeaves", OneDelay),
    ("test_manyMembers", Overlaps),
    ("test_everyWatcher", LosesTheLast),
    ("test_patterns", Repeats),
    ("test_patternsMeanwhile", ForgetsWhatIsUnderWay),
    ("test_watched", PassesOnAll),
    ("test_servedFirst", AnswersEarly),
    ("test_offsets", Skips),
    ("test_idempotency", ForgetsKeys),
    ("test_idempotency", KnowsOwnKeys),
    ("test_idempotencyInFlight", KnowsOwnKeys),
    ("test_keyOfAnother", ComparesNothing),
    ("test_keptByNumber", KnowsNoLimits),
    ("test_keptByBytes", KnowsNoLimits),
    ("test_keptByAge", KnowsNoLimits),
    ("test_limitsOfLast", KnowsNoLimits),
    ("test_payloads", AsText),
    ("test_payloads", KindLost),
    ("test_since", AlwaysRecovers),
    ("test_forget", AlwaysRecovers),
    ("test_pages", KnowsNoPages),
    ("test_newest", BeginsAnew),
    ("test_counts", CountsOwn),
    ("test_unwatch", GoesOn),
    ("test_broadcast", BroadcastsHere),
    ("test_commands", CommandsHere),
    ("test_ask", AsksHere),
    ("test_nodes", KnowsItself),
    ("test_claim", ClaimsHere),
    ("test_revoke", RevokesNow),
    ("test_presence", TellsTwice),
    ("test_leaves", TellsAtOnce),
    ("test_nodeDies", DiesSilently),
    ("test_stop", StopsAtOnce),
    ("test_start", SaysNothing),
    ("test_list", ListsAll),
    ("test_forget", ForgetsNumbers),
    ("test_idsNeverAgain", NumbersAnew),
    ("test_cancelled", CancelsAll),
    ("test_cut", DoesNotCatchUp),
    ("test_silenceAfterCut", DoesNotCatchUp),
    ("test_refusedWhileCut", HangsWhileCut),
]


def broken(test, harness):
    """Run one test with a harness; it must fail."""

    class Contract(EngineContract):
        Harness = harness

    contract, failures = Contract(), []
    contract.setup_method()
    for step in (getattr(contract, test), contract.teardown_method):
        try:
            step()
        except Exception as failure:
            failures.append(failure)
    assert failures


@pytest.mark.parametrize(("test", "fault"), BROKEN, ids=[f"{test}-{fault.__name__}" for test, fault in BROKEN])
def test_broken(test, fault):
    """An engine that breaks a promise fails the test of it."""
    made = {"Engine": fault} if issubclass(fault, SharedEngine) else {"Middle": fault}
    broken(test, type("Harness", (SharedHarness,), made))


def test_allBroken():
    """Each test that an engine without a server can break is shown to fail."""
    shown = {test for test, _ in BROKEN} | {"test_pushes", "test_noDeferreds"}
    apart = Capability.BYTES, Capability.DEAF, Capability.SERVER, Capability.DATA, Capability.FAILOVER, Capability.VERSIONS
    assert shown == {name for name, test in TESTS.items() if getattr(test, "needs", frozenset()).isdisjoint(apart)}


def test_allInOneTurn(monkeypatch):
    """An engine that passes on everything in one turn of the reactor is found."""
    monkeypatch.setattr(shared, "TURN", 1e9)
    broken("test_pushes", SharedHarness)


def test_deferreds():
    """An engine in memory that makes Deferreds is found."""

    class Harness(ClockHarness):
        capabilities = frozenset({Capability.SYNCHRONOUS})

        def engine(self, node, limits):
            settings = self.settings("memory:", limits)
            return MakesDeferreds(limits, settings.wheel, settings.wheel.seconds)

    broken("test_noDeferreds", Harness)


def test_lateOfAFormerEpoch():
    """What comes late of an epoch that a subscription has left is in its history already, and asks for nothing."""

    class Engine:
        asked = 0

        def watch(self, channel):
            return Position("e", 1)

        def since(self, channel, after, limit):
            self.asked += 1
            publications = [message("e", 2), message("f", 3)] if after.epoch == "e" else []
            return History(after, True, publications)

    def message(epoch, offset):
        return Publication("a", epoch, offset, Kind.TEXT, b"", None, 0.0)

    node = RecordingNode()
    node.engine = Engine()
    feed = node.watch("a")
    for each in (message("f", 3), message("e", 2), message("f", 4)):
        node.received(each)
    assert [str(each.position) for each in feed.heard] == ["e:2", "f:3", "f:4"]
    assert (feed.isLive, feed.gaps, node.engine.asked) == (True, [], 2)


def test_logged():
    """A traceback in the log fails the test, whichever it is."""

    class Logs(SharedEngine):
        def enter(self, channel, connection, user, info):
            super().enter(channel, connection, user, info)
            self.middle.send(partial(Logger().failure, "a mistake", Failure(ValueError("a mistake"))))

    broken("test_manyMembers", type("Harness", (SharedHarness,), {"Engine": Logs}))


def test_collected():
    """Only the tests that an engine's capabilities allow are there for pytest, and each says what it promises."""
    for capabilities in (frozenset(), frozenset({Capability.NODES}), frozenset(Capability)):
        harness = type("Harness", (ClockHarness,), {"capabilities": capabilities})
        contract = type("Contract", (EngineContract,), {"Harness": harness})
        for name, test in TESTS.items():
            assert (getattr(contract, name) is not None) == (getattr(test, "needs", frozenset()) <= capabilities)
    assert all(test.__doc__ for test in TESTS.values())
    assert {each for test in TESTS.values() for each in getattr(test, "needs", ())} == {*Capability}
