"""How often users and addresses do something at all workers together; and the wrong credentials of addresses.

Nobody waits for an answer: each worker counts by itself, tells the others a moment later what it has counted of those who do
much, and counts what it is told as if it had happened there. So ten a second are ten a second in the long run, whichever workers
somebody is connected to; only in the first tenth of a second may each worker allow a whole burst. Whoever stays below a worker's
part of the rate costs no message.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Protocol

from twisted_ws.engines.hub.link import Link

# Seconds for which events are collected before the others are told.
COLLECTED = 0.1
# Users and addresses in one message, and those that wait for theirs; what is counted beyond that is not told.
TOLD = 500
MOST = 20_000


class Rates(Protocol):
    """What `twisted_ws.access.rates.Rates` is here.

    Attributes:
        census: is told what happens.
    """

    census: Any

    def charge(self, key: Hashable, rate: float, count: int) -> None:
        """Count events that another worker has allowed."""


class Failures(Protocol):
    """What `twisted_ws.access.failures.Failures` is here.

    Attributes:
        census: is told what happens.
    """

    census: Any

    def add(self, address: Hashable, count: int) -> None:
        """Count wrong credentials that another worker has seen."""


class RateShare:
    """A worker's side.

    Args:
        link: leads to the hub, with `RateCounts` there; it is up.
        rates: those of this worker.
        failures: the wrong credentials that this worker has seen.
        workers: how many there are.
        callLater: the reactor's.
    """

    def __init__(
        self, link: Link, rates: Rates, failures: Failures, workers: int, callLater: Callable[[float, Callable[[], None]], Any]
    ) -> None:
        self._link = link
        self._rates = rates
        self._failures = failures
        self._callLater = callLater
        self._taken: dict[tuple[Hashable, float], int] = {}
        self._failed: dict[Hashable, int] = {}
        self._isDue = False
        self.workers = workers
        link.handle("rateElsewhere", self._elsewhere)
        rates.census = failures.census = self
        link.send("rateJoin")

    def took(self, key: Hashable, rate: float) -> None:
        """Take note of an event of somebody who has done much here (see `twisted_ws.access.rates.Rates.take`)."""
        self._note(self._taken, (key, rate))

    def failed(self, address: Hashable) -> None:
        """Take note of wrong credentials from an address (see `twisted_ws.access.failures.Failures.charge`)."""
        self._note(self._failed, address)

    def _note(self, noted: dict[Any, int], key: Any) -> None:
        if key in noted:
            noted[key] += 1
        elif len(noted) < MOST:
            noted[key] = 1
        if not self._isDue:
            self._isDue = True
            self._callLater(COLLECTED, self._tell)

    def _tell(self) -> None:
        taken = [(*entry, self._taken.pop(entry)) for entry in [*self._taken][:TOLD]]
        failed = [(address, self._failed.pop(address)) for address in [*self._failed][:TOLD]]
        if self._link.isUp:
            self._link.send("rateHere", taken, failed)
        self._isDue = bool(self._taken or self._failed)
        if self._isDue:
            self._callLater(COLLECTED, self._tell)

    def _elsewhere(self, taken: list[Any], failed: list[Any]) -> None:
        for key, rate, count in taken:
            self._rates.charge(tuple(key), rate, count)
        for address, count in failed:
            self._failures.add(address, count)


class RateCounts:
    """The hub's side: passes on to all other workers what one has counted."""

    def __init__(self) -> None:
        self._links: dict[Link, None] = {}

    def attach(self, link: Link) -> None:
        """Serve a worker, before its link is connected."""
        link.handle("rateJoin", partial(self._join, link))
        link.handle("rateHere", partial(self._tell, link))

    def adopt(self, link: Link) -> None:
        """Go on with a worker that has joined another process."""
        self._join(link)

    def _join(self, link: Link) -> None:
        self._links[link] = None
        link.onLost(lambda *_: self._links.pop(link, None))

    def _tell(self, link: Link, taken: list[Any], failed: list[Any]) -> None:
        for each in self._links:
            if each is not link and each.isUp:
                each.send("rateElsewhere", taken, failed)
