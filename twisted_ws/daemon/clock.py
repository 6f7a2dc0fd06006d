"""The clock that the reactor counts by."""

from __future__ import annotations

import time
from typing import Any

from twisted.logger import Logger
from twisted.python.runtime import seconds

_log = Logger()


def countMonotonicTime(reactor: Any) -> None:
    """Make a reactor that counts by the wall clock count by the machine's monotonic clock.

    Twisted's reactors count by the wall clock. When that is set back, by an hour or by the years that a machine without a battery
    is wrong until it has asked the network, nothing happens until the clock has caught up: no ping, no deadline, no sign of life
    for a watchdog. When it is set ahead, everything happens at once.

    To be called before anything is scheduled, because scheduled calls have their time as a number. Otherwise nothing changes, and
    a line goes to the log.
    """
    if reactor.seconds is not seconds:
        return  # a test's clock, or a reactor with a clock of its own
    if reactor.getDelayedCalls():
        _log.warn(
            "deadlines follow the wall clock, because calls were scheduled before this service was made", event="clock.wall"
        )
        return
    reactor.seconds = time.monotonic
