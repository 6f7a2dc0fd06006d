"""Processor time and memory of processes, as the kernel counts them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["children", "cpu", "load", "memory", "on", "slab", "socketPages"]


def cpu(pids: Collection[int]) -> float:
    """Return the microseconds that the threads of these processes have run, user and system.

    From schedstat: it is exact to the nanosecond, and what other processes do meanwhile is not in it.
    """
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                total += int((task / "schedstat").read_text().split()[0])
            except OSError:  # a thread that has ended
                continue
    return total / 1000


def children(pid: int) -> list[int]:
    """Return the child processes of a process, in the order of their start."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append((int(fields[19]), int(folder.name)))
    return [number for _, number in sorted(found)]


def memory(pids: Collection[int]) -> int:
    """Return the bytes of these processes; of pages that several share, each has its part."""
    total = 0
    for pid in pids:
        match = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        assert match is not None
        total += int(match[1]) * 1024
    return total


def slab() -> int:
    """Return the bytes of the kernel's own objects on this machine: sockets, files and their tables among them."""
    match = re.search(r"^Slab:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


def socketPages() -> int:
    """Return the bytes of the pages that TCP keeps data in."""
    match = re.search(r"^TCP:.* mem (\d+)", Path("/proc/net/sockstat").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) * os.sysconf("SC_PAGE_SIZE")


def load() -> float:
    """Return how many processes wanted to run, on average over the last minute."""
    return float(Path("/proc/loadavg").read_text().split()[0])


@contextmanager
def on(core: int) -> Iterator[None]:
    """Let what is started meanwhile run on one core only; on all of them if it is -1 or there is no such core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[core]} if 0 <= core < len(before) else before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
