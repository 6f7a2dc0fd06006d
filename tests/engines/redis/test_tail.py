from __future__ import annotations

from tests.engines.redis.records import place, record
from twisted_ws.engines.redis.record import parseHead
from twisted_ws.engines.redis.tail import AGE, CHARGE, MOST, RECORDS, Tail


def offers(tail, tops=None, now=0.0):
    return [
        (channel, position, [parseHead(each).position.offset for each in records])
        for channel, position, records in tail.offers((tops or {}).items(), now)
    ]


def test_inOrder():
    """What is offered of a channel is in the order of its offsets, each once, whatever order it came in."""
    tail = Tail()
    for offset in (3, 1, 2, 3):
        tail.add("a", record("e", offset), 0)
    assert offers(tail) == [("a", place("e", 3), [1, 2, 3])]


def test_gaps():
    """An offer has no gaps."""
    tail = Tail()
    for offset in (1, 2, 5):
        tail.add("a", record("e", offset), 0)
    assert offers(tail) == [("a", place("e", 2), [1, 2]), ("a", place("e", 5), [5])]


def test_epochs():
    """Offsets go on in the next epoch, so one offer may hold messages of two."""
    tail = Tail()
    for epoch, offset in (("e1", 1), ("e1", 2), ("e2", 3), ("e2", 4)):
        tail.add("a", record(epoch, offset), 0)
    assert offers(tail) == [("a", place("e2", 4), [1, 2, 3, 4])]


def test_lostEnd():
    """What a server has lost of an epoch, and nobody could give back in time, is not joined to what it numbered instead."""
    tail = Tail()
    for epoch, offset in (("e1", 1), ("e1", 2), ("e1", 3), ("e2", 2), ("e2", 3)):
        tail.add("a", record(epoch, offset), 0)
    assert offers(tail) == [("a", place("e1", 3), [1, 2, 3]), ("a", place("e2", 3), [2, 3])]


def test_positions():
    """Where a channel was is offered, even when its messages are too old to be remembered."""
    tail = Tail()
    tail.add("a", record("e", 7), 0)
    tops = {"a": place("e", 7), "b": place("f", 9)}
    assert offers(tail, tops) == [("a", place("e", 7), [7]), ("b", place("f", 9), [])]
    assert offers(tail, tops, AGE + 1) == [("a", place("e", 7), []), ("b", place("f", 9), [])]


def test_age():
    """Messages are remembered for some seconds."""
    tail = Tail()
    tail.add("a", record("e", 1), 0)
    tail.add("a", record("e", 2), AGE)
    assert len(tail) == 2
    tail.add("a", record("e", 3), AGE + 1)
    assert offers(tail, None, AGE + 1) == [("a", place("e", 3), [2, 3])]


def test_bytes():
    """All channels together are remembered in bounded memory; the oldest messages go first."""
    tail = Tail()
    for offset in range(1, 40):
        tail.add("a", record("e", offset, b"x" * (1 << 20)), 0)
    assert tail.bytes <= MOST
    assert offers(tail)[-1][1] == place("e", 39)
    assert len(tail) == MOST // ((1 << 20) + CHARGE)


def test_small():
    """One offer is never large: the server does nothing else while it takes it."""
    tail = Tail()
    for offset in range(1, 2 * RECORDS + 2):
        tail.add("a", record("e", offset), 0)
    assert [len(each[2]) for each in offers(tail)] == [RECORDS, RECORDS, 1]


def test_garbage():
    """What no server has written is not offered."""
    tail = Tail()
    tail.add("a", b"\xff\xff", 0)
    assert offers(tail) == []
