"""What an engine's author says of it, so that the tests can make engines, let time pass, and break what they work with."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from typing import Any, ClassVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from twisted_ws.engines.contract import Engine, EngineSettings, Node
from twisted_ws.limits import Limits
from twisted_ws.wire.loop.wheel import Wheel


class Capability(Enum):
    """What an engine can do besides its work for one server; each brings the tests that need it.

    - SYNCHRONOUS: it publishes, watches and reads the history without Deferreds.
    - NODES: several nodes work together: `EngineHarness.engine` is called for each.
    - DEATH: a node may die: `EngineHarness.kill`.
    - LINK: its way to the others may be cut: `EngineHarness.cut` and `heal`.
    - BYTES: the same after a number of bytes: `EngineHarness.cutAfter`.
    - DEAF: a node may take nothing any more: `EngineHarness.deafen`.
    - SERVER: it works with a server that may be absent or stand still: `EngineHarness.lonely`, `stall`, `goOn`.
    - DATA: this server has data, and comes back with them, older ones, or none: `EngineHarness.save`, `restart`.
    - FAILOVER: this server has a replica, which takes over: `EngineHarness.failOver`.
    - VERSIONS: other nodes may be newer: `EngineHarness.publishNewer`.
    """

    SYNCHRONOUS = "synchronous"
    NODES = "nodes"
    DEATH = "death"
    LINK = "link"
    BYTES = "bytes"
    DEAF = "deaf"
    SERVER = "server"
    DATA = "data"
    FAILOVER = "failover"
    VERSIONS = "versions"


class Data(Enum):
    """What a server comes back with after it was killed: everything, what `EngineHarness.save` saved, or nothing."""

    SAME = "same"
    OLDER = "older"
    EMPTY = "empty"


class EngineHarness:
    """Makes engines for one test, and drives their time; subclass `ClockHarness` or `ReactorHarness`.

    The methods that are not implemented here are for the `Capability` that names them.

    Attributes:
        capabilities: see `Capability`.
        countDelay: seconds until `recipients` and subscribers are exact.
        byteTolerance: the part by which the bytes of a history may differ from its limit: 0.2 for 20 %.
        watchRest: seconds for which the engine may go on after `unwatch`.
        lease: seconds after which the others know that a node has died.
        noticeAfter: seconds after which a node knows that its server stands still.
        heldMost: bytes that a node that takes nothing may cost.
        patience: seconds in which everything arrives that is under way; only what nobody can wait for is given them.
        reactor: the reactor, or the clock, of the engines.
        turns: how often it has turned.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset()
    countDelay: ClassVar[float] = 0.0
    byteTolerance: ClassVar[float] = 0.0
    watchRest: ClassVar[float] = 10.0
    lease: ClassVar[float] = 10.0
    noticeAfter: ClassVar[float] = 6.0
    heldMost: ClassVar[int] = 64 << 20
    patience: ClassVar[float] = 0.3
    reactor: Any
    turns = 0

    def setUp(self) -> None:
        """Prepare one test; what it leaves behind must not be seen by the next one."""

    def tearDown(self) -> None:
        """Remove what is left; all engines that can be stopped are."""

    def engine(self, node: Node, limits: Limits) -> Engine:
        """Return a new engine for a node, one that works with those of the other nodes; it is started by the test."""
        raise NotImplementedError

    def settings(self, url: str, limits: Limits, password: bytes | None = None) -> EngineSettings:
        """Return what a factory of engines takes, with a wheel of its own."""
        return EngineSettings(url, password, limits, Wheel(self.reactor), self.reactor)

    def turn(self) -> None:
        """Let the reactor turn once."""
        raise NotImplementedError

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        raise NotImplementedError

    def spend(self, seconds: float) -> None:
        """Let time pass in which the reactor does not turn."""
        raise NotImplementedError

    def settle(self) -> None:
        """Let arrive what is under way, if there is nothing to wait for."""
        self.advance(self.patience)

    def until(self, condition: Callable[[], object], seconds: float = 10) -> bool:
        """Let time pass until a condition holds; return False if it does not in time."""
        raise NotImplementedError

    def wait(self, answer: Any, seconds: float = 30) -> Any:
        """Return the result of an answer, or raise its error."""
        if not isinstance(answer, Deferred):
            return answer
        results: list[Any] = []
        answer.addBoth(results.append)
        assert self.until(lambda: results, seconds), f"no answer in {seconds} seconds"
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]

    def kill(self, engine: Engine) -> None:
        """End the node of an engine without a word to the others, as when its process is killed."""
        raise NotImplementedError

    def cut(self, engine: Engine) -> None:
        """Cut the way of an engine to the others, until `heal`: what it has open breaks, and nothing new begins."""
        raise NotImplementedError

    def heal(self, engine: Engine) -> None:
        """Let it reach the others again."""
        raise NotImplementedError

    def cutAfter(self, engine: Engine, count: int) -> Callable[[], bool]:
        """Break what an engine has open after its next `count` bytes to the others; it may connect again at once.

        Returns:
            Says whether that has happened.
        """
        raise NotImplementedError

    def deafen(self, engine: Engine) -> Callable[[], int]:
        """Let a node take nothing any more, as when its process is stopped.

        Returns:
            Says how many bytes are held for it.
        """
        raise NotImplementedError

    def lonely(self, node: Node, limits: Limits) -> Engine:
        """Return an engine whose server does not exist."""
        raise NotImplementedError

    def stall(self) -> None:
        """Let the server stand still, until `goOn`, as SIGSTOP does."""
        raise NotImplementedError

    def goOn(self) -> None:
        """Let it go on."""
        raise NotImplementedError

    def save(self) -> None:
        """Save the server's data, as they are."""
        raise NotImplementedError

    def restart(self, data: Data) -> None:
        """Kill the server and start it with these data; it need not be reachable yet."""
        raise NotImplementedError

    def failOver(self) -> None:
        """Kill the server, and let a replica that is a little behind take over."""
        raise NotImplementedError

    def publishNewer(self, channel: str) -> None:
        """Publish to a channel as a node of a later version would, in a form that this one does not know."""
        raise NotImplementedError


class _TurningClock(Clock):
    """A clock with the turns of a reactor: what a call makes due at once is called in the next turn."""

    def turn(self) -> None:
        """Call what is due now."""
        for call in tuple(self.calls):
            if call.getTime() > self.rightNow:
                break  # they are sorted
            if call.active():
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)


class ClockHarness(EngineHarness):
    """For engines on a clock, in memory: no time passes but what the test lets pass.

    Attributes:
        clock: the clock; `reactor` is the same.
    """

    def __init__(self) -> None:
        self.clock = self.reactor = _TurningClock()
        self.clock.rightNow = 1000.0

    def turn(self) -> None:
        """Call what is due now."""
        self.turns += 1
        self.clock.turn()

    def advance(self, seconds: float) -> None:
        """Let time pass from one timer to the next, as with a reactor that never stands still."""
        clock, end = self.clock, self.clock.rightNow + seconds
        while (calls := clock.getDelayedCalls()) and (at := calls[0].getTime()) <= end:
            clock.rightNow = max(at, clock.rightNow)
            self.turn()
        clock.rightNow = max(end, clock.rightNow)

    def spend(self, seconds: float) -> None:
        """Set the clock."""
        self.clock.rightNow += seconds

    def until(self, condition: Callable[[], object], seconds: float = 10) -> bool:
        """Let time pass in small steps until a condition holds."""
        end = self.clock.rightNow + seconds
        self.turn()
        while not condition():
            if self.clock.rightNow >= end:
                return False
            self.advance(0.01)
        return True


class ReactorHarness(EngineHarness):
    """For engines with sockets, on the reactor of the process, which the test turns (`IReactorCore.iterate`): it does not run.

    So an engine connects to addresses in a test, not to host names, which a running reactor resolves in threads.

    Time is real: a condition is waited for as long as a machine ten times as slow would need, unless the engine's own time is
    what is tested.

    Attributes:
        slowness: by how much the time is multiplied that a condition is waited for.
    """

    slowness: ClassVar[float] = 6.0

    def __init__(self) -> None:
        from twisted.internet import reactor  # installs the default reactor, so only if it is needed

        self.reactor = reactor

    def turn(self) -> None:
        """Let the reactor turn once."""
        self.turns += 1
        self.reactor.iterate(0.01)

    def advance(self, seconds: float) -> None:
        """Let the reactor turn for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.turn()

    def spend(self, seconds: float) -> None:
        """Block."""
        time.sleep(seconds)

    def until(self, condition: Callable[[], object], seconds: float = 10) -> bool:
        """Let the reactor turn until a condition holds."""
        end = time.monotonic() + seconds * self.slowness
        while not condition():
            if time.monotonic() >= end:
                return False
            self.turn()
        return True
