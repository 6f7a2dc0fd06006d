"""Ports for programs that must be told a number before they listen; where 0 will do, it is better."""

from __future__ import annotations

import functools
import itertools
import random
import socket
from collections.abc import Iterator
from pathlib import Path

# Ports of one process that runs tests: more than are in use at once.
_BLOCK = 100
_BLOCKS = 100


def freePort() -> int:
    """Return a port of 127.0.0.1 on which nobody listens, and which neither the kernel nor another process of tests chooses."""
    _, numbers = _claim()
    while True:
        port = next(numbers)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port


@functools.cache
def _claim() -> tuple[socket.socket, Iterator[int]]:
    """Return the ports of this process, and what keeps others from them until it ends."""
    # The kernel gives those above to clients, and to whoever listens on port 0.
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    end = first if first > 20_000 else 32_768
    held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    for begin in random.sample(range(end - _BLOCKS * _BLOCK, end, _BLOCK), _BLOCKS):
        try:
            held.bind(f"\0twisted_ws tests: ports from {begin}")
        except OSError:
            continue
        return held, itertools.cycle(range(begin, begin + _BLOCK))
    raise AssertionError("all ports are claimed")
