"""How long a message waits: the queue before the hub, and that before one process with callers, simulated event by event."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

from tools.capacity.costs import Costs
from tools.capacity.model import Kind, Layout, Load, forecast, kinds

__all__ = ["Latency", "latency", "simulate"]

# Above this share of a core, the answer depends more on chance than on the load.
_FULL = 0.85
_PUBLICATIONS = 6_000
# Microseconds that one message may take a process at once, before others get their turn.
_TURN = 10_000
# Of a message to very many, a few places in the row are enough.
_PLACES = 8


@dataclass(frozen=True)
class Latency:
    """Milliseconds from the POST to the socket of a caller, over all deliveries; the network is not in it.

    Attributes:
        p50: of one half.
        p99: of all but one in a hundred.
    """

    p50: float
    p99: float


class _Queue:
    """A process that does one thing after another, in microseconds."""

    def __init__(self, wake: float, slower: float) -> None:
        self._wake = wake
        self._slower = slower
        self._free = 0.0

    def begin(self, at: float) -> float:
        """Return when it begins with what comes at a time: when it is free, and awake."""
        if at <= self._free:
            return self._free
        return at + self._wake * sqrt((at - self._free) / 1000)

    def end(self, begun: float, cost: float) -> float:
        """Return when it has done something that it began with."""
        self._free = begun + cost * self._slower
        return self._free


def _arrivals(each: Kind, seconds: float, even: bool, chance: random.Random) -> list[float]:
    if even:
        first = chance.random() / each.rate
        return [first + number / each.rate for number in range(int(seconds * each.rate))]
    found, at = [], chance.expovariate(each.rate)
    while at < seconds:
        found.append(at)
        at += chance.expovariate(each.rate)
    return found


def simulate(
    several: Sequence[Kind], wake: float, hubWake: float, background: float = 0, even: bool = False, seed: int = 1
) -> Latency:
    """Return what deliveries of some kinds of messages wait in one process with callers.

    Args:
        several: the kinds.
        wake: the process pays this when it has slept, and `hubWake` the engine (`Costs`).
        hubWake: see `wake`.
        background: the share of the process that other things take.
        even: whether messages of a kind come at equal intervals; else by chance, as from many publishers.
        seed: of what is left to chance.
    """
    chance = random.Random(seed)
    seconds = _PUBLICATIONS / sum(each.rate for each in several)
    events = sorted((at * 1e6, number) for number, each in enumerate(several) for at in _arrivals(each, seconds, even, chance))
    engine, process = _Queue(hubWake, 1), _Queue(wake, 1 / (1 - background))
    waited: list[tuple[float, float]] = []
    for at, number in events:
        each = several[number]
        came = engine.end(engine.begin(at), each.engine) if each.engine else at
        if chance.random() >= each.often / each.rate:
            continue  # none of those who hear it is here
        sending = process.end(process.begin(came), each.before)
        process.end(sending, each.some * each.deliver)
        places = max(min(_PLACES, round(each.some)), 1)
        slower = each.deliver / (1 - background)
        for _ in range(places):
            waited.append((sending + chance.random() * each.some * slower - at, each.some / places))
    waited.sort()
    total = sum(weight for _, weight in waited)
    return Latency(_at(waited, 0.5 * total), _at(waited, 0.99 * total))


def _at(waited: Sequence[tuple[float, float]], wanted: float) -> float:
    seen = 0.0
    for micros, weight in waited:
        seen += weight
        if seen >= wanted:
            return micros / 1000
    return waited[-1][0] / 1000


def latency(load: Load, layout: Layout, costs: Costs, even: bool = False) -> Latency | None:
    """Return what deliveries wait, or None where this simulation would not be honest.

    That is: nothing is published; a core is so full that chance decides; one message has so many receivers in one process that it
    is sent in several turns of the reactor, with others between them; several servers of Redis, which are several queues.
    """
    found = forecast(load, layout, costs)
    several = [each for each in kinds(load, layout, costs) if each.rate]
    full = any(part.share > _FULL for part in found.parts if part.unit == "cores")
    if not several or full or layout.shards > 1 or any(each.some * each.deliver > _TURN for each in several):
        return None
    hubWake = costs.redisWake if layout.shards else costs.hubWake if layout.workers else 0
    quiet = replace(load, traffic=tuple(each for each in load.traffic if each.kind == "answer"))
    background = next(part.used for part in forecast(quiet, layout, costs).parts if part.name in ("each worker", "the process"))
    return simulate(several, costs.wake, hubWake, background, even)
