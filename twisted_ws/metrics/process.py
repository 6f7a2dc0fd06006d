"""What the system says of this process: processor time, memory, descriptors. Each look takes some microseconds."""

from __future__ import annotations

import os
import resource
import time
from typing import NamedTuple

_FDS = "/proc/self/fd"


class Process(NamedTuple):
    """What a process uses.

    Attributes:
        cpu: seconds of processor time since its start, its own and the system's for it.
        rss: bytes of its memory that are resident.
        fds: open descriptors.
        maxFds: how many it may have.
        started: Unix time of its start.
    """

    cpu: float
    rss: int
    fds: int
    maxFds: int
    started: float


def look() -> Process:
    """Return what this process uses now; 0 stands for what the system does not say."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Process(
        used.ru_utime + used.ru_stime,
        _resident() or used.ru_maxrss * 1024,
        _descriptors(),
        resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        _STARTED,
    )


def _resident() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        return 0


def _descriptors() -> int:
    try:
        # Since Linux 6.2 the size is the number of entries. To list a hundred thousand would take tens of milliseconds.
        return os.stat(_FDS).st_size or len(os.listdir(_FDS))
    except OSError:
        return 0


def _begin() -> float:
    """Return the Unix time at which the process began, to a hundredth of a second."""
    try:
        with open("/proc/self/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError, AttributeError):
        return time.time()


_STARTED = _begin()
