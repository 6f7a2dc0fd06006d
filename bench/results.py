"""The results of a run, and the file that keeps them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = ["Results"]


@dataclass
class Results:
    """The results of one or more runs.

    Attributes:
        date: the date of the last run, such as 2026-01-31.
        machine: the machine.
        peers: titles by key, in the order of the tables.
        versions: the versions measured, by key.
        effort: rounds and seconds.
        figures: the figures of each round, by row and peer.
        details: other observations, by name and peer: "echo busy" is the share of core 0 that the server used.
        where: when, where and how each row was measured, in a sentence: parts of a run may be from another day, or machine.
    """

    date: str = ""
    machine: Mapping[str, str] = field(default_factory=dict)
    peers: Mapping[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    effort: Mapping[str, float] = field(default_factory=dict)
    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    details: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)

    def add(self, workload: str, rows: Iterable[str], peer: str, sample: Mapping[str, float]) -> None:
        """Add the sample of one round of a workload for a peer."""
        known = set(rows)
        for name, value in sample.items():
            there, key = (self.figures, name) if name in known else (self.details, f"{workload} {name}")
            there.setdefault(key, {}).setdefault(peer, []).append(value)

    def replace(self, other: Results) -> None:
        """Take over everything that a later run has measured; keep the rest."""
        self.date, self.machine, self.peers, self.effort = other.date, other.machine, other.peers, other.effort
        self.versions.update(other.versions)
        self.where.update(other.where)
        for ours, theirs in ((self.figures, other.figures), (self.details, other.details)):
            for key, found in theirs.items():
                ours.setdefault(key, {}).update(found)

    def save(self, path: Path) -> None:
        """Write a JSON file, with figures to six digits."""
        data = asdict(self)
        for part in ("figures", "details"):
            data[part] = {
                key: {peer: [float(f"{value:.6g}") for value in values] for peer, values in found.items()}
                for key, found in data[part].items()
            }
        path.write_text(json.dumps(data, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` wrote; return empty results if there is no such file."""
        return cls(**json.loads(path.read_text())) if path.exists() else cls()
