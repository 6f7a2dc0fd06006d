from __future__ import annotations

from twisted_ws.wire.loop.sharing import USUAL, Sharing


class Thing:
    def __init__(self, size):
        self.size = size


def test_countsOnce():
    """What many hold counts once, until the last of them lets go; what is small does not count."""
    sharing = Sharing(USUAL * 3)
    large, other, small = Thing(USUAL * 2), Thing(USUAL + 1), Thing(USUAL)
    for _ in range(3):
        assert sharing.hasRoom(large)
        sharing.hold(large)
    sharing.hold(small)
    assert sharing.total == USUAL * 2
    assert [sharing.hasRoom(each) for each in (large, other, small)] == [True, False, True]
    for left in USUAL * 2, USUAL * 2, 0:
        sharing.release(large)
        assert sharing.total == left
    sharing.release(small)
    sharing.release(large)  # which nobody has
    assert sharing.total == 0
    assert sharing.hasRoom(other)
