"""What workers count together that have one place one after the other: each counter goes on where the one before has ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from twisted_ws.metrics.declared import METRICS, Kind, Metric, Row
from twisted_ws.metrics.reports import Other, Report, readReport, stepsOf
from twisted_ws.wire.loop.turns import Turns

# Gauges of which two workers of one place have a part each, while one leaves; of the others, what the newer one says is so.
PARTS = frozenset(
    (
        "connections",
        "handlers_running",
        "presence_members",
        "process_open_fds",
        "process_resident_memory_bytes",
        "receive_queue_bytes",
        "send_queue_bytes",
        "subscribers_behind",
        "subscriptions",
    )
)
# Samples of services that are remembered when their worker has ended, for each place: what has the most labels is new each time.
MOST = 10_000
# Workers that have ended and are remembered, because a word of theirs may come later than that is known.
GONE = 64

_ADDED = frozenset(("counter", "histogram", "summary"))


class Past:
    """What the workers that have ended had counted, by place.

    Args:
        turns: the budget of the reactor.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._last: dict[tuple[str, Hashable], bytes] = {}
        self._gone: deque[tuple[str, Hashable]] = deque(maxlen=GONE)
        self._ended: deque[tuple[str, bytes]] = deque()
        self._sums = Sums({}, {})

    def saw(self, place: str, worker: Hashable, said: bytes) -> None:
        """Note the report of a worker, which may be the last that is heard of it."""
        if (place, worker) not in self._gone:
            self._last[place, worker] = said

    def living(self) -> dict[tuple[str, Hashable], bytes]:
        """Return the last reports of workers that have not ended, by place and worker."""
        return dict(self._last)

    def ended(self, place: str, worker: Hashable) -> None:
        """Keep what it had counted."""
        self._gone.append((place, worker))
        said = self._last.pop((place, worker), None)
        if said is not None:
            self._ended.append((place, said))
            Deferred.fromCoroutine(self.sums())

    def moving(self) -> Iterator[tuple[str, Hashable | None, bytes]]:
        """Yield all that is known, for another process: a place, the worker if it has not ended, and a report."""
        for place, said in self._sums.reports():
            yield place, None, msgspec.msgpack.encode(said)
        for place, last in self._ended:
            yield place, None, last
        for (place, worker), last in self._last.items():
            yield place, worker, last

    def arrive(self, place: str, worker: Hashable | None, said: bytes) -> None:
        """Take what another process has yielded."""
        if worker is not None:
            self.saw(place, worker, said)
        else:
            self._ended.append((place, said))
            Deferred.fromCoroutine(self.sums())

    async def sums(self) -> Sums:
        """Return the sums of all that have ended until now; they stay as they are, whoever ends later."""
        while self._ended:
            if self._turns.over:
                await self._turns.next()
            if self._ended:
                place, said = self._ended.popleft()
                with self._turns.counting(stepsOf(said)), suppress(ValueError):  # that was logged before
                    self._sums = self._sums.plus(place, readReport(said))
        return self._sums


class Sums:
    """What was counted, by place; not changed when more is.

    Args:
        ours: by place and metric.
        others: by place and name.
    """

    def __init__(self, ours: dict[str, dict[str, list[Row]]], others: dict[str, dict[str, Other]]) -> None:
        self._ours = ours
        self._others = others

    def plus(self, place: str, said: Report) -> Sums:
        """Return the sums with what one more has counted."""
        ours = {**self._ours.get(place, {})}
        for metric in METRICS:
            if metric.kind is not Kind.GAUGE and metric.name in said.ours:
                ours[metric.name] = _added([*ours.get(metric.name, ()), *said.ours[metric.name]])
        others = self._others.get(place, {})
        added = _together([*others.values(), *[each for each in said.others if each.kind in _ADDED]], {})
        if sum(len(each.samples) for each in added.values()) <= MOST:
            others = added
        return Sums({**self._ours, place: ours}, {**self._others, place: others})

    def reports(self) -> Iterator[tuple[str, Report]]:
        """Yield each place, and its sums as a report."""
        for place, ours in self._ours.items():
            yield place, Report({**ours}, [*self._others.get(place, {}).values()])

    @property
    def places(self) -> tuple[str, ...]:
        """The places of which there is something."""
        return tuple(self._ours)

    def rows(self, place: str, metric: Metric, reports: Sequence[Report]) -> list[Row]:
        """Return the rows of one of our metrics for a place.

        Args:
            place: the place.
            metric: the metric.
            reports: what those say that are there, the newest last.
        """
        said = [each.ours[metric.name] for each in reports if metric.name in each.ours]
        if metric.kind is not Kind.GAUGE:
            said.insert(0, self._ours.get(place, {}).get(metric.name, []))
        elif metric.name not in PARTS:
            said = said[-1:]
        filled = [each for each in said if each]
        return filled[0] if len(filled) == 1 else _added([row for rows in filled for row in rows])

    def others(self, place: str, reports: Sequence[Report]) -> list[Other]:
        """Return what services count for themselves, for a place (see `rows`)."""
        before = self._others.get(place)
        if not before and len(reports) == 1:
            return reports[0].others
        newest = {each.name: each for each in (reports[-1].others if reports else ()) if each.kind not in _ADDED}
        counted = [each for said in reports for each in said.others if each.kind in _ADDED]
        return [*_together([*(before or {}).values(), *counted], newest).values()]


def counted(said: Report) -> Report:
    """Return the part of a report that still holds when it is old: what has happened."""
    gauges = {each.name for each in METRICS if each.kind is Kind.GAUGE}
    ours = {name: rows for name, rows in said.ours.items() if name not in gauges}
    return Report(ours, [each for each in said.others if each.kind in _ADDED])


def _added(rows: Iterable[Row]) -> list[Row]:
    """Return rows with one for each set of labels."""
    found: dict[tuple[str, ...], Any] = {}
    for labels, value in rows:
        labels = tuple(labels)
        before = found.get(labels)
        if before is None:
            found[labels] = value
        elif isinstance(value, (int, float)):
            found[labels] = before + value
        else:
            found[labels] = [one + other for one, other in zip(before[0], value[0], strict=True)], before[1] + value[1]
    return [*found.items()]


def _together(counted: Iterable[Other], found: dict[str, Other]) -> dict[str, Other]:
    """Return families by name, each with one sample for each name and set of labels; when it was created is the first."""
    samples: dict[str, dict[tuple[str, frozenset[tuple[str, str]]], tuple[str, dict[str, str], float]]] = {}
    for family in counted:
        known = samples.setdefault(family.name, {})
        for name, labels, value in family.samples:
            key = name, frozenset(labels.items())
            before = known.get(key)
            if before is None:
                known[key] = name, labels, value
            elif not name.endswith("_created"):
                known[key] = name, labels, before[2] + value
        found[family.name] = msgspec.structs.replace(family, samples=[*known.values()])
    return found
