"""What becomes of rows in the reactor."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from twisted_ws.errors import ChannelError
from twisted_ws.message import Published
from twisted_ws.outbox.publishing import RETRY, Publishing
from twisted_ws.outbox.rows import Outcome, Row
from twisted_ws.wire.loop.turns import Turns


class Server:
    """Publishes what it is asked to, but for the channels in `refused`; to "later" it answers when the test does."""

    def __init__(self, **refused):
        self.refused = refused
        self.got = []
        self.later = Deferred()

    def publish(self, channel, message, key, idempotencyKey):
        if channel in self.refused:
            raise self.refused[channel]
        self.got.append((channel, message.payload, key, idempotencyKey))
        return self.later if channel == "later" else succeed(Published(channel, "a:1", 0))

    def numbers(self):
        """Return the numbers of the rows that were published."""
        return [int(key.removeprefix("outbox:")) for *_, key in self.got]


class Rig:
    """A server, and what publishes rows to it."""

    def __init__(self, **refused):
        self.server = Server(**refused)
        self.clock = Clock()
        self.publishing = Publishing(self.server.publish, Turns(self.clock))

    def publish(self, *rows):
        """Begin, and return a list that gets the outcome."""
        outcomes = []
        Deferred.fromCoroutine(self.publishing.publish(rows)).addCallback(outcomes.append)
        return outcomes


def row(number, channel="orders", data=b"1", size=1):
    return Row(number, channel, None, data, size)


def refusal(code, retryAfter=None):
    error = ChannelError(code, "not now")
    error.retryAfter = retryAfter
    return error


def test_published():
    """Rows are published in order, each with a key of its own, by which a repetition is known."""
    rig = Rig()
    rows = row(3), Row(5, "news", "k", b'"a\\"b"', 6)
    assert rig.publish(*rows) == [Outcome([3, 5], [])]
    assert rig.server.got == [("orders", b"1", None, "outbox:3"), ("news", b'a"b', "k", "outbox:5")]
    assert rig.publishing.published == 2


@pytest.mark.parametrize(
    ("error", "wait"),
    [(refusal("unavailable"), RETRY), (refusal("unavailable", 7), 7), (refusal("too-many-requests", 0.5), 0.5)],
)
def test_waits(error, wait):
    """A row that is refused for a while holds up those behind it, so that they do not overtake it."""
    rig = Rig(full=error)
    assert rig.publish(row(1), row(2, "full"), row(3)) == [Outcome([1], [], wait)]
    assert rig.server.numbers() == [1]


def test_refused():
    """A row that can never be published does not hold up the others."""
    rig = Rig(bad=refusal("bad-channel"))
    rows = row(1, "bad"), row(2, None), row(3, data=None, size=0), row(4, data=None, size=9), row(5, data=b"{"), row(6)
    (outcome,) = rig.publish(*rows)
    assert outcome.published == [6]
    assert [(number, why.partition(":")[0]) for number, why in outcome.refused] == [
        (1, "bad-channel"),
        (2, "bad-channel"),
        (3, "bad-request"),
        (4, "too-large"),
        (5, "bad-request"),
    ]
    assert outcome.wait is None
    assert rig.publishing.refused == 5


def test_deepData():
    """JSON that is nested deeper than can be read is refused like JSON that is none."""
    rig = Rig()
    (outcome,) = rig.publish(row(1, data=b"[" * 100_000 + b"]" * 100_000))
    assert [why.partition(":")[0] for _, why in outcome.refused] == ["bad-request"]


def test_oneAfterAnother():
    """A row is published when the one before it has been, also where the engine answers later."""
    rig = Rig()
    outcomes = rig.publish(row(1, "later"), row(2))
    assert rig.server.numbers() == [1]
    rig.server.later.callback(Published("later", "a:1", 0))
    assert rig.server.numbers() == [1, 2]
    assert outcomes == [Outcome([1, 2], [])]


def test_stop():
    """At a stop, the row that is on its way is finished, and the rest stays."""
    rig = Rig()
    outcomes = rig.publish(row(1, "later"), row(2))
    rig.publishing.isStopping = True
    rig.server.later.callback(Published("later", "a:1", 0))
    assert outcomes == [Outcome([1], [], 0)]


def test_manyRows():
    """Rows take as many turns of the reactor as they need, and no turn has all of them."""
    rig = Rig()
    outcomes = rig.publish(*map(row, range(1000)))
    assert 0 < len(rig.server.got) < 1000
    while not outcomes:
        rig.clock.advance(0)
    assert rig.server.numbers() == [*range(1000)]
