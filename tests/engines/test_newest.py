"""The newest messages up to a place, where the numbering of a channel has changed; the rest is in the contract of engines."""

from __future__ import annotations

import pytest

from twisted_ws.engines.contract import History
from twisted_ws.engines.newest import newest
from twisted_ws.message import Kind, Position, Publication


class Renumbered:
    """An engine that has lost its last messages once: offsets 1 to 6 were sent in epoch "one", of which 5 and 6 are lost."""

    kept = (("one", 2), ("one", 3), ("one", 4), ("two", 5), ("two", 6), ("two", 7))
    lastOfOne = 4

    def since(self, channel, after, limit=None):
        if after is None:
            return History(Position("two", 7), False, [])
        offset, recovered, epoch = after.offset, True, after.epoch
        if epoch not in ("one", "two"):
            offset, recovered, epoch = 1, False, "two"
        elif epoch == "one" and offset > self.lastOfOne:
            offset, recovered, epoch = self.lastOfOne, False, "two"
        elif offset < 1:
            offset, recovered, epoch = 1, False, "two"
        found = [Publication("a", epoch, number, Kind.TEXT, b"", None, 0) for epoch, number in self.kept if number > offset]
        return History(Position(epoch, offset), recovered, found[:limit])


@pytest.mark.parametrize(
    ("limit", "before", "offsets"),
    [
        (2, None, [6, 7]),
        (9, None, [2, 3, 4, 5, 6, 7]),
        (9, Position("two", 5), [2, 3, 4, 5]),
        (2, Position("two", 4), [3, 4]),  # before the first of its epoch
        (2, Position("one", 4), [3, 4]),
        (9, Position("one", 3), [2, 3]),
        (9, Position("one", 6), [2, 3, 4]),  # which was lost: what has its offset now came later
        (1, Position("one", 6), []),
        (9, Position("zero", 4), []),
        (9, Position("two", 9), [2, 3, 4, 5, 6, 7]),
        (9, Position("two", -1), []),
    ],
)
def test_newest(limit, before, offsets):
    """Nothing comes twice and nothing too new, whatever becomes of the numbering."""
    assert [each.offset for each in newest(Renumbered(), "a", limit, before).publications] == offsets
