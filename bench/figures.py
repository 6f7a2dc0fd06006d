"""What was measured, and what it comes to: medians, ratios, targets. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Rounds", "Row", "Target", "Verdict", "judge", "middle", "ratio"]

# The figures of one row: those of each round, by the key of the peer.
Rounds = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Target:
    """What must be reached.

    Attributes:
        bound: the least, or the most where less is better: a ratio, or a figure when there is nobody to compare with.
        against: the key of the peer to compare with; "" for none.
        peer: the key of the one of whom it is asked.
    """

    bound: float
    against: str = ""
    peer: str = "twisted_ws"


@dataclass(frozen=True)
class Row:
    """One figure that a workload gives for each peer.

    Attributes:
        key: its short name, in results.
        title: as tables have it.
        unit: of the figure: "/s", "bytes", "us", or "x" for a ratio.
        less: whether less is better.
        targets: what must be reached.
    """

    key: str
    title: str
    unit: str = "/s"
    less: bool = False
    targets: tuple[Target, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A target and what came of it.

    Attributes:
        row: of which row.
        target: what was asked.
        reached: the ratio or figure; None when it was not measured.
        met: whether that is enough.
    """

    row: Row
    target: Target
    reached: float | None
    met: bool


def middle(values: Sequence[float] | None) -> float | None:
    """Return the median; None for nothing."""
    return median(values) if values else None


def ratio(rounds: Rounds, peer: str, against: str) -> float | None:
    """Return the median of the ratios of two peers, round by round, for what disturbs a round disturbs both.

    Returns:
        None when one of them was not measured.
    """
    pairs = [ours / theirs for ours, theirs in zip(rounds.get(peer, ()), rounds.get(against, ()), strict=False) if theirs]
    return middle(pairs)


def judge(rows: Iterable[Row], results: Mapping[str, Rounds]) -> list[Verdict]:
    """Hold each target of the rows against the results."""
    verdicts = []
    for row in rows:
        rounds = results.get(row.key, {})
        for target in row.targets:
            reached = ratio(rounds, target.peer, target.against) if target.against else middle(rounds.get(target.peer))
            met = reached is not None and (reached <= target.bound if row.less else reached >= target.bound)
            verdicts.append(Verdict(row, target, reached, met))
    return verdicts
