"""One worker, as the hub knows it."""

from __future__ import annotations

from collections import OrderedDict

from twisted_ws.engines.contract import NodeInfo
from twisted_ws.engines.hub.link import Link
from twisted_ws.limits import MIB

# Bytes that a worker may leave unacknowledged before the hub lets go of it. What it has not read yet is among them.
UNACKNOWLEDGED = 64 * MIB
# The same after which nothing more is published to its channels, so publishers become as slow as it is.
BEHIND = 16 * MIB
# Seconds without any acknowledgement after which publishers no longer care for it: it has stopped, and will be let go of.
STOPPED = 2.0
# The same after which it is.
SILENT = 10.0
# Bytes that are charged for a message on top of its frame: about what the hub's notes about it take.
CHARGE = 256


class Spoke:
    """One worker: what it watches, who is there, and what it has yet to acknowledge.

    Args:
        link: leads to it.
        info: as it was when it came.
        lag: seconds of work that may wait there.

    Attributes:
        link, info: as given.
        watched: the channels and patterns.
        entered: the presence that it has told, as channel and connection.
        sent: what it has yet to acknowledge, by number: bytes and when it was sent; the oldest first.
        hasLeft: whether it takes part no longer.
        isBehind: whether publishers should wait for it: it works, but too much is left to do.
    """

    __slots__ = ("_bytes", "_lag", "_since", "entered", "hasLeft", "info", "isBehind", "link", "sent", "watched")

    def __init__(self, link: Link, info: NodeInfo, lag: float) -> None:
        self.link = link
        self.info = info
        self.watched: set[str] = set()
        self.entered: set[tuple[str, str]] = set()
        self.sent: OrderedDict[int, tuple[int, float]] = OrderedDict()  # a plain dict finds its first slowly after removals
        self.hasLeft = False
        self.isBehind = False
        self._lag = lag
        self._bytes = 0
        self._since = 0.0  # when it last acknowledged anything, or had nothing to acknowledge

    def __repr__(self) -> str:
        return f"<Spoke {self.info.id}>"

    @property
    def isUp(self) -> bool:
        """Whether it can be sent anything."""
        return self.link.isUp and not self.hasLeft

    def deliver(self, number: int, frame: bytes, now: float) -> None:
        """Send a frame whose number is to be acknowledged."""
        if not self.sent:
            self._since = now
        size = len(frame) + CHARGE
        self.sent[number] = size, now
        self._bytes += size
        self.link.sendFrame(frame)
        if self._bytes > BEHIND:
            self.judge(now)
            if self._bytes > UNACKNOWLEDGED and len(self.sent) > 1:
                self.link.drop(f"{self._bytes} bytes wait for it to acknowledge them")

    def acknowledged(self, number: int, now: float) -> bool:
        """Note an acknowledgement; return whether it was waited for."""
        self._since = now
        noted = self.sent.pop(number, None)
        if noted is None:
            return False
        self._bytes -= noted[0]
        if self.isBehind:
            self.judge(now)
        return True

    def judge(self, now: float) -> None:
        """Find out whether it is behind, and let go of it if it has stopped."""
        silent = now - self._since if self.sent else 0
        isSlow = self._bytes > BEHIND or (bool(self.sent) and now - next(iter(self.sent.values()))[1] > self._lag)
        self.isBehind = isSlow and silent <= STOPPED
        if silent > SILENT:
            self.link.drop(f"it has acknowledged nothing for {SILENT:.0f} seconds")
