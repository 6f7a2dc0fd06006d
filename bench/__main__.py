"""Run the workloads against each server, in interleaved rounds, and print medians and ratios.

python -m bench [--quick]
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from statistics import median

from bench.peers import HERE, PEERS, Running, pinned, started

BUILD = HERE / "build"
PROGRAMS = {"wslimit": (), "wsload": ("-lssl", "-lcrypto"), "wspub": ()}


def build() -> None:
    """Compile what is older than its source."""
    BUILD.mkdir(exist_ok=True)
    for name, libraries in PROGRAMS.items():
        source, program = HERE / f"{name}.c", BUILD / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            subprocess.run(["cc", "-O2", "-o", program, source, *libraries], check=True)


def load(*arguments: object) -> dict[str, float]:
    """Run the load on core 1 and return its figures."""
    output = subprocess.run(
        pinned(1, [str(BUILD / "wsload"), *map(str, arguments)]), capture_output=True, text=True, timeout=300, check=False
    ).stdout
    return {name: float(value) for name, value in re.findall(r"(\w+)=([\d.]+)", output)}


def echo(size: int) -> Callable[[Running, float], float]:
    """Return a workload: round trips a second of 64 clients."""
    return lambda server, seconds: load("echo", "127.0.0.1", server.ws, server.peer.path, 64, size, seconds)["rate"]


def fanOut(server: Running, seconds: float) -> float:
    """Deliveries a second to 1,000 clients of messages posted one after another."""
    publish = [str(BUILD / "wspub"), "127.0.0.1", str(server.http), server.peer.broadcast, "125", str(seconds + 2)]
    publisher = subprocess.Popen(
        ["sh", "-c", 'sleep 1; exec "$@"', "sh", *pinned(1, publish)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        return load("fanout", "127.0.0.1", server.ws, server.peer.path, 1000, seconds + 1)["rate"] * (seconds + 1) / seconds
    finally:
        publisher.kill()
        publisher.wait()


def connects(server: Running, seconds: float) -> float:
    """Handshakes a second, 64 at a time."""
    return load("connect", "127.0.0.1", server.ws, server.peer.path, 64, seconds)["open_rate"]


WORKLOADS: dict[str, Callable[[Running, float], float]] = {
    "echo 64 x 125 B, messages/s": echo(125),
    "echo 64 x 16 KiB, messages/s": echo(16384),
    "fan-out 1,000 x 125 B, deliveries/s": fanOut,
    "connects/s": connects,
}


def main(arguments: list[str]) -> int:
    """Run and print."""
    quick = "--quick" in arguments
    rounds, seconds = (1, 2.0) if quick else (3, 5.0)
    build()
    figures: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(rounds):
        for workload, run in WORKLOADS.items():
            for peer in PEERS:
                with started(peer) as server:
                    figures[workload, peer.name].append(run(server, seconds))
    print(f"median of {rounds} round(s) of {seconds:g} s; in brackets the ratio to the yardstick of the same run\n")
    for workload in WORKLOADS:
        print(workload)
        yardstick = median(figures[workload, PEERS[0].name])
        for peer in PEERS:
            value = median(figures[workload, peer.name])
            print(f"  {peer.name:24} {value:12,.0f}   ({value / yardstick:.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
