"""The contact with a server: found, greeted, through its gate, probed, and found again."""

from __future__ import annotations

import random
import secrets
from collections.abc import Generator, Iterator
from itertools import islice
from typing import Any, NamedTuple, Protocol

import hiredis
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.logger import Logger

from twisted_ws.engines.contract import EngineState
from twisted_ws.engines.redis.server.keys import Keys
from twisted_ws.engines.redis.server.link import Dialer, Link, Unreachable, connect
from twisted_ws.engines.redis.server.protocol import Lost
from twisted_ws.engines.redis.server.scripts import BEAT, HELLO, OPEN, REPAIR, SETTLE, VERSION
from twisted_ws.engines.redis.server.sentinel import findPrimary
from twisted_ws.engines.redis.server.url import Address
from twisted_ws.errors import ConfigurationError
from twisted_ws.message import Position
from twisted_ws.wire.loop.wheel import Wheel

# Seconds after which an answer shows that the server is slow.
SLOW = 1.0
# Seconds before the end of which what is missing in between is no longer waited for.
FINAL = 0.3
# Seconds between two offers of the same.
ROUND = 0.1
# Offers that are sent together.
TOGETHER = 20
# Seconds between two attempts to connect: less than the gate is closed, so that every node is in time.
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 0.5
# Seconds that HELLO says of a gate that nobody has opened although it is time.
OVERDUE = 0.001


class Times(NamedTuple):
    """How long things take; all nodes of a server agree on them.

    Attributes:
        closed: seconds for all nodes to give back what a server has forgotten, before it numbers anything new.
        probe: seconds between two probes, and for each to come back.
        lease: seconds that a node counts as alive after a probe.
    """

    closed: float = 1.0
    probe: float = 3.0
    lease: float = 10.0


TIMES = Times()


class Offer(NamedTuple):
    """A part of a channel that a server may have forgotten.

    Attributes:
        channel: the channel.
        position: that of its last record, or where the channel was.
        records: in order and without gaps.
    """

    channel: str
    position: Position
    records: list[bytes]


class Owner(Protocol):
    """What a contact asks of its engine."""

    def subscriptions(self, link: Link) -> tuple[list[bytes], list[bytes]]:
        """Return the pub/sub channels and patterns that a new link subscribes to."""

    def pushed(self, reply: list[Any]) -> None:
        """Take what comes by the subscription; what is not a message of a channel may be for `Contact.pushed`."""

    def offers(self) -> Iterator[Offer]:
        """Return what a server may have forgotten."""

    def offered(self) -> tuple[bytes, int, int, int]:
        """Return the limits of a history, its age, and how long a channel and a receipt are remembered, in ms."""

    def about(self) -> bytes:
        """Return what other nodes may know of this one."""

    def remind(self, link: Link) -> None:
        """State what the server may have forgotten, and is not in `offers`, before its gate opens."""

    def settled(self) -> tuple[bytes, bytes]:
        """Return where the messages of channels go, and what an epoch that begins here ends with."""

    def came(self, link: Link, isNew: bool, isLate: bool) -> None:
        """Begin: the gate is open. `isNew`: the server may have forgotten; `isLate`: it has numbered others meanwhile."""

    def went(self, link: Link) -> None:
        """Stop: there is no link, or its gate is closed."""

    def beaten(self, hadLease: bool, dead: list[bytes]) -> None:
        """Learn whether the node's lease had lasted, and whose has ended."""

    def changed(self, state: EngineState) -> None:
        """Learn of another state."""


def checkGate(keys: Keys, version: bytes | None) -> None:
    """Refuse a server whose data this package cannot use.

    Args:
        keys: the names.
        version: of its data; None: there are data, but not ours.

    Raises:
        ConfigurationError: the text is the end of a sentence about the server.
    """
    if version is None:
        prefix = keys.prefix.decode("ascii")
        raise ConfigurationError(f"has keys of another application behind {prefix}: give another prefix= in the URL")
    if version != b"%d" % VERSION:
        found = version.decode(errors="replace")
        raise ConfigurationError(f"has data of version {found}, but this package knows version {VERSION} only")


class Contact:
    """The contact with one server, or with the primary that Sentinels know.

    Args:
        dialer: makes connections.
        address: the server's; None: ask Sentinels.
        keys: the names.
        node: the id of the node.
        wheel: for deadlines.
        owner: the engine.
        times: how long things take.

    Attributes:
        state: the state.
        link: the link while the state is UP, else None.
    """

    _log = Logger()

    def __init__(
        self,
        dialer: Dialer,
        address: Address | None,
        keys: Keys,
        node: str,
        wheel: Wheel,
        owner: Owner,
        times: Times = TIMES,
    ) -> None:
        self.state = EngineState.DOWN
        self.link: Link | None = None
        self._dialer = dialer
        self._reactor = dialer.reactor
        self._address = address
        self._keys = keys
        self._node = node
        self._wheel = wheel
        self._owner = owner
        self._times = times
        self._current: Link | None = None  # greeted or not
        self._gen: bytes | None = None
        self._probes = 0
        self._isAwaited = 0  # how many parts of the last probe have not come back
        self._sent = 0.0  # when it was sent (the wheel's seconds)
        self._isLate = False  # whether the one before had been late
        self._taken = (0, 0)  # how many answers each connection had given when that was looked at
        self._isOwed = False  # whether one was awaited then, while the server is greeted
        self._isGreeting = False
        self._announced: bytes | None = None  # the last generation that another node has announced meanwhile
        self._fence: Deferred[None] | None = None
        self._sleeping: Deferred[None] | None = None
        self._started: Deferred[None] | None = None
        self._isStopped = False
        self._said = ""
        self.wheelSlot: int | None = None

    # Start and stop.

    def start(self) -> Deferred[None]:
        """Begin, and return a Deferred that fires when the state is UP for the first time.

        It fails with `ConfigurationError` if the operator has to mend something, or if no server was found within the `wait` of
        the URL.
        """
        started = self._started = Deferred()
        # From the reactor's next turn: the process may have more to do first, which is not the server's fault.
        self._until = self._reactor.callLater(0, self._beginToWait)
        self._keepUp()
        return started

    def stop(self) -> None:
        """End."""
        self._isStopped = True
        self._wheel.drop(self)
        if self._until.active():
            self._until.cancel()
        if self._current is not None:
            self._current.drop("stopped")
        if self._sleeping is not None:
            self._sleeping.cancel()

    def _beginToWait(self) -> None:
        self._until = self._reactor.callLater(self._dialer.url.wait, self._waitedTooLong)

    def _waitedTooLong(self) -> None:
        self._fail(ConfigurationError(f"{self._name()} {self._said or 'does not answer'} (--engine)."))

    def _fail(self, error: ConfigurationError) -> None:
        started, self._started = self._started, None
        if started is not None:
            self.stop()
            started.errback(error)

    def _name(self) -> str:
        if self._address is None:
            return f"The engine's primary {self._dialer.url.master}"
        return f"The engine's server {self._address}"

    # The way to a link.

    @inlineCallbacks
    def _keepUp(self) -> Generator[Deferred[Any], Any, None]:
        pause = FIRST_PAUSE
        while not self._isStopped:
            try:
                address = self._address
                if address is None:
                    address = yield findPrimary(self._dialer)
                link = yield connect(self._dialer, address, f"twisted-ws-{self._node}")
                if self._isStopped:
                    link.drop("stopped")
                    return
                ended: Deferred[str] = Deferred()
                self._current, link.onLost = link, ended.callback
                self._watchGreeting(link)
                try:
                    try:
                        yield self._subscribe(link)
                    except Lost as lost:
                        if str(lost).startswith("NOPERM"):  # the subscription itself has no replies
                            raise hiredis.ReplyError(str(lost)) from None
                        raise
                    yield self._greet(link)
                    pause = FIRST_PAUSE
                    why = yield ended
                    self._say(f"is lost: {why}", True)
                finally:
                    link.onLost = None
                    link.drop("given up")
                    self._end(link)
            except (ConfigurationError, hiredis.ReplyError) as found:
                error = self._dialer.explain(found, None)
                if not isinstance(error, ConfigurationError):
                    self._say(str(error), self._started is None)
                    yield self._sleep(LONGEST_PAUSE)
                    continue
                text = str(error)
                text = text if text.startswith("The engine") else f"{self._name()} {text}"
                self._fail(ConfigurationError(text if text.endswith(".") else f"{text}."))
                self._say(str(error), True)
            except Unreachable as error:
                self._say(str(error), self._started is None)
            except Lost as error:
                self._say(f"has broken off: {error}", self._started is None)
            except CancelledError:
                continue
            except Exception:
                self._log.failure("the engine failed", event="engine.failed")
            yield self._sleep(random.uniform(pause / 2, pause))
            pause = min(pause * 2, LONGEST_PAUSE)

    def _say(self, what: str, isLogged: bool) -> None:
        """Log what is wrong, once."""
        if isLogged and what != self._said and not self._isStopped:
            self._log.warn("{name} {reason}", name=self._name(), reason=what, event="engine.away")
        self._said = what

    def _sleep(self, seconds: float) -> Deferred[None]:
        call: Any = None

        def cancel(_: Deferred[None]) -> None:
            call.cancel()

        later: Deferred[None] = Deferred(cancel)

        def wake() -> None:
            self._sleeping = None
            later.callback(None)

        call = self._reactor.callLater(seconds, wake)
        self._sleeping = later
        return later.addErrback(lambda failure: failure.trap(CancelledError) and None)

    @inlineCallbacks
    def _greet(self, link: Link) -> Generator[Deferred[Any], Any, None]:
        """Agree on a generation, and give back what was forgotten; then the link is of use.

        Not before the server has taken a probe: one that answers, but refuses to be written to, would be there again and lost
        again, without end, and all clients would be told each time.
        """
        self._isGreeting = True
        try:
            gen = self._gen
            isNew = isLate = False
            while True:
                before = gen
                self._announced = None
                gen, left = yield self._hello(link)
                if left > OVERDUE:
                    self._change(EngineState.RESUMING)
                if gen != before:
                    isNew, isLate = True, isLate or (left == 0 and before is not None)
                link.gen = gen
                if isNew:
                    self._owner.remind(link)
                if left:
                    yield self._giveBack(link, left)
                answer = yield link.call(OPEN, (self._keys.gate, self._keys.open), link.run, gen)
                if answer[0] == b"open" and (not isLate or (yield from self._settle(link))):
                    beaten = yield self._probe(link)
                    if beaten[0] != b"closed" and self._announced in (None, gen):
                        break
                if answer[0] == b"wait":
                    yield self._sleep(answer[1] / 1000)
            # Not before: if this is broken off, the next link is of another generation, too.
            self._gen = gen
        finally:
            self._isGreeting = False
        if link.isLost or self._isStopped:
            raise Lost("it ended meanwhile")
        self.link = link
        self._owner.came(link, isNew, isLate)
        self._wheel.after(self, self._times.probe)
        self._change(EngineState.UP)
        self._beaten(beaten)
        if self._said and self._started is None:
            self._log.info("{name} is there again", name=self._name(), event="engine.answers")
        self._said = ""
        started, self._started = self._started, None
        if started is not None:
            self._until.cancel()
            started.callback(None)

    @inlineCallbacks
    def _subscribe(self, link: Link) -> Generator[Deferred[Any], Any, None]:
        """Subscribe to all that is wanted, and wait until that is done."""
        subscriber = link.subscriber
        subscriber.onPush = self._owner.pushed
        channels, patterns = self._owner.subscriptions(link)
        channels = [self._keys.control, self._keys.node, *channels]
        for some, command in ((channels, "SUBSCRIBE"), (patterns, "PSUBSCRIBE")):
            for first in range(0, len(some), 500):
                subscriber.push(command, *some[first : first + 500])
        fence = self._fence = Deferred(lambda _: None)
        subscriber.push("PING", "fence")
        # Waiting for the other connection too, so that the end of the link ends this.
        yield link.commands.ask("PING")
        watch = self._reactor.callLater(self._times.probe, link.drop, "its subscriber does not answer")
        before = link.onLost

        def lost(why: str) -> None:
            if not fence.called:
                fence.errback(Lost(why))
            if before is not None:
                before(why)

        if link.isLost:
            raise Lost("it ended meanwhile")
        link.onLost = lost
        try:
            yield fence
        finally:
            link.onLost = before
            if watch.active():
                watch.cancel()

    def pushed(self, reply: list[Any]) -> bool:
        """Take what comes by the subscription, unless it is something for the owner."""
        kind = reply[0]
        if kind == b"message":
            if reply[1] == self._keys.node and reply[2].startswith(b"probe "):
                if reply[2] == b"probe %d" % self._probes:
                    self._cameBack(1)
                return True
            if reply[1] == self._keys.control and reply[2].startswith(b"gate "):
                if self.link is None:
                    self._announced = reply[2][5:]
                elif reply[2][5:] != self._gen:
                    self.shut()
                return True
        elif kind == b"pong":
            fence, self._fence = self._fence, None
            if fence is not None and not fence.called:
                fence.callback(None)
            return True
        return False

    @inlineCallbacks
    def _hello(self, link: Link) -> Generator[Deferred[Any], Any, tuple[bytes, float]]:
        gen = secrets.token_hex(5)
        reply = yield link.call(
            HELLO,
            (self._keys.gate, self._keys.open),
            VERSION,
            link.run,
            gen,
            max(int(self._times.closed * 1000), 1),
            self._keys.control,
        )
        if reply[0] in (b"foreign", b"version"):
            checkGate(self._keys, reply[1] if reply[0] == b"version" else None)
        return reply[1], reply[2] / 1000

    @inlineCallbacks
    def _giveBack(self, link: Link, left: float) -> Generator[Deferred[Any], Any, None]:
        """Offer what the server may have forgotten until its gate opens; what others know may have to come in between."""
        seconds = self._reactor.seconds
        opens = seconds() + left
        offers = self._owner.offers()  # the first time, they are made while they are sent
        while True:
            isFinal = opens - seconds() <= min(FINAL, self._times.closed / 2)
            kept: list[Offer] = []
            while some := [*islice(offers, TOGETHER)]:
                asked = [self._offer(link, offer, isFinal) for offer in some]
                for offer, later in zip(some, asked, strict=True):
                    answer = yield later
                    if answer[0] in (b"closed", b"open"):
                        return
                    if answer[0] == b"gap":
                        kept.append(offer)
            offers = iter(kept)
            rest = opens - seconds()
            if not kept or rest <= 0:
                break
            yield self._sleep(min(ROUND, rest, max(rest - FINAL, ROUND)))
        if rest > 0:
            yield self._sleep(rest)

    def _settle(self, link: Link) -> Generator[Deferred[Any], Any, bool]:
        """Have the server see what it did not know when it went on without this node; return False if its gate is closed."""
        keys, (to, tag) = self._keys, self._owner.settled()
        limits, age, ttl, memory = self._owner.offered()
        broken: list[str] = []
        offers = self._owner.offers()
        while some := [*islice(offers, TOGETHER)]:
            asked = [
                link.call(
                    SETTLE,
                    (keys.open, keys.of(b"m:", channel), keys.of(b"s:", channel)),
                    link.gen,
                    channel,
                    position.epoch,
                    position.offset,
                    ttl,
                    limits,
                    age,
                    keys.prefix,
                    memory,
                    to,
                    tag,
                    *records,
                )
                for channel, position, records in some
            ]
            for offer, later in zip(some, asked, strict=True):
                answer = yield later
                if answer[0] == b"closed":
                    return False
                if answer[0] == b"broken":
                    broken.append(offer.channel)
        if broken:
            self._log.warn(
                "{name} has gone on without this node, which had gone on elsewhere (a split brain): what was published here "
                "meanwhile is lost to the subscribers elsewhere, and they are told so. Channels: {count}; the first: {channel}",
                name=self._name(),
                count=len(set(broken)),
                channel=broken[0],
                event="engine.lost",
            )
        return True

    def _offer(self, link: Link, offer: Offer, isFinal: bool) -> Deferred[Any]:
        keys = self._keys
        channel, position, records = offer
        limits, age, ttl, memory = self._owner.offered()
        return link.call(
            REPAIR,
            (keys.gate, keys.of(b"m:", channel), keys.of(b"s:", channel)),
            link.run,
            link.gen,
            channel,
            position.epoch,
            position.offset,
            int(isFinal),
            ttl,
            limits,
            age,
            keys.prefix,
            memory,
            *records,
        )

    # While there is one.

    def shut(self) -> None:
        """Greet again: the gate is closed, or somebody else has agreed on another generation."""
        link = self.link
        if link is None or self._isGreeting:
            return
        self._end(link)
        self._watchGreeting(link)
        self._greet(link).addErrback(self._notGreeted, link)

    def _notGreeted(self, failure: Any, link: Link) -> None:
        error = failure.value
        if not isinstance(error, (Lost, hiredis.ReplyError, ConfigurationError, CancelledError)):
            self._log.failure("the engine failed", failure, event="engine.failed")
        link.drop(str(error))

    def _end(self, link: Link) -> None:
        """Do without a link."""
        self._wheel.drop(self)
        wasUp, self.link = self.link is not None, None
        if self._current is link and link.isLost:
            self._current = None
        if wasUp:
            self._owner.went(link)
        self._change(EngineState.RESUMING if not link.isLost else EngineState.DOWN)

    def _change(self, state: EngineState) -> None:
        if state is not self.state:
            self.state = state
            self._owner.changed(state)

    def _beat(self, link: Link) -> None:
        """Probe, and again after a while."""
        self._probe(link).addCallbacks(self._beaten, lambda failure: link.drop(str(failure.value)))
        self._wheel.after(self, self._times.probe)

    def _probe(self, link: Link) -> Deferred[Any]:
        """Have one connection say what the other has to hear; the Deferred fires with the answer."""
        self._probes += 1
        self._isAwaited = 3
        self._sent = self._wheel.seconds()
        self._taken, self._isOwed = (link.commands.taken, link.subscriber.taken), False
        keys = self._keys
        lease = int(self._times.lease * 1000)
        return link.call(
            BEAT,
            (keys.open, keys.leases, keys.nodes, keys.names),
            link.gen,
            self._node,
            lease,
            self._owner.about(),
            keys.node,
            self._probes,
            keys.prefix,
        )

    @property
    def isSlow(self) -> bool:
        """Whether the server works, but answers only after more than a second."""
        if self.link is None:
            return False
        return self._isLate or (self._isAwaited > 0 and self._wheel.seconds() - self._sent > SLOW)

    def _cameBack(self, part: int) -> None:
        """Note that a part of the last probe has come back, and how long that took."""
        self._isAwaited &= ~part
        if self._isAwaited:
            return
        took = self._wheel.seconds() - self._sent
        if (took > SLOW) is not self._isLate:
            self._isLate = not self._isLate
            if self._isLate:
                self._log.warn(
                    "{name} is slow: it has answered after {duration:.1f} seconds",
                    name=self._name(),
                    duration=took,
                    event="engine.slow",
                )
            else:
                self._log.info("{name} answers in time again", name=self._name(), event="engine.answers")

    def _beaten(self, reply: list[Any]) -> None:
        self._cameBack(2)
        if reply[0] == b"closed":
            self.shut()
            return
        if self.link is not None:
            self._owner.beaten(bool(reply[1]), [each for each in reply[2:] if each != self._node.encode()])

    def _watchGreeting(self, link: Link) -> None:
        """Give up a server that stands still while it is greeted: nothing is probed yet."""
        self._isOwed = False
        self._taken = link.commands.taken, link.subscriber.taken
        self._wheel.after(self, self._times.probe)

    def _lookAtGreeting(self) -> None:
        link = self._current
        if link is None or link.isLost:
            return
        taken = link.commands.taken, link.subscriber.taken
        if self._isOwed and taken == self._taken:
            link.drop(f"it does not answer within {self._times.probe:g} seconds")
            return
        self._isOwed, self._taken = link.commands.waiting > 0, taken
        self._wheel.after(self, self._times.probe)

    def deadlineReached(self, now: float) -> None:
        """Look whether the last probe has come back, and send the next; called by the wheel."""
        link = self.link
        if link is None:
            self._lookAtGreeting()
            return
        taken = link.commands.taken, link.subscriber.taken
        if self._isAwaited and self._taken[self._isAwaited & 1] != taken[self._isAwaited & 1]:
            # It answers; what is late waits for its turn here, behind others.
            self._taken = taken
            self._wheel.after(self, self._times.probe)
        elif self._isAwaited:
            what = "does not answer" if self._isAwaited & 2 else "does not pass messages on"
            link.drop(f"it {what} within {self._times.probe:g} seconds")
        else:
            self._beat(link)
