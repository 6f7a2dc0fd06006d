"""An engine for several nodes, to test the tests of engines: the one in memory in the middle, and ways to it that take time."""

from __future__ import annotations

from collections import deque
from functools import partial

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from twisted_ws.engines.contract import EngineState
from twisted_ws.engines.memory import MemoryEngine
from twisted_ws.errors import ChannelError
from twisted_ws.names import isPattern, patternsOf
from twisted_ws.testing.engines import Capability, ClockHarness
from twisted_ws.wire.loop.wheel import Wheel

DELAY = 0.01  # seconds of each way
TURN = 0.01  # seconds after which the reactor turns


class Way:
    """Calls that arrive after a while, in order, some in each turn of the reactor."""

    def __init__(self, clock):
        self.clock = clock
        self.under = deque()
        self.isDue = False

    def send(self, call, *arguments):
        self.under.append((self.clock.seconds() + DELAY, partial(call, *arguments)))
        self.wait()

    def wait(self):
        if self.under and not self.isDue:
            self.isDue = True
            self.clock.callLater(max(self.under[0][0] - self.clock.seconds(), 0), self.arrive)

    def arrive(self):
        self.isDue = False
        begin = self.clock.seconds()
        while self.under and self.under[0][0] <= self.clock.seconds() < begin + TURN:
            self.under.popleft()[1]()
        self.wait()


class Middle:
    """The engine in memory, and the node that it works for: all nodes together."""

    id = "middle"

    def __init__(self, clock, limits):
        self.clock = clock
        self.send = Way(clock).send
        wheel = Wheel(clock)
        self.engine = MemoryEngine(limits, wheel, wheel.seconds, unixTime=clock.seconds)
        self.shared = {}  # the engines of the nodes
        self.revocations = []
        self.engine.start(self)

    def each(self, call):
        """Call something for each node, on its way there and back; return a Deferred of the answers."""
        answers, done = [], Deferred()
        wanted = len(self.shared)
        if not wanted:
            return []

        def answered(answer):
            answers.append(answer)
            if len(answers) == wanted:
                done.callback(answers)

        for shared in self.shared.values():
            self.send(shared.arrive, partial(call, shared), partial(self.send, answered))
        return done

    def sum(self, call):
        answers = self.each(call)
        return answers.addCallback(sum) if answers else 0

    def received(self, publication):
        return self.sum(lambda shared: shared.received(publication) if shared.isWatching(publication.channel) else 0)

    def broadcasted(self, message):
        return self.sum(lambda shared: shared.node.broadcasted(message))

    def obey(self, command):
        return self.sum(lambda shared: shared.node.obey(command))

    def joined(self, channel, member):
        self.each(lambda shared: shared.node.joined(channel, member))

    def left(self, channel, member):
        self.each(lambda shared: shared.node.left(channel, member))

    def revoked(self, revocation):
        self.revocations.append(revocation)
        self.each(lambda shared: shared.node.revoked(revocation))

    def subscribers(self, channel):
        return sum([shared.node.subscribers(channel) for shared in self.shared.values()])

    def stateChanged(self, state):
        pass


class SharedEngine:
    """The engine of one node."""

    def __init__(self, middle):
        self.middle = middle
        self.state = EngineState.DOWN
        self.isCut = False
        self.watching = set()
        self.last = {}  # the positions up to which the node knows each channel
        self.running = set()
        self.present = {}

    def received(self, publication):
        self.last[publication.channel] = publication.position
        return self.node.received(publication)

    def isWatching(self, channel):
        return channel in self.watching or not self.watching.isdisjoint(patternsOf(channel))

    def start(self, node):
        self.node = node
        self.middle.shared[node.id] = self
        self.become(EngineState.UP)
        for revocation in self.middle.revocations:
            node.revoked(revocation)

    def become(self, state):
        if self.state is not state:
            self.state = state
            self.node.stateChanged(state)

    def stop(self):
        self.become(EngineState.DOWN)
        done = Deferred()

        def look():
            if self.running:
                self.middle.send(look)
            else:
                self.die()
                done.callback(None)

        look()
        return done

    def die(self):
        self.middle.shared.pop(self.node.id, None)
        for channel, connection in self.present:
            self.middle.engine.leave(channel, connection)
        self.present = {}

    def cut(self):
        self.isCut = True
        self.become(EngineState.DOWN)
        for answer in tuple(self.running):
            self.end(answer, Failure(ChannelError("unavailable", "Cut.")))

    def heal(self):
        self.isCut = False
        self.become(EngineState.RESUMING)
        self.middle.send(self.resume)

    def resume(self):
        for channel in [each for each in self.watching if not isPattern(each)]:
            for publication in self.middle.engine.since(channel, self.last[channel]).publications:
                self.received(publication)
        for (channel, connection), said in self.present.items():
            self.middle.engine.enter(channel, connection, *said)
        self.become(EngineState.UP)

    def arrive(self, call, answer):
        """Call something for the node; whoever waits for that gets an answer in any case."""
        maybeDeferred(lambda: 0 if self.isCut else call()).addCallback(answer)

    def ask(self, kind, payload):
        return self.call(lambda: self.middle.each(lambda shared: shared.node.answer(kind, payload)))

    def nodes(self):
        return self.call(lambda: [shared.node.info() for shared in self.middle.shared.values()])

    def watch(self, channel, by=None):
        def watch():
            self.watching.add(channel)
            self.last[channel] = position = self.middle.engine.watch(channel, by)
            return position

        return self.call(watch)

    def unwatch(self, channel):
        def unwatch():
            self.watching.discard(channel)
            if not any(channel in shared.watching for shared in self.middle.shared.values()):
                self.middle.engine.unwatch(channel)

        self.middle.send(unwatch)

    def enter(self, channel, connection, user, info):
        self.present[channel, connection] = user, info
        self.middle.send(self.middle.engine.enter, channel, connection, user, info)

    def leave(self, channel, connection, delay=None):
        self.present.pop((channel, connection), None)
        self.middle.send(self.middle.engine.leave, channel, connection, delay)

    def __getattr__(self, name):
        return lambda *arguments, **options: self.call(partial(getattr(self.middle.engine, name), *arguments, **options))

    def call(self, call):
        """Return a Deferred of what is called in the middle."""
        if self.state is not EngineState.UP:
            raise ChannelError("unavailable", "Stopped, or cut.")
        answer = Deferred(self.running.discard)
        self.running.add(answer)
        self.middle.send(lambda: maybeDeferred(call).addBoth(partial(self.middle.send, self.end, answer)))
        return answer

    def end(self, answer, result):
        if answer in self.running:
            self.running.remove(answer)
            answer.callback(result)


class SharedHarness(ClockHarness):
    capabilities = frozenset({Capability.NODES, Capability.DEATH, Capability.LINK})
    watchRest = 2 * DELAY
    lease = 2 * DELAY
    Engine = SharedEngine
    Middle = Middle

    def setUp(self):
        self.middle = None

    def engine(self, node, limits):
        self.middle = self.middle or self.Middle(self.clock, limits)
        return self.Engine(self.middle)

    def kill(self, engine):
        engine.die()

    def cut(self, engine):
        engine.cut()

    def heal(self, engine):
        engine.heal()
