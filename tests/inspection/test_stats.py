"""Figures of the last seconds, and what is wrong in sentences."""

from __future__ import annotations

import msgspec
import pytest

from twisted_ws.inspection.stats import EXPIRES, Look, Watch
from twisted_ws.metrics.now import Now
from twisted_ws.telemetry.counts import SECONDS

NOW = Now(
    time=0.0,
    node="a",
    started=0.0,
    callers=10,
    streams=2,
    polls=1,
    limit=1000,
    channels=5,
    subscriptions=20,
    received=0,
    sent=0,
    published=0,
    refused=0,
    deliveries=0,
    deliveredBytes=0,
    delivery=[0] * (len(SECONDS) + 1),
    lag=[0] * (len(SECONDS) + 1),
    sendQueue=100,
    sendQueueLimit=1000,
    receiveQueue=0,
    cpu=0.0,
    rss=50,
    fds=20,
    maxFds=1000,
    readiness="",
)


def look(node="a", dropped=0, slow=0, engine="up", expires=None, **now):
    """Return what a server says."""
    return Look(msgspec.structs.replace(NOW, node=node, **now), None, slow, dropped, engine, expires)


def bucket(number, count=1):
    """Return the counts of a histogram with values in one bucket."""
    found = [0] * (len(SECONDS) + 1)
    found[number] = count
    return found


def test_rates():
    """Rates are differences by the time between; of a server that has begun anew, nothing is negative."""
    watch = Watch()
    watch.figures([look(published=100, deliveries=50, sent=5, cpu=1.0)], [], 0.0, 10.0)
    total = watch.figures([look(published=110, deliveries=90, sent=5, received=4, cpu=1.5)], [], 2.0, 12.0).total
    assert (total.published, total.delivered, total.received, total.cpu) == (5.0, 20.0, 2.0, 0.25)
    total = watch.figures([look(published=3, cpu=1.5)], [], 3.0, 13.0).total
    assert (total.published, total.delivered) == (0.0, 0.0)


def test_together():
    """What can be added is added over all servers, and latencies are those of all messages together."""
    watch = Watch()
    watch.figures([look("a"), look("b")], [], 0.0, 0.0)
    both = [look("a", delivery=bucket(0, 98)), look("b", delivery=bucket(3, 2), callers=5)]
    figures = watch.figures(both, [], 1.0, 1.0)
    assert (figures.total.websocket, figures.total.sse, figures.total.limit) == (15, 4, 2000)
    assert figures.total.delivery == (0.5, 4.0)
    assert [each.delivery for each in figures.nodes] == [(0.5, 0.5), (4.0, 4.0)]
    assert figures.nodes[0].lag is None


def test_window():
    """Latencies are those of the last ten seconds: a slow moment is shown for so long, and then no more."""
    watch, lag = Watch(), bucket(10)
    watch.figures([look()], [], 0.0, 0.0)
    shown = [watch.figures([look(lag=lag)], [], float(n), float(n)).total.lag for n in range(1, 15)]
    assert shown[:9] == [(512.0, 512.0)] * 9
    assert shown[-1] is None


def test_supervisor():
    """What the process publishes that has the broadcast site for its workers is in the total, and it is no server of the list."""
    watch = Watch()
    watch.figures([look("a", channels=-1)], [], 0.0, 0.0, look("s"))
    own = look("s", published=4, channels=3, delivery=bucket(1))
    figures = watch.figures([look("a", published=1, channels=-1)], [], 1.0, 1.0, own)
    assert (figures.total.channels, figures.total.delivery) == (3, (1.0, 1.0))
    assert (figures.total.published, [each.published for each in figures.nodes]) == (5.0, [1.0])
    assert [each.id for each in figures.nodes] == ["a"]


@pytest.mark.parametrize(
    ("code", "more"),
    [
        ("engine", {"engine": "down"}),
        ("lag", {"lag": bucket(11)}),
        ("slow", {"slow": 3}),
        ("dropped", {"dropped": 9}),
        ("queue", {"sendQueue": 900}),
        ("connections", {"callers": 950}),
        ("files", {"fds": 950}),
        ("draining", {"readiness": "draining"}),
        ("certificate", {"expires": EXPIRES - 1.0}),
        ("certificate", {"expires": -1.0}),
    ],
)
def test_problems(code, more):
    """Each thing that is wrong is one sentence; a server that is well has none."""
    watch = Watch()
    assert watch.figures([look()], [], 0.0, 0.0).problems == []
    (problem,) = watch.figures([look(**more)], [], 0.0, 1.0).problems
    assert problem.code == code
    assert problem.text.endswith(".")


def test_missing():
    """Servers that do not answer are named, first of all."""
    figures = Watch().figures([look(slow=1)], ["b", "c"], 0.0, 0.0)
    assert [each.code for each in figures.problems] == ["missing", "slow"]
    assert "2 servers do not answer: b, c." in figures.problems[0].text
