"""A hub and its workers in one process, without sockets."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.engines.hub.links import connect, settle
from twisted_ws.engines.contract import NodeInfo
from twisted_ws.engines.hub.hub import Hub
from twisted_ws.engines.hub.link import Link
from twisted_ws.engines.hub.worker import HubEngine
from twisted_ws.engines.memory import MemoryEngine
from twisted_ws.limits import Limits
from twisted_ws.wire.loop.turns import Turns
from twisted_ws.wire.loop.wheel import Wheel


class TestNode:
    """A server that notes what its engine says.

    Attributes:
        publications: those that it has received, as channel, offset and payload.
        notes: everything else.
        count: how many connections it says to have, on each channel and in all.
        react: called with each publication before it is noted.
    """

    __test__ = False

    def __init__(self, name: str) -> None:
        self.id = name
        self.publications = []
        self.notes = []
        self.count = 1
        self.react = lambda publication: None

    def received(self, publication):
        self.publications.append((publication.channel, publication.offset, publication.payload))
        self.react(publication)
        return self.count

    def lost(self, channel, position):
        self.notes.append(("lost", channel, position))

    def broadcasted(self, message):
        self.notes.append(("broadcast", message.kind, message.payload))
        return self.count

    def joined(self, channel, member):
        self.notes.append(("joined", channel, member.user, bytes(member.info)))

    def left(self, channel, member):
        self.notes.append(("left", channel, member.user))

    def obey(self, command):
        self.notes.append(("obey", command))
        return self.count

    def subscribers(self, channel):
        return self.count

    def watched(self):
        return ()

    def presence(self):
        return ()

    def info(self):
        return NodeInfo(self.id, self.count, 0.0, "1")

    def revoked(self, revocation):
        self.notes.append(("revoked", revocation))

    def answer(self, kind, payload):
        return self.id.encode() + payload

    def stateChanged(self, state):
        self.notes.append(("state", state))


class Worker:
    """One worker of a `World`."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.link = Link(world.turns, "the supervisor")
        self.hubLink = Link(world.turns, name)
        world.hub.attach(self.hubLink)
        # What the hub writes, and what the worker does.
        self.fromHub, self.toHub = connect(self.hubLink, self.link)
        world.transports += [self.fromHub, self.toHub]
        self.node = TestNode(name)
        self.engine = HubEngine(self.link, world.limits, world.wheel)
        self.started = self.engine.start(self.node)

    def watch(self, channel):
        """Watch a channel, and return its position."""
        return self.world.result(self.engine.watch(channel))

    def freeze(self):
        """Stop reading, as a stopped process does."""
        self.toHub.pauseProducing()

    def thaw(self):
        """Go on."""
        self.toHub.resumeProducing()


class World:
    """A hub and its workers, in the order in which they come."""

    def __init__(self, workers: int = 2, limits: Limits | None = None) -> None:
        self.clock = Clock()
        self.limits = limits or Limits()
        self.wheel = Wheel(self.clock)
        self.turns = Turns(self.clock)
        self.transports = []
        self.memory = MemoryEngine(self.limits, self.wheel, self.wheel.seconds, "e")
        self.hub = Hub(self.memory, self.limits, self.wheel, self.turns)
        self.node = TestNode("hub000")
        self.hub.start(self.node)
        self.workers = [Worker(self, f"node{number:02}") for number in range(1, workers + 1)]
        self.settle()

    def add(self, name: str) -> Worker:
        """Start one more worker."""
        worker = Worker(self, name)
        self.workers.append(worker)
        self.settle()
        return worker

    def settle(self) -> None:
        """Let everything arrive."""
        settle(*self.transports, clock=self.clock)

    def advance(self, seconds: float) -> None:
        """Let time pass in small steps."""
        for _ in range(round(seconds * 4)):
            self.clock.advance(0.25)
            self.settle()

    def result(self, value):
        """Return a value, or what a Deferred of it gives once everything has arrived; None if that is not enough."""
        if not isinstance(value, Deferred):
            return value
        found = []

        def come(result):
            found.append(result.value if isinstance(result, Failure) else result)
            return found[0]

        value.addBoth(come)
        self.settle()
        return found[0] if found else None
