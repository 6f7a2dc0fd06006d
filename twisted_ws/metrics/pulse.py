"""What has to be looked at from time to time, because no event shows it."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from twisted.application.service import Service

from twisted_ws.metrics.garbage import watchGarbage

if TYPE_CHECKING:
    from twisted_ws.server.server import WebSocketServer

# Seconds between two looks.
PERIOD = 1.0
# Clients that are looked at each time, of those that are behind.
LOOKED_AT = 64


class Pulse(Service):
    """Samples how long clients that are behind have waited, keeps the wheel turning, which counts the lag, and watches garbage.

    Args:
        server: the server.
    """

    def __init__(self, server: WebSocketServer) -> None:
        self._server = server
        self.wheelSlot: int | None = None

    def startService(self) -> None:
        """Begin."""
        super().startService()  # type: ignore[no-untyped-call]
        watchGarbage()
        self._server.runtime.wheel.after(self, PERIOD)

    def stopService(self) -> None:
        """End."""
        super().stopService()  # type: ignore[no-untyped-call]
        watchGarbage(False)
        self._server.runtime.wheel.drop(self)

    def deadlineReached(self, now: float) -> None:
        """Look; called by the wheel."""
        self._server.runtime.wheel.after(self, PERIOD)
        channels = self._server.channels
        behind, present = channels.behind, channels.seconds()
        for each in [*islice(behind, LOOKED_AT)]:
            since = each.since
            if since is not None:
                channels.counts.wait.add(max(present - since, 0))
            if each in behind and len(behind) > LOOKED_AT:
                behind[each] = behind.pop(each)  # the others are looked at the next time
