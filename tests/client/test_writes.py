from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, succeed

from tests.client.support import failed, result
from twisted_ws.client.writes import WriteQueue
from twisted_ws.errors import ConnectionClosed


class Connection:
    """Takes messages, and says when the kernel has them."""

    def __init__(self, atOnce: bool = False) -> None:
        self.atOnce = atOnce
        self.taken: list[bytes] = []
        self.waiting: list[Deferred[None]] = []
        self.buffered = 0

    def writeMessage(self, opcode: int, payload: bytes) -> Deferred[None]:
        self.taken.append(payload)
        if self.atOnce:
            return succeed(None)
        self.buffered += len(payload)
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def bufferedAmount(self) -> int:
        return self.buffered

    def hand(self) -> None:
        """Have the kernel take the first message."""
        self.buffered = 0
        self.waiting.pop(0).callback(None)


def test_atOnce():
    """A connection that passes everything on at once gets it all in order, including what is written meanwhile."""
    queue, connection = WriteQueue(1000, oneByOne=True), Connection(atOnce=True)
    written = [queue.write(1, b"%d" % n) for n in range(3)]
    written[0].addCallback(lambda _: queue.write(1, b"more"))
    queue.attach(connection)
    assert connection.taken == [b"0", b"1", b"2", b"more"]
    assert [result(each) for each in written[1:]] == [None, None]
    assert (queue.size, queue.payload) == (0, 0)


def test_window():
    """A connection is given some 64 KiB ahead of the kernel; where a message may have to go out again, no more than that one."""
    for oneByOne, ahead in ((False, 3), (True, 1)):
        queue, connection = WriteQueue(10**6, oneByOne), Connection()
        queue.attach(connection)
        for _ in range(10):
            queue.write(2, b"x" * 30_000)
        assert len(connection.taken) == ahead
        connection.hand()
        assert len(connection.taken) > ahead
        queue.flush()
        assert len(connection.taken) == 10


@pytest.mark.parametrize("oneByOne", [False, True])
def test_nextConnection(oneByOne):
    """What the kernel did not have goes over the next connection, in order."""
    queue, first, second = WriteQueue(10**6, oneByOne), Connection(), Connection(atOnce=True)
    queue.attach(first)
    for n in range(4):
        queue.write(1, b"%d" % n)
    first.hand()
    for each in first.waiting:
        each.errback(ConnectionClosed())
    queue.detach()
    queue.write(1, b"4")
    queue.attach(second)
    assert second.taken == [b"1", b"2", b"3", b"4"]


def test_end():
    """At the end, waiting and later writes fail; cancelled ones are left alone."""
    queue = WriteQueue(1000, oneByOne=False)
    waiting, cancelled = queue.write(1, b"x"), queue.write(1, b"y")
    queue.attach(Connection())
    cancelled.cancel()
    failed(cancelled)
    error = ConnectionClosed(1011, "no")
    queue.end(error)
    assert failed(waiting) is error
    assert failed(queue.write(1, b"z")) is error
    assert queue.size == 0
