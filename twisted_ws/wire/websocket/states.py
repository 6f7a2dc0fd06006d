"""The life of a connection."""

from __future__ import annotations

__all__ = ["Phase"]


class Phase:
    """Where a connection is in its life; it only ever goes forward.

    =========  ==================================================  ==========================================
    phase      means                                               ends by
    =========  ==================================================  ==========================================
    OPENING    the front door is about to write the 101            `WebSocketConnection.open`
    OPEN       messages go both ways                               a Close of either side, a failure
    CLOSING    we sent (or queued) Close and wait for the peer's   the peer's Close, the close deadline
    FINISHING  no input counts any more; our last bytes go out     the peer's end of stream, the deadline
    CLOSED     the transport is gone
    =========  ==================================================  ==========================================

    Numbers, no Enum: Python 3.11 makes an object for each look at a member, by which a finaliser may run in the middle of
    ``phase is Phase.OPEN``, after `phase` was read.
    """

    OPENING = 0
    OPEN = 1
    CLOSING = 2
    FINISHING = 3
    CLOSED = 4
