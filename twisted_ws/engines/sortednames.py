"""Very many names in order, a page at a time."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from operator import itemgetter

# The most names in one run of `SortedNames`: inserting one into a full run costs as much as finding its place.
_RUN = 512
_first = itemgetter(0)


class SortedNames:
    """Distinct names in the order of their code points; a page of a million costs as much as a page of ten.

    They are kept in short runs, one after the other, so that adding one moves few others.
    """

    __slots__ = ("_runs",)

    def __init__(self) -> None:
        self._runs: list[list[str]] = []  # none is empty

    def __iter__(self) -> Iterator[str]:
        return (name for run in self._runs for name in run)

    def add(self, name: str) -> None:
        """Add a name that is not there yet."""
        if not self._runs:
            self._runs.append([])
        at = self._find(name)
        run = self._runs[at]
        insort(run, name)
        if len(run) > _RUN:
            self._runs[at : at + 1] = run[: _RUN // 2], run[_RUN // 2 :]

    def remove(self, name: str) -> None:
        """Remove a name that is there."""
        at = self._find(name)
        run = self._runs[at]
        del run[bisect_left(run, name)]
        if not run:
            del self._runs[at]

    def page(self, prefix: str, after: str, limit: int) -> list[str]:
        """Return the first `limit` names that begin with `prefix` and are greater than `after`."""
        found: list[str] = []
        if not self._runs:
            return found
        at = self._find(max(prefix, after))
        begin = bisect_right(self._runs[at], after) if after >= prefix else bisect_left(self._runs[at], prefix)
        while at < len(self._runs) and len(found) < limit:
            found += self._runs[at][begin : begin + limit - len(found)]
            at, begin = at + 1, 0
        # Those that begin with the prefix come first, together.
        return found[: bisect_left(found, True, key=lambda name: not name.startswith(prefix))]

    def _find(self, name: str) -> int:
        """Return the index of the run where a name is, or would be."""
        return max(bisect_right(self._runs, name, key=_first) - 1, 0) if len(self._runs) > 1 else 0
