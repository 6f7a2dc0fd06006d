"""What a server has done so far, in plain numbers: what an event costs here is an addition.

Nothing here knows what is made of the numbers: `twisted_ws.metrics` reads them, each time that somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from operator import add
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

T = TypeVar("T")

# Upper ends of buckets, in seconds: half a millisecond, and twice as much thirteen times.
SECONDS = tuple([0.0005 * 2**each for each in range(14)])
# The first of them, which few publications and requests exceed: where these are counted, the others are `Buckets.rank`ed.
LEAST = SECONDS[0]
# The same for the recipients of one message.
RECIPIENTS = (0, 1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)

# Who publishes: code in the server's own process, a client of a service of channels, a publisher over HTTP, or a transaction.
SERVICE, CLIENT, API, OUTBOX = "service", "client", "api", "outbox"

# Operations over HTTP that wait for what has yet to happen: how long they take says nothing.
UNTIMED = frozenset({"events", "poll"})

# The rows of one table. Labels come from sets that are closed or nearly so; this holds where one is not.
MOST_ROWS = 200
# What stands for the labels of all rows beyond that.
OTHER = "other"


class Buckets:
    """A histogram: how many values were up to each of some bounds, and their sum.

    The first bucket has those that are in no other, so that most values cost two additions.

    Args:
        bounds: the upper ends, in order; a last bucket takes what is above.

    Attributes:
        bounds: as given.
        total: how many values there were.
        sum: of all values.
    """

    __slots__ = ("_above", "bounds", "sum", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self._above = [0] * len(bounds)
        self.total = 0
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.total += 1
        self.sum += value
        if value > self.bounds[0]:
            self.rank(value)

    def rank(self, value: float) -> None:
        """Count a value above the first bound in its bucket, and nowhere else."""
        self._above[bisect_left(self.bounds, value) - 1] += 1

    @property
    def counts(self) -> list[int]:
        """The number of values in each bucket, not added up."""
        return [self.total - sum(self._above), *self._above]

    def include(self, other: Buckets) -> None:
        """Count all values of a histogram with the same bounds."""
        self.total += other.total
        self.sum += other.sum
        self._above = [*map(add, self._above, other._above)]


class Table:
    """Counts by labels: at most `MOST_ROWS` rows, and one more for all others.

    Args:
        labels: how many labels a row has.

    Attributes:
        labels: as given.
        rows: the counts.
    """

    __slots__ = ("labels", "rows")

    def __init__(self, labels: int) -> None:
        self.labels = labels
        self.rows: dict[tuple[str, ...], int] = {}

    def add(self, *labels: str) -> None:
        """Count one more."""
        try:
            self.rows[labels] += 1
        except KeyError:
            self.increase(1, *labels)

    def increase(self, by: int, *labels: str) -> None:
        """Count `by` more."""
        rows = self.rows
        if labels not in rows:
            if len(rows) >= MOST_ROWS:
                labels = (OTHER,) * self.labels
                if labels not in rows:
                    rows[labels] = 0
            else:
                rows[labels] = 0
        rows[labels] += by


class BucketTable:
    """Histograms by labels, as many as in a `Table`.

    Args:
        labels: how many labels a row has.
        bounds: see `Buckets`.

    Attributes:
        labels: as given.
        rows: the histograms.
    """

    __slots__ = ("_bounds", "labels", "rows")

    def __init__(self, labels: int, bounds: Sequence[float] = SECONDS) -> None:
        self.labels = labels
        self._bounds = bounds
        self.rows: dict[tuple[str, ...], Buckets] = {}

    def of(self, *labels: str) -> Buckets:
        """Return the histogram of a row."""
        found = self.rows.get(labels)
        if found is None:
            if len(self.rows) >= MOST_ROWS:
                labels = (OTHER,) * self.labels
                found = self.rows.get(labels)
            if found is None:
                found = self.rows[labels] = Buckets(self._bounds)
        return found

    def timed(self, waiting: Deferred[T], seconds: Callable[[], float], *labels: str) -> Deferred[T]:
        """Count how long something takes that is answered later, and return it."""
        begun = seconds()

        def ended(result: T) -> T:
            self.of(*labels).add(seconds() - begun)
            return result

        return waiting.addBoth(ended)


def merged(several: Iterable[Buckets]) -> Buckets:
    """Return histograms with the same bounds as one."""
    found: Buckets | None = None
    for each in several:
        if found is None:
            found = Buckets(each.bounds)
        found.include(each)
    return found or Buckets()


class Counts:
    """What has happened at one server, whatever its transports.

    Attributes:
        received: messages from callers, without those that the lane has counted (`PollSet.messages`).
        receivedBytes: bytes of their frames, without those of the lane (`PollSet.frameBytes`).
        sent: messages to one caller alone: replies, and what a service writes.
        deliveries: messages that went to many, each counted for every recipient that took it.
        deliveredBytes: bytes of their payloads, counted likewise.
        publications: the seconds from a publication to the moment when everybody here that keeps up has it, by source and
            namespace: how many there were as well, for the price of one.
        publishErrors: publications that were refused, by code.
        heard: how many took a publication, of those that somebody took.
        streams, polls: event streams that are open, and polls that wait.
        opened: connections, by transport and service.
        closed: the same, by transport, close code and who has ended it.
        turnedAway: connections and handshakes that were refused, by reason.
        handshake: seconds from the head of a handshake to its 101.
        authentications: how it was found out who makes a request, by authenticator and result.
        authentication: the seconds of those that had to ask somebody, by authenticator.
        expired: connections that were ended because their credentials had, by transport.
        renewed: credentials that were replaced over an open connection.
        dropped: messages that a slow subscriber did not get, by policy and namespace.
        slow: connections that were ended because they were too slow, by transport.
        wait: seconds that the oldest message of a slow subscriber has waited, as samples.
        resumes: subscriptions that came back, by result and transport.
        resumed: messages that these were sent from the history.
        handling: the seconds of handlers that have to wait for something, by service and event.
        handlerErrors: handlers that have raised, by service and event.
        running: handlers that wait for something now.
        answers: the seconds of requests over HTTP, by site, operation and class of status; how many there were as well.
        calls: those of publishers, by the name of the key and operation.
        refills: how often a channel's messages had to be asked for again, because some had not come or the engine was away.
    """

    __slots__ = (
        "answers",
        "authentication",
        "authentications",
        "calls",
        "closed",
        "deliveredBytes",
        "deliveries",
        "dropped",
        "expired",
        "handlerErrors",
        "handling",
        "handshake",
        "heard",
        "opened",
        "polls",
        "publications",
        "publishErrors",
        "received",
        "receivedBytes",
        "refills",
        "renewed",
        "resumed",
        "resumes",
        "running",
        "sent",
        "slow",
        "streams",
        "turnedAway",
        "wait",
    )

    def __init__(self) -> None:
        self.received = self.receivedBytes = self.sent = 0
        self.deliveries = self.deliveredBytes = 0
        self.publications = BucketTable(2)
        self.publishErrors = Table(1)
        self.heard = Buckets(RECIPIENTS)
        self.streams = self.polls = 0
        self.opened = Table(2)
        self.closed = Table(3)
        self.turnedAway = Table(1)
        self.handshake = Buckets()
        self.authentications = Table(2)
        self.authentication = BucketTable(1)
        self.expired = Table(1)
        self.renewed = 0
        self.dropped = Table(2)
        self.slow = Table(1)
        self.wait = Buckets()
        self.resumes = Table(2)
        self.resumed = self.refills = self.running = 0
        self.handling = BucketTable(2)
        self.handlerErrors = Table(2)
        self.answers = BucketTable(3)
        self.calls = Table(2)

    @property
    def published(self) -> dict[tuple[str, ...], int]:
        """How many publications there were, by source and namespace."""
        return {labels: each.total for labels, each in self.publications.rows.items()}

    @property
    def recipients(self) -> Buckets:
        """How many took a publication, of all of them."""
        found = merged([self.heard])
        found.total = sum(each.total for each in self.publications.rows.values())
        return found

    @property
    def delivery(self) -> Buckets:
        """The seconds of all publications."""
        return merged(self.publications.rows.values())

    @property
    def requests(self) -> dict[tuple[str, ...], int]:
        """How many requests over HTTP were answered, by site, operation and class of status."""
        return {labels: each.total for labels, each in self.answers.rows.items()}

    @property
    def request(self) -> dict[tuple[str, ...], Buckets]:
        """Their seconds, by operation."""
        found: dict[tuple[str, ...], Buckets] = {}
        for (_, operation, _), each in self.answers.rows.items():
            if operation not in UNTIMED:
                before = found.get((operation,))
                found[operation,] = each if before is None else merged((before, each))
        return found
