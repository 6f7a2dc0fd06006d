"""Very many durations in little memory, and their percentiles."""

from __future__ import annotations

import math

# Each step is so much longer than the one before: a percentile is at most this wrong.
STEP = 1.01
_SHORTEST = 1e-6  # seconds; what is shorter counts as this
_LOG = math.log(STEP)


class Durations:
    """A histogram with steps of 1 %.

    Attributes:
        count: how many there are.
        longest: seconds; 0 if there are none.
    """

    def __init__(self) -> None:
        self.count = 0
        self.longest = 0.0
        self._steps: dict[int, int] = {}

    def add(self, seconds: float) -> None:
        """Add one."""
        self.count += 1
        self.longest = max(self.longest, seconds)
        step = int(math.log(max(seconds, _SHORTEST) / _SHORTEST) / _LOG)
        self._steps[step] = self._steps.get(step, 0) + 1

    def percentile(self, percent: float) -> float:
        """Return the duration, in seconds, that so many percent of all do not exceed; 0 if there are none."""
        wanted = math.ceil(self.count * percent / 100)
        seen = 0
        for step in sorted(self._steps):
            seen += self._steps[step]
            if seen >= wanted:
                return min(_SHORTEST * STEP ** (step + 1), self.longest)
        return 0.0

    def summary(self) -> dict[str, float]:
        """Return the percentiles that are shown, in milliseconds."""
        found = {f"p{percent:g}": self.percentile(percent) for percent in (50, 90, 99)}
        return {name: round(seconds * 1000, 3) for name, seconds in {**found, "max": self.longest}.items()}
