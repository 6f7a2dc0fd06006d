from __future__ import annotations

import pytest

from twisted_ws.delivery.mailbox import CHARGE, Mailbox, Policy
from twisted_ws.delivery.publication import Kind, Publication

SIZE = CHARGE + 10


def message(offset, channel="a", key=None):
    return Publication(channel, "e", offset, Kind.TEXT, b"x" * 10, key, 0)


def drain(mailbox, now=0):
    """Return the offsets of the messages and the frames that wait, in order."""
    found = []
    while mailbox.peek(now) is not None:
        item = mailbox.pop()
        found.append(item if isinstance(item, bytes) else item.offset)
    assert (len(mailbox), mailbox.size) == (0, 0)
    return found


@pytest.mark.parametrize("policy", list(Policy))
def test_order(policy):
    """What fits comes out in the order it went in, frames among messages."""
    mailbox = Mailbox(policy, 1000, 30)
    assert [mailbox.add(item, 0) for item in (message(1, "a"), b"frame", message(1, "b"), b"frame")] == [True] * 4
    assert (len(mailbox), mailbox.size) == (4, 2 * SIZE + 2 * (CHARGE + 5))
    assert mailbox.peek(0) == 10
    assert drain(mailbox) == [1, b"frame", 1, b"frame"]


def test_close():
    """With the policy close, a byte too much, or a message too old, is the end."""
    mailbox = Mailbox(Policy.CLOSE, 2 * SIZE, 30)
    assert mailbox.add(message(1), 0)
    assert mailbox.add(message(2), 30)
    assert not mailbox.add(message(3), 30)
    mailbox = Mailbox(Policy.CLOSE, 1000, 30)
    assert mailbox.add(message(1), 0)
    assert not mailbox.add(message(2), 30.25)
    assert mailbox.peek(100) == 10


def test_dropOldest():
    """With drop-oldest, the oldest messages go, never a frame, and those too old go however little waits."""
    mailbox = Mailbox(Policy.DROP_OLDEST, 2 * SIZE + CHARGE + 1, 30)
    for item in (b"f", message(1), message(2), message(3)):
        assert mailbox.add(item, 0)
    assert mailbox.size == 2 * SIZE + CHARGE + 1
    assert drain(mailbox) == [b"f", 2, 3]
    for now, item in (0, b"f"), (0, message(1)), (20, message(2)):
        assert mailbox.add(item, now)
    assert mailbox.add(message(3), 30.25)
    assert drain(mailbox, 50.25) == [b"f", 3]
    for offset in (1, 2):
        assert mailbox.add(message(offset), 0)
    assert mailbox.add(b"f", 0)
    assert drain(mailbox, 100) == [2, b"f"]


@pytest.mark.parametrize("policy", [Policy.DROP_OLDEST, Policy.LATEST])
def test_newest(policy):
    """The newest message stays, though it is larger than the cap; not frames that are too many without it."""
    mailbox = Mailbox(policy, CHARGE + 1, 30)
    assert mailbox.add(b"f", 0)
    assert mailbox.add(message(1), 0)
    assert mailbox.add(message(2), 100)
    assert not mailbox.add(b"f", 100)
    mailbox = Mailbox(policy, CHARGE + 1, 30)
    assert mailbox.add(message(1), 0)
    assert mailbox.add(message(2), 0)
    assert drain(mailbox, 100) == [2]


@pytest.mark.parametrize("policy", [Policy.DROP_OLDEST, Policy.LATEST])
def test_framesAlone(policy):
    """When frames alone are too many, it is the end."""
    mailbox = Mailbox(policy, 2 * CHARGE, 30)
    assert mailbox.add(b"", 0)
    assert mailbox.add(b"", 0)
    assert not mailbox.add(b"", 0)


def test_latest():
    """With latest, of one channel and key only the newest waits, in the place of the newest."""
    mailbox = Mailbox(Policy.LATEST, 1000, 30)
    for item in (message(1), message(2, key="k"), message(3), message(1, "b"), message(4, key="l"), message(5, key="k")):
        assert mailbox.add(item, 0)
    assert mailbox.size == 4 * SIZE
    assert drain(mailbox) == [3, 1, 4, 5]


def test_latestOverflows():
    """Of too many keys, those whose newest is the oldest go."""
    mailbox = Mailbox(Policy.LATEST, 2 * SIZE, 30)
    for offset in range(1, 5):
        assert mailbox.add(message(offset, key=str(offset)), 0)
    assert drain(mailbox) == [3, 4]


@pytest.mark.parametrize("policy", list(Policy))
def test_past(policy):
    """What a resume has to send does not count for the cap, but for the time."""
    mailbox = Mailbox(policy, SIZE, 30)
    mailbox.addPast([b"f", *[message(offset, key=str(offset)) for offset in range(1, 10)]], 0)
    assert mailbox.size == 0
    assert mailbox.add(message(10), 30)
    assert mailbox.size == SIZE
    if policy is Policy.CLOSE:
        assert not mailbox.add(b"", 30.25)
    elif policy is Policy.DROP_OLDEST:
        assert drain(mailbox, 30.25) == [b"f", 10]
    else:
        assert drain(mailbox, 100) == [b"f", *range(1, 11)]
