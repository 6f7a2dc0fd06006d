"""Medians, ratios and targets. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Rounds", "Row", "Target", "Verdict", "judge", "middle", "ratio"]

# The figures of one row: for each round, by the key of the peer.
Rounds = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Target:
    """A target.

    Attributes:
        bound: the minimum, or the maximum if less is better: a ratio, or a figure if `against` is "".
        against: the key of the peer to compare with; "" for none.
        peer: the key of the peer that must reach it.
    """

    bound: float
    against: str = ""
    peer: str = "twisted_ws"


@dataclass(frozen=True)
class Row:
    """One figure that a workload yields for each peer.

    Attributes:
        key: its short name in the results.
        title: its title in tables.
        unit: the unit of the figure: "/s", "bytes", "us", or "x" for a ratio.
        less: whether less is better.
        targets: its targets.
    """

    key: str
    title: str
    unit: str = "/s"
    less: bool = False
    targets: tuple[Target, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A target and its result.

    Attributes:
        row: its row.
        target: the target.
        reached: the ratio or figure; None if it was not measured.
        met: whether the target was met.
    """

    row: Row
    target: Target
    reached: float | None
    met: bool


def middle(values: Sequence[float] | None) -> float | None:
    """Return the median; None if there are no values."""
    return median(values) if values else None


def ratio(rounds: Rounds, peer: str, against: str) -> float | None:
    """Return the median of the ratios of two peers, round by round, because a disturbance affects the whole round.

    Returns:
        None if one of them was not measured.
    """
    pairs = [ours / theirs for ours, theirs in zip(rounds.get(peer, ()), rounds.get(against, ()), strict=False) if theirs]
    return middle(pairs)


def judge(rows: Iterable[Row], results: Mapping[str, Rounds]) -> list[Verdict]:
    """Compare the results with each target of the rows."""
    verdicts = []
    for row in rows:
        rounds = results.get(row.key, {})
        for target in row.targets:
            reached = ratio(rounds, target.peer, target.against) if target.against else middle(rounds.get(target.peer))
            met = reached is not None and (reached <= target.bound if row.less else reached >= target.bound)
            verdicts.append(Verdict(row, target, reached, met))
    return verdicts
