"""What a scrape says of workers over a reload: counters never fall, and what is open is counted once."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from tests.metrics.scraped import values
from twisted_ws import WebSocketServer
from twisted_ws.metrics.collector import Collector
from twisted_ws.metrics.declared import Source
from twisted_ws.metrics.exposition import write
from twisted_ws.metrics.past import MOST
from twisted_ws.metrics.process import look
from twisted_ws.metrics.reports import Other, Report, readReport, report
from twisted_ws.metrics.scrape import Scrape


class Slot:
    """One place for workers, and what a scrape says of it.

    Attributes:
        workers: those that are asked, the newest last.
        theirs: what services count, by worker.
        stuck: the workers that do not answer.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        server = WebSocketServer(reactor=self.clock)
        self.workers: dict[str, Any] = {}
        self.scrape = Scrape(Collector(server), self._ask)
        self._turns = server.runtime.turns
        self.theirs: dict[str, list[Other]] = {}
        self.stuck: set[str] = set()

    def _ask(self) -> dict[tuple[str, Any], Deferred[bytes]]:
        return {("1", name): Deferred() if name in self.stuck else succeed(self._said(name)) for name in self.workers}

    def _said(self, name: str) -> bytes:
        said = readReport(report(Source(self.workers[name], look())))
        return msgspec.msgpack.encode(Report(said.ours, self.theirs.get(name, [])))

    def begin(self, name: str) -> Any:
        """Let a worker begin; return its server."""
        self.workers[name] = server = WebSocketServer(reactor=self.clock)
        return server

    def end(self, name: str) -> None:
        """Let a worker end, which tells its figures before."""
        self.scrape.past.saw("1", name, self._said(name))
        del self.workers[name]
        self.scrape.past.ended("1", name)

    def die(self, name: str) -> None:
        """Let a worker end without a word."""
        del self.workers[name]
        self.scrape.past.ended("1", name)

    def look(self) -> str:
        """Return what a scrape says."""
        done = Deferred.fromCoroutine(write(self.scrape.families(), "", self._turns))
        while not done.called:
            self.clock.advance(0.1)
        return done.result[1].decode()

    def value(self, name: str, **labels: str) -> float:
        """Return the value of one sample of the worker's place."""
        wanted = frozenset({"worker": "1", **labels}.items())
        (found,) = [value for key, value in values(self.look(), name).items() if wanted <= frozenset(dict(key).items())]
        return found


def test_countersGoOn() -> None:
    """Counters and histograms go on from worker to worker, while one leaves, after its end, and without any worker."""
    slot = Slot()
    old = slot.begin("old")
    old.counts.sent = 5
    old.counts.opened.add("websocket", "", "")
    old.counts.handling.of("Room", "onOpen").add(0.5)

    def seen() -> tuple[float, float, float]:
        opened = slot.value("twisted_ws_connections_opened_total", transport="websocket")
        return slot.value("twisted_ws_messages_sent_total"), opened, slot.value("twisted_ws_handler_seconds_count")

    assert seen() == (5, 1, 1)
    new = slot.begin("new")
    assert seen() == (5, 1, 1)
    new.counts.sent = 2
    new.counts.handling.of("Room", "onOpen").add(0.5)
    assert seen() == (7, 1, 2)
    old.counts.sent = 6
    slot.end("old")
    assert seen() == (8, 1, 2)
    slot.look()
    slot.die("new")
    assert seen() == (8, 1, 2)
    slot.begin("next").counts.sent = 1
    assert seen() == (9, 1, 2)


def test_anotherSupervisor() -> None:
    """They go on in a supervisor that takes over: those of workers that have ended, live or are lost, and its own."""
    slots = [Slot(), Slot(), Slot()]
    old = slots[0]
    worker = old.begin("worker")
    old.begin("ended").counts.sent = 5
    old.end("ended")
    for supervisor in slots:
        supervisor.scrape.collector.server.counts.sent += 100
    for before, after in pairwise(slots):
        worker.counts.sent += 10
        before.begin("lost").counts.sent = 1
        seen = before.value("twisted_ws_messages_sent_total")
        for place, which, said in before.scrape.moving():
            after.scrape.past.arrive(place, which if which == "worker" else None, said)
        after.workers["worker"] = worker
        assert after.value("twisted_ws_messages_sent_total") == seen
    assert seen == 5 + 2 * 10 + 2
    assert slots[-1].value("twisted_ws_messages_sent_total", worker="supervisor") == 300
    worker.counts.sent += 1
    assert slots[-1].value("twisted_ws_messages_sent_total") == seen + 1
    slots[-1].end("worker")
    assert slots[-1].value("twisted_ws_messages_sent_total") == seen + 1


def test_whatIsOpenIsCountedOnce() -> None:
    """Of what two workers of one place have open, a scrape says the sum; of what each is for itself, what the newer one says."""
    slot = Slot()
    for name, count in ("old", 3), ("new", 2):
        slot.begin(name).counts.streams = count
    assert slot.value("twisted_ws_connections", transport="sse") == 5
    assert slot.value("twisted_ws_draining") == 0
    slot.end("old")
    assert slot.value("twisted_ws_connections", transport="sse") == 2


def test_whatServicesCount() -> None:
    """What services count goes on, too, unless it has more labels than anybody can look at."""
    slot = Slot()

    def count(name: str, number: float, created: float, users: int = 1) -> None:
        made = [("seen_total", {"user": f"u{user}"}, number) for user in range(users)]
        gauge = Other("level", "gauge", "h", [("level", {}, number)])
        slot.begin(name)
        slot.theirs[name] = [Other("seen", "counter", "h", [*made, ("seen_created", {"user": "u0"}, created)]), gauge]

    count("old", 5, 100)
    assert slot.value("seen_total", user="u0") == 5
    count("new", 2, 200)
    assert slot.value("seen_total", user="u0") == 7
    assert slot.value("level") == 2
    slot.end("old")
    assert (slot.value("seen_total", user="u0"), slot.value("seen_created", user="u0")) == (7, 100)
    count("many", 1, 300, MOST + 1)
    slot.end("many")
    assert slot.value("seen_total", user="u0") == 7


def test_stuck() -> None:
    """Of a worker that does not answer, a scrape repeats what it had counted before, and says nothing of how it is."""
    slot = Slot()
    slot.begin("old").counts.sent = 5
    slot.end("old")
    slot.begin("new").counts.sent = 2
    assert slot.value("twisted_ws_messages_sent_total") == 7
    slot.stuck.add("new")
    assert slot.value("twisted_ws_messages_sent_total") == 7
    slot.begin("next").counts.sent = 1
    del slot.workers["new"]  # its link has ended, and it will
    assert slot.value("twisted_ws_messages_sent_total") == 8
    slot.scrape.past.ended("1", "new")
    assert slot.value("twisted_ws_messages_sent_total") == 8
    del slot.workers["next"]
    assert {dict(key)["worker"] for key in values(slot.look(), "twisted_ws_connections")} == {"supervisor"}
