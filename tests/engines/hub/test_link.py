from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tests.engines.hub.links import Pair
from twisted_ws.engines.hub.link import frameOf
from twisted_ws.errors import ChannelError


def gathered(link, kind):
    """Return a list that gets the fields of each frame of a kind."""
    found = []
    link.handle(kind, lambda *fields: found.append(fields))
    return found


def resultOf(later):
    """Return the result of a Deferred, or its exception; None if it has none yet."""
    found = []

    def come(result):
        found.append(result.value if isinstance(result, Failure) else result)
        return found[0]

    later.addBoth(come)
    return found[0] if found else None


def test_frames():
    """Frames arrive in order with their fields as they were, whatever these are."""
    pair = Pair()
    found = gathered(pair.other, "one")
    pair.connect()
    sent = [(1, "two", b"\x00\xff", None, 1.5, [1], {"a": True}), (), (b"x" * 300_000,), (-1,)]
    for fields in sent:
        pair.one.send("one", *fields)
    pair.settle()
    assert found == sent


@pytest.mark.parametrize("size", range(1, 40))
def test_inPieces(size):
    """Frames are the same in whatever pieces they arrive."""
    pair = Pair()
    found = gathered(pair.other, "one")
    pair.connect()
    stream = b"".join(frameOf("one", number, b"x" * number) for number in range(20))
    for start in range(0, len(stream), size):
        pair.other.dataReceived(stream[start : start + size])
    assert found == [(number, b"x" * number) for number in range(20)]


def test_request():
    """A request is answered with what its handler returns, at once or later."""
    pair, later = Pair(), Deferred()
    pair.other.answer("add", lambda one, other: one + other)
    pair.other.answer("wait", lambda: later)
    pair.connect()
    added, waited = pair.one.request("add", 1, 2), pair.one.request("wait")
    pair.settle()
    assert (resultOf(added), resultOf(waited)) == (3, None)
    later.callback([b"x"])
    pair.settle()
    assert resultOf(waited) == [b"x"]


def test_refusal():
    """A refusal comes with its code, text and channel."""
    pair = Pair()

    def refuse():
        error = ChannelError("key-reused", "No.")
        error.channel = "news"
        raise error

    pair.other.answer("ask", refuse)
    pair.connect()
    asked = pair.one.request("ask")
    pair.settle()
    error = resultOf(asked)
    assert (error.code, error.message, error.channel) == ("key-reused", "No.", "news")


def test_lost():
    """What waits for an answer when the link ends is unavailable, as is what is asked later."""
    pair = Pair()
    pair.other.answer("wait", Deferred)
    pair.connect()
    ended = []
    pair.one.onLost(lambda: ended.append(1))
    asked = pair.one.request("wait")
    pair.settle()
    pair.transports[1].lose()
    pair.settle()
    assert resultOf(asked).code == "unavailable"
    assert resultOf(pair.one.request("wait")).code == "unavailable"
    assert ended == [1]
