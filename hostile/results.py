"""The results of runs, and the file that keeps them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Results"]


@dataclass
class Results:
    """The results of the last run of each part.

    Attributes:
        machine: the machine, by part.
        dates: the date, by part, such as 2026-01-31.
        attacks: a row for each attack, by its name.
        faults: a row for each fault, by its name.
        outages: a row for each outage, by its name.
        moves: a row for each move, by its name.
        soak: the settings and samples.
    """

    machine: dict[str, Mapping[str, str]] = field(default_factory=dict)
    dates: dict[str, str] = field(default_factory=dict)
    attacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    faults: dict[str, dict[str, Any]] = field(default_factory=dict)
    outages: dict[str, dict[str, Any]] = field(default_factory=dict)
    moves: dict[str, dict[str, Any]] = field(default_factory=dict)
    soak: dict[str, Any] = field(default_factory=dict)

    def replace(self, other: Results, whole: bool) -> None:
        """Take over the results of a later run: each of its parts, or only the rows that it has if it was incomplete."""
        self.machine.update(other.machine)
        self.dates.update(other.dates)
        for name in other.dates:
            found = getattr(other, name)
            setattr(self, name, found if whole else {**getattr(self, name), **found})

    def save(self, path: Path) -> None:
        """Write a JSON file, with figures to four digits."""
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(_short(asdict(self)), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` wrote; return empty results if there is no such file."""
        return cls(**json.loads(path.read_text())) if path.exists() else cls()


def _short(data: Any) -> Any:
    match data:
        case float():
            return float(f"{data:.4g}")
        case dict():
            return {name: _short(value) for name, value in data.items()}
        case list() | tuple():
            return [_short(value) for value in data]
    return data
