"""A worker whose supervisor is killed while it starts."""

from __future__ import annotations

import socket

from twisted_ws.daemon.workers.lifeline import Lifeline


def test_otherEndCloses() -> None:
    """A process ends when its supervisor's end of the link is closed, though nobody reads from the link."""
    ours, theirs = socket.socketpair()
    with ours:
        ended: list[bool] = []
        lifeline = Lifeline(ours.fileno(), lambda: ended.append(True))
        theirs.send(b"orders that nobody has read")
        theirs.close()
        lifeline.join()
    assert ended == [True]


def test_letGo() -> None:
    """Once the reactor watches the link, its end no longer ends the process at once: callers are asked to leave."""
    ours, theirs = socket.socketpair()
    with ours:
        ended: list[bool] = []
        lifeline = Lifeline(ours.fileno(), lambda: ended.append(True))
        lifeline.letGo()
        theirs.close()
        lifeline.join()
    assert ended == []
