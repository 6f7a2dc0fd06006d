"""What was found out a moment ago."""

from __future__ import annotations

from twisted.internet.task import Clock

from twisted_ws.access.recent import MOST_BYTES, Recent


def test_forAWhile():
    """An answer counts for some seconds, for just what was asked."""
    clock = Clock()
    recent = Recent(10, clock.seconds)
    recent.put("found", b"ann", b"secret")
    assert recent.get(b"ann", b"secret") == "found"
    for other in ((b"ann", b"other"), (b"anns", b"ecret"), (b"annsecret",), (b"ann", b"secret", b"")):
        assert recent.get(*other) is None
    clock.advance(9.9)
    recent.put("again", b"bob")
    assert recent.get(b"ann", b"secret") == "found"
    clock.advance(0.1)
    assert recent.get(b"ann", b"secret") is None
    assert recent.get(b"bob") == "again"
    recent.clear()
    assert recent.get(b"bob") is None


def test_bounded():
    """Only so many answers are kept, the newest; those that have ended are not kept for long."""
    clock = Clock()
    recent = Recent(10, clock.seconds, most=3)
    for n in range(5):
        recent.put(n, b"%d" % n)
    assert [recent.get(b"%d" % n) for n in range(5)] == [None, None, 2, 3, 4]
    clock.advance(10)
    recent.put(5, b"5")
    assert len(recent) == 1


def test_none():
    """With 0 seconds, nothing is kept."""
    recent = Recent(0, Clock().seconds)
    recent.put("found", b"ann")
    assert len(recent) == 0


def test_secrets():
    """What was asked is not kept, for it may be a password."""
    recent = Recent(10, Clock().seconds)
    recent.put("found", b"planted")
    assert "planted" not in repr(recent) + repr(vars(recent))


def test_boundedByBytes():
    """Answers that take much memory are fewer; what has ended, was forgotten or came again counts no longer."""
    clock = Clock()
    recent = Recent(10, clock.seconds)
    for n in range(4):
        recent.put(n, b"%d" % (n % 3), size=MOST_BYTES // 2)
    assert [recent.get(b"%d" % n) for n in range(3)] == [3, None, 2]
    clock.advance(10)
    assert recent.get(b"0") is None
    for n in range(5):
        recent.put(n, b"%d" % n, size=MOST_BYTES // 2)
        recent.clear()
    recent.put(0, b"0", size=MOST_BYTES)
    assert recent.get(b"0") == 0
    recent.put(1, b"1", size=MOST_BYTES + 1)
    assert len(recent) == 0
