"""How many connections one address has at all workers together, where `Limits.maxConnectionsPerIp` is set.

The kernel spreads connections over the workers by a hash, and unevenly. Still, a connection of an ordinary address costs neither
a frame nor a wait: each worker lets a share of the limit in by itself, and all shares together are no more than the limit. The
first connection beyond a share makes the hub ask all workers for their counts, and have them report that address from then on.
A connection is let in until the hub's answer is there: if that is no, it is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.engines.hub.link import Link
from twisted_ws.wire.door.gate import Gate
from twisted_ws.wire.loop.turns import Turns
from twisted_ws.wire.loop.wheel import Wheel

# What `twisted_ws.wire.door.gate.addressKey` returns.
Address = str | int

# Seconds that a connection that was refused has to end, before more are refused.
ENDING = 1.0
# Steps of `Turns` for one address when a worker comes or goes.
STEPS = 8


class AddressShare:
    """A worker's share of what each address may have; a `twisted_ws.wire.door.gate.Census`.

    Args:
        link: leads to the hub, with `AddressCounts` there; it is up.
        gate: counts the connections of this worker.
        limit: `Limits.maxConnectionsPerIp`.
        workers: how many there are.
    """

    def __init__(self, link: Link, gate: Gate, limit: int, workers: int) -> None:
        self._link = link
        self._gate = gate
        self._share = 0  # before it knows which addresses the others report
        self._reported: set[Address] = set()
        self._full: set[Address] = set()
        link.answer("addressCount", self._count)
        link.handle("addressFree", self._free)
        link.handle("addressRoom", self._full.discard)
        gate.census = self
        link.request("addressShare").addCallbacks(lambda _: setattr(self, "_share", limit // workers), _nothing)

    def isFull(self, address: Address) -> bool:
        """Return whether an address is known to have as many connections as it may."""
        return address in self._full

    def came(self, address: Address, here: int, turnAway: Callable[[], object]) -> None:
        """Take note of a connection that was let in.

        Args:
            address: its address.
            here: how many connections of this address there are at this worker.
            turnAway: drops it; called if there is no place for it.
        """
        if here > self._share or address in self._reported:
            self._link.request("addressCame", address).addCallbacks(self._answered, _nothing, (address, turnAway))

    def left(self, address: Address) -> None:
        """Take note of the end of a connection."""
        if address in self._reported:
            self._link.send("addressLeft", address)

    def _answered(self, isWelcome: bool, address: Address, turnAway: Callable[[], object]) -> None:
        if not isWelcome:
            if address in self._reported:
                self._full.add(address)
            turnAway()

    def _count(self, address: Address) -> int:
        self._reported.add(address)
        return self._gate.count(address)

    def _free(self, address: Address) -> None:
        self._reported.discard(address)
        self._full.discard(address)


class AddressCounts:
    """The hub's side: the counts of those addresses that have much.

    Args:
        limit: `Limits.maxConnectionsPerIp`.
        workers: how many there are.
        wheel, turns: the reactor's.
    """

    _log = Logger()

    def __init__(self, limit: int, workers: int, wheel: Wheel, turns: Turns) -> None:
        self._limit = limit
        # With half a share or less in all, an address has become ordinary again.
        self._few = limit // workers // 2
        self._wheel = wheel
        self._turns = turns
        self._links: dict[Link, None] = {}
        self._counted: dict[Address, _Counted] = {}

    def __len__(self) -> int:
        return len(self._counted)

    def attach(self, link: Link) -> None:
        """Serve a worker, before its link is connected."""
        link.answer("addressShare", partial(self._joined, link))
        link.answer("addressCame", partial(self._came, link))
        link.handle("addressLeft", partial(self._left, link))

    def known(self) -> list[Address]:
        """Return the addresses that workers report, for another process."""
        return list(self._counted)

    def adopt(self, link: Link, known: Iterable[Address]) -> None:
        """Serve the worker of another process, which counted these addresses: here, all begin as ordinary ones."""
        self._links[link] = None
        link.onLost(partial(self._lost, link))
        for address in known:
            link.send("addressFree", address)

    def _joined(self, link: Link) -> Deferred[None]:
        self._links[link] = None
        link.onLost(partial(self._lost, link))
        # It is answered after it was asked about each of them.
        return Deferred.fromCoroutine(self._forAll(partial(self._askIfNew, link)))

    async def _forAll(self, call: Callable[[Address, _Counted], object]) -> None:
        """Call this for each address, in as many turns as it takes."""
        async for address, counted in self._turns.through(tuple(self._counted.items()), STEPS):
            if self._counted.get(address) is counted:
                call(address, counted)

    def _came(self, link: Link, address: Address) -> bool | Deferred[bool]:
        counted = self._counted.get(address)
        if counted is None:
            counted = self._counted[address] = _Counted(partial(self.settle, address))
            # The one that asks as well: its count includes this connection.
            asked = [each for each in self._links if each.isUp]
            counted.asked.update(asked)
            for each in asked:
                self._ask(each, address, counted)
        elif link in counted.counts:
            counted.counts[link] += 1
        else:
            self._askIfNew(link, address, counted)
        if counted.asked:
            later: Deferred[bool] = Deferred()
            counted.waiting.append((link, later))
            return later
        return self._decide(link, counted)

    def _decide(self, link: Link, counted: _Counted) -> bool:
        isWelcome = counted.total <= self._limit
        if not isWelcome:
            counted.refused.add(link)
        return isWelcome

    def _askIfNew(self, link: Link, address: Address, counted: _Counted) -> None:
        if link not in counted.asked and link not in counted.counts:
            counted.asked.add(link)
            self._ask(link, address, counted)

    def _ask(self, link: Link, address: Address, counted: _Counted) -> None:
        link.request("addressCount", address).addBoth(self._answered, link, address, counted)

    def _answered(self, count: int | Failure, link: Link, address: Address, counted: _Counted) -> None:
        counted.asked.discard(link)
        if not isinstance(count, Failure):  # else the link has ended
            counted.counts[link] = count
        self.settle(address, counted)

    def settle(self, address: Address, counted: _Counted) -> None:
        """Decide what can be decided."""
        if counted.asked:
            return
        waiting, tooMany = counted.waiting, counted.total - self._limit
        if tooMany > 0 and waiting:
            # All of them are counted. Those that came last are refused; as soon as these have ended, the others are welcome.
            at = max(len(waiting) - tooMany, 0)
            counted.waiting, refused = waiting[:at], waiting[at:]
            for link, later in refused:
                counted.refused.add(link)
                later.callback(False)
            if counted.waiting:
                self._wheel.after(counted, ENDING)
        elif waiting:
            counted.waiting = []
            self._wheel.drop(counted)
            for _, later in waiting:
                later.callback(True)
        self._relax(address, counted)

    def _left(self, link: Link, address: Address) -> None:
        counted = self._counted.get(address)
        if counted is not None and link in counted.counts:
            counted.counts[link] -= 1
            self._fewer(address, counted)

    def _lost(self, link: Link) -> None:
        self._links.pop(link, None)
        forgotten = Deferred.fromCoroutine(self._forAll(partial(self._without, link)))
        forgotten.addErrback(
            lambda failure: self._log.failure("the connections of a worker still count", failure, event="hub.broken")
        )

    def _without(self, link: Link, address: Address, counted: _Counted) -> None:
        counted.counts.pop(link, None)
        counted.refused.discard(link)
        self._fewer(address, counted)

    def _fewer(self, address: Address, counted: _Counted) -> None:
        if counted.waiting and counted.total <= self._limit:
            self.settle(address, counted)
        else:
            self._relax(address, counted)

    def _relax(self, address: Address, counted: _Counted) -> None:
        """Tell those that were refused that there is room again, and all if an address has become ordinary."""
        if counted.asked:
            return
        total = counted.total
        if counted.refused and total < self._limit:
            refused, counted.refused = counted.refused, set()
            for link in refused:
                link.send("addressRoom", address)
        if total <= self._few and self._counted.get(address) is counted:
            del self._counted[address]
            for link in counted.counts:
                link.send("addressFree", address)


class _Counted:
    """One address that has much.

    Args:
        settle: see `AddressCounts.settle`.

    Attributes:
        counts: how many connections each worker has, that has said so.
        asked: the workers that have yet to say so.
        waiting: connections that came and are not decided about.
        refused: the workers that know the address as full.
    """

    __slots__ = ("_settle", "asked", "counts", "refused", "waiting", "wheelSlot")

    def __init__(self, settle: Callable[[_Counted], object]) -> None:
        self._settle = settle
        self.wheelSlot: int | None = None
        self.counts: dict[Link, int] = {}
        self.asked: set[Link] = set()
        self.waiting: list[tuple[Link, Deferred[bool]]] = []
        self.refused: set[Link] = set()

    @property
    def total(self) -> int:
        """How many connections all workers have, those that are being refused included."""
        return sum(self.counts.values())

    def deadlineReached(self, now: float) -> None:
        """Refuse more: some of those that were refused had ended already; called by the wheel."""
        self._settle(self)


def _nothing(failure: Any) -> None:
    """Do nothing: the link has ended, and the worker with it."""
