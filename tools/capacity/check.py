"""The runs that were held back, beside what the model says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from tools.capacity.costs import Costs, fit
from tools.capacity.measure import HELD_OUT
from tools.capacity.model import Core, together, watching
from tools.capacity.stage import BROADCAST, Group

__all__ = ["WITHIN", "Checked", "check", "predicted", "verdict"]

# How far predicted / measured may be from 1.
WITHIN = 0.15


@dataclass(frozen=True)
class Checked:
    """One figure.

    Attributes:
        run: the name of the run.
        part: what took it.
        predicted: the share of a core that the model says.
        measured: the share of a core that it took: the median of all rounds.
        spread: how far apart the rounds are, as a part of that: half the distance between the least and the most.
    """

    run: str
    part: str
    predicted: float
    measured: float
    spread: float = 0.0

    @property
    def error(self) -> float:
        """How far it is off: 0.1 for 10 %."""
        return abs(self.ratio - 1)

    @property
    def ratio(self) -> float:
        """Predicted / measured."""
        return self.predicted / self.measured


def predicted(where: str, groups: Sequence[Group], costs: Costs) -> dict[str, float]:
    """Return the cores that a run takes, by part, as the model counts them.

    Args:
        where: "one" process, "workers" (two and a hub) or "redis" (a node with the callers, one with the publishers).
        groups: who is there, and what comes.
        costs: of the model.
    """
    processes = 2 if where == "workers" else 1
    here = sum(each.callers for each in groups) / processes
    crowd = costs.crowdFactor(here)
    caller, hub, database, publisher = Core(costs.wake), Core(costs.hubWake), Core(costs.redisWake), Core(costs.nodeWake)
    for each in groups:
        at = float(processes) if each.post == BROADCAST else watching(processes, each.callers)
        per = (costs.deliverTls if each.tls else costs.deliver).of(each.size)
        sending = each.callers / at * per * crowd
        often = each.rate * at / processes
        if where == "workers":
            caller.add(often, costs.receive.of(each.size) + sending)
            hub.add(each.rate, costs.hubPublish.of(each.size) + at * costs.hubWorker.of(each.size), alone=at * costs.hubAlone)
        elif where == "redis":
            caller.add(often, costs.nodeReceive.of(each.size) + sending)
            publisher.add(each.rate, costs.nodePublish.of(each.size))
            database.add(each.rate, costs.redisPublish.of(each.size) + costs.redisNode.of(each.size))
        else:
            caller.add(often, costs.publish.of(each.size) + costs.begin + sending)
    # All of them run on one core.
    match where:
        case "workers":
            return dict(zip(("hub", "workers"), _paired(hub, caller, processes), strict=True))
        case "redis":
            return dict(zip(("redis", "publisher", "callers"), together(database, publisher, caller), strict=True))
    return {"server": caller.busy}


def _paired(hub: Core, caller: Core, processes: int) -> tuple[float, float]:
    first, *workers = together(hub, *[caller] * processes)
    return first, sum(workers)


def check(found: Mapping[str, Any]) -> list[Checked]:
    """Return what the model, fitted from the other runs, says of those that were held back, and what was measured."""
    costs = fit(found)
    checked = []
    for name, (where, groups) in HELD_OUT.items():
        samples = found["samples"][f"held out: {name}"]
        for part, cores in predicted(where, groups, costs).items():
            # At the rates that were meant: a sample of a busy machine takes longer.
            taken = [sample[f"cpu {part}"] / 1e6 * groups[0].rate / sample["posts 0"] for sample in samples]
            measured = median(taken)
            checked.append(Checked(name, part, cores, measured, (max(taken) - min(taken)) / 2 / measured))
    return checked


def verdict(checked: Sequence[Checked]) -> str:
    """Return how far the model is off, in one line."""
    worst = max(checked, key=lambda each: each.error)
    off = median(each.error for each in checked)
    noise = median(each.spread for each in checked)
    return (
        f"{'Within' if worst.error <= WITHIN else 'NOT within'} {WITHIN:.0%}: off by {off:.1%} (median), by {worst.error:.1%} at "
        f"most ({worst.run}: {worst.part}); the rounds of one figure differ by ±{noise:.1%} (median)"
    )
