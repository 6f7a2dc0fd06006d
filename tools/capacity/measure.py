"""What one thing of each kind costs on this machine: the runs that the constants are fitted from, and those that test them."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.machine import machine
from tools.capacity.processes import cpu, load, memory, slab, socketPages
from tools.capacity.stage import BROADCAST, Group, Node, connects, echo, node, run, settle, silent, valkey

__all__ = ["FILE", "HELD_OUT", "LATENCY", "measure", "save"]

FILE = Path(__file__).with_name("measurements.json")

# One sample: figures by name. Of a run: "cpu PART" (microseconds), "seconds", "posts N", "p50 N" and "p99 N" of group N.
Sample = dict[str, float]
_TRIALS = 2

_PATH = "/channels/a"
# A node hears of a channel for some seconds after its last subscriber has left, so others are used for other numbers of nodes.
_NOBODY, _BOTH = "/channels/nobody", "/channels/both"
_SMALL, _LARGE = 125, 4096

# What is held back: runs that no constant is fitted from, of other mixtures, sizes and rates. By name: where the callers are, and
# groups of them.
HELD_OUT: Mapping[str, tuple[str, tuple[Group, ...]]] = {
    "one process, mixed": (
        "one",
        (
            Group(400, "/channels/prices", 200, 60),
            Group(150, "/channels/private", 1000, 60, tls=True),
            Group(20, "/channels/chat", 300, 400),
        ),
    ),
    "2 workers, mixed": (
        "workers",
        (
            Group(600, "/channels/prices", 200, 50),
            Group(200, "/channels/private", 1000, 50, tls=True),
            Group(30, "/channels/chat", 300, 300),
            Group(300, "/ws", 500, 10, post=BROADCAST),
        ),
    ),
    "2 nodes and Redis, mixed": (
        "redis",
        (
            Group(500, "/channels/prices", 200, 50),
            Group(20, "/channels/chat", 300, 300),
        ),
    ),
}
# For the queue: two channels whose messages get in each other's way.
LATENCY = (Group(500, "/channels/here", 200, 60), Group(500, "/channels/there", 200, 45))


def _asSample(
    groups: Sequence[Group],
    parts: Mapping[str, Sequence[int]],
    at: Node,
    publishers: Node | None = None,
    seconds: float = 0.7,
    trials: int = _TRIALS,
    doze: float = 2,
) -> Sample:
    for _ in range(trials):
        found = run(groups, parts, at, publishers, seconds, doze)
        if found.seconds < 1.15 * seconds:  # else something else took the cores, and messages came at another rate
            break
    sample = {f"cpu {name}": took for name, took in found.cpu.items()} | {"seconds": found.seconds}
    for number, (posts, p50, p99) in enumerate(zip(found.posts, found.p50, found.p99, strict=True)):
        sample |= {f"posts {number}": posts, f"p50 {number}": p50, f"p99 {number}": p99}
    return sample


def _one(rounds: int) -> Iterator[tuple[str, Sample]]:
    """One process: publications, deliveries by size and crowd, answers, connections."""
    with node() as at:
        parts = {"server": [at.pid]}

        def fanOut(callers: int, size: int, rate: float, tls: bool = False, path: str = _PATH, post: str = "") -> Sample:
            return _asSample([Group(callers, path, size, rate, tls, post)], parts, at)

        for _ in range(rounds):
            yield "publish seldom", fanOut(0, _SMALL, 100)
            yield "publish slowly", fanOut(0, _SMALL, 400)
            yield "publish", fanOut(0, _SMALL, 4000)
            yield "publish 4 KiB", fanOut(0, _LARGE, 4000)
            yield "deliver to 10", fanOut(10, _SMALL, 1500)
            yield "deliver to 100", fanOut(100, _SMALL, 500)
            yield "deliver to 1,000", fanOut(1000, _SMALL, 80)
            yield "deliver to 5,000", fanOut(5000, _SMALL, 16)
            yield "deliver to 15,000", fanOut(15000, _SMALL, 5)
            yield "deliver 4 KiB to 1,000", fanOut(1000, _LARGE, 50)
            yield "deliver with TLS to 1,000", fanOut(1000, _SMALL, 50, tls=True)
            yield "deliver 4 KiB with TLS to 1,000", fanOut(1000, _LARGE, 30, tls=True)
            yield "answer", {"cpu": echo(at, [at.pid], _SMALL, False, 64, 1.2)}
            yield "answer 4 KiB", {"cpu": echo(at, [at.pid], _LARGE, False, 64, 1.2)}
            yield "answer with TLS", {"cpu": echo(at, [at.pid], _SMALL, True, 64, 1.2)}
            yield "connect", {"cpu": connects(at, [at.pid], False, 3000)}
            yield "connect with TLS", {"cpu": connects(at, [at.pid], True, 800)}
            groups = HELD_OUT["one process, mixed"][1]
            yield "held out: one process, mixed", _asSample(groups, parts, at, seconds=1.2)
            # Callers that look at once: for the time of delivery, not for what it costs.
            yield "latency", _asSample(LATENCY, parts, at, seconds=1.2, doze=0)


# A ping for each caller in this many seconds, so that a few seconds show enough of them.
_PINGS = 1


def _idle(rounds: int) -> Iterator[tuple[str, Sample]]:
    """Silent callers: memory of the process and of the kernel, and the processor time of their pings."""
    for tls, count in ((False, 5000), (True, 3000)) * rounds:
        with node("--ping-interval", str(_PINGS)) as at:
            connects(at, [at.pid], tls, 200)  # what the first connections load and build
            time.sleep(1.2)
            begin, used = time.monotonic(), cpu([at.pid])
            time.sleep(0.5)
            empty = (cpu([at.pid]) - used) / (time.monotonic() - begin)
            before = memory([at.pid]), slab(), socketPages()
            with silent(at, count, tls):
                time.sleep(0.3)
                after = memory([at.pid]), slab(), socketPages()
                begin, used = time.monotonic(), cpu([at.pid])
                time.sleep(2)
                taken = (cpu([at.pid]) - used) / (time.monotonic() - begin)
                yield (
                    "silent with TLS" if tls else "silent",
                    {
                        "empty process": before[0],
                        "empty per second": empty,
                        "process": (after[0] - before[0]) / count,
                        # Both ends are on this machine.
                        "kernel": (after[1] - before[1] + after[2] - before[2]) / count / 2,
                        "ping": (taken - empty) / (count / _PINGS),
                    },
                )


def _workers(rounds: int) -> Iterator[tuple[str, Sample]]:
    """The hub: publications without callers, with callers at one worker, at both."""
    for workers in (1, 2):
        with node(workers=workers) as at:
            parts = {"hub": [at.pid], "workers": at.workers}
            for _ in range(rounds):
                if workers == 1:
                    yield "hub: publish slowly", _asSample([Group(0, _NOBODY, _SMALL, 400)], parts, at)
                    yield "hub: publish", _asSample([Group(0, _NOBODY, _SMALL, 3000)], parts, at)
                    yield "empty workers", {"hub": memory([at.pid]), "worker": memory(at.workers) / workers}
                callers = 20 * workers  # enough for the kernel to give some to each
                yield f"hub: {workers} watching slowly", _asSample([Group(callers, _PATH, _SMALL, 300)], parts, at)
                yield f"hub: {workers} watching", _asSample([Group(callers, _PATH, _SMALL, 1200)], parts, at)
                yield f"hub: {workers} watching, 4 KiB", _asSample([Group(callers, _PATH, _LARGE, 800)], parts, at)
                many = Group(callers, _PATH, _SMALL, 4800, publishers=8)
                yield f"hub: {workers} watching, flat out", _asSample([many], parts, at, trials=1)
                if workers == 2:
                    yield "held out: 2 workers, mixed", _asSample(HELD_OUT["2 workers, mixed"][1], parts, at, seconds=1.2)


def _redis(rounds: int) -> Iterator[tuple[str, Sample]]:
    """Redis: publications at one node, without callers, with callers at another one, at two others."""
    with valkey() as (pid, port), contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(node("--engine", f"redis://127.0.0.1:{port}")) for _ in range(3)]
        publisher, one, other = nodes
        parts = {"redis": [pid], "publisher": [publisher.pid], "callers": [one.pid], "others": [other.pid]}
        for _ in range(rounds):
            yield "redis: publish slowly", _asSample([Group(0, _NOBODY, _SMALL, 300)], parts, publisher)
            yield "redis: publish", _asSample([Group(0, _NOBODY, _SMALL, 1500)], parts, publisher)
            yield "redis: publish 4 KiB", _asSample([Group(0, _NOBODY, _LARGE, 1200)], parts, publisher)
            yield "redis: 1 watching slowly", _asSample([Group(10, _PATH, _SMALL, 300)], parts, one, publisher)
            yield "redis: 1 watching", _asSample([Group(10, _PATH, _SMALL, 1200)], parts, one, publisher)
            yield "redis: 1 watching, 4 KiB", _asSample([Group(10, _PATH, _LARGE, 1000)], parts, one, publisher)
            with silent(other, 10, False, _BOTH):
                yield "redis: 2 watching", _asSample([Group(10, _BOTH, _SMALL, 1200)], parts, one, publisher)
            yield (
                "held out: 2 nodes and Redis, mixed",
                _asSample(HELD_OUT["2 nodes and Redis, mixed"][1], parts, one, publisher, seconds=1.2),
            )


ROOMS: Mapping[str, Callable[[int], Iterator[tuple[str, Sample]]]] = {
    "one": _one,
    "idle": _idle,
    "workers": _workers,
    "redis": _redis,
}


def measure(
    rounds: int, rooms: Sequence[str] = tuple(ROOMS), say: Callable[[str], None] = lambda text: print(text, file=sys.stderr)
) -> dict[str, Any]:
    """Run everything `rounds` times, in turns, and return all samples, with the machine and the date."""
    settle()
    samples: dict[str, list[Sample]] = {}
    began = load()
    for room in rooms:
        for name, sample in ROOMS[room](rounds):
            samples.setdefault(name, []).append({key: round(value, 3) for key, value in sample.items()})
            say(f"{name}: " + ", ".join(f"{key} {value:,.0f}" for key, value in sample.items()))
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": dict(machine()),
        "load": {"before": began, "after": load()},
        "rounds": rounds,
        "samples": samples,
    }


def save(found: Mapping[str, Any], file: Path = FILE) -> None:
    """Write what was measured."""
    file.write_text(json.dumps(found, indent=1) + "\n")
