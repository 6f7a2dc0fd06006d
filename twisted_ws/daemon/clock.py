"""The time in which the reactor counts."""

from __future__ import annotations

import time
from typing import Any

from twisted.logger import Logger
from twisted.python.runtime import seconds

__all__ = ["countMonotonicTime"]

_log = Logger()


def countMonotonicTime(reactor: Any) -> None:
    """Have a reactor count the seconds of the machine's monotonic clock, where it counts those of the clock on the wall.

    Twisted's reactors count the latter. When that is set back, by an hour or by the years that a machine without a battery
    believes in until it has asked the network, nothing that is due later comes before the clock has caught up: no ping, no
    deadline, no sign of life for a watchdog. When it is set ahead, all comes at once.

    To be called before anything is scheduled: a call knows its time as a number. Otherwise all stays as it is, with a line in the
    log.
    """
    if reactor.seconds is not seconds:
        return  # a test's clock, or a reactor that knows better
    if reactor.getDelayedCalls():
        _log.warn("deadlines follow the wall clock, because calls were scheduled before this service was made")
        return
    reactor.seconds = time.monotonic
