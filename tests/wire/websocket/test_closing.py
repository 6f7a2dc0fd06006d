from __future__ import annotations

from math import inf

import pytest

from twisted_ws.wire.websocket.closing import CloseDeadline, getsOn


@pytest.mark.parametrize(
    ("before", "present", "least", "expected"),
    [
        ((0, 100), (0, 100), 1, False),  # nothing is left to read
        ((50, 100), (50, 100), 1, False),  # it took nothing
        ((50, 100), (49, 101), 1, True),
        ((50, 100), (49, 101), 10, False),
        ((50, 100), (40, 110), 10, True),
        ((5, 100), (7, 105), 10, True),  # all that there was, though less
        ((5, 100), (0, 105), 1, False),  # it has everything
    ],
)
def test_getsOn(before, present, least, expected):
    """A peer reads if it took some, or all there was, of what the kernel still has for it."""
    assert getsOn(before, present, least) is expected


def test_timeout():
    """The closing handshake has its timeout; a later, shorter one counts, a longer one does not."""
    deadline = CloseDeadline()
    deadline.start(100, 10)
    assert deadline.at == 110
    assert not deadline.shorten(100, 20)
    assert deadline.at == 110
    assert deadline.shorten(101, 3)
    assert deadline.at == 104


def test_handed():
    """Once the kernel has our Close, the peer has the timeout from then on, but no longer than before."""
    deadline = CloseDeadline()
    deadline.start(100, 10)
    assert not deadline.isHanded
    deadline.closeHanded(102, 5, (0, 0))
    assert deadline.isHanded
    assert deadline.at == 107
    deadline.closeHanded(106, 5, (0, 0))
    assert deadline.at == 107


def test_inputEnded():
    """When input no longer counts, the peer has the timeout from then on, or what is left of the one that runs."""
    deadline = CloseDeadline()
    deadline.inputEnded(100, 5)
    assert deadline.at == 105
    deadline.inputEnded(104, 5)
    assert deadline.at == 105


def test_aReader():
    """A peer that still reads gets more time, up to the timeout of the closing handshake; one that does not is dropped."""
    deadline = CloseDeadline()
    deadline.start(100, 30)
    deadline.closeHanded(100, 5, (1000, 0))
    assert not deadline.isOver(105, 10, (900, 100))
    assert deadline.at == 115
    assert not deadline.isOver(115, 20, (800, 200))
    assert deadline.at == 130
    assert deadline.isOver(130, 20, (700, 300))
    deadline = CloseDeadline()
    deadline.inputEnded(100, 5)
    deadline.sending = 1000, 0
    assert deadline.isOver(105, inf, (1000, 0))
