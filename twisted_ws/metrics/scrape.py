"""One look at all metrics: those of the server, of its workers if it has any, and what services count for themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Mapping
from typing import Any

import msgspec
from prometheus_client.core import Metric as Family
from prometheus_client.core import Sample
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from twisted_ws.metrics.collector import Collector, others, parts, partsOf
from twisted_ws.metrics.declared import METRICS
from twisted_ws.metrics.past import Past, counted
from twisted_ws.metrics.reports import Report, readReport, stepsOf

# Seconds for the answers of the workers; of one that is stuck, only what it had counted before is said.
PATIENCE = 1.0
# The label that says whose a value is, and what it says of the supervisor's own.
WORKER, SUPERVISOR = "worker", "supervisor"

Asked = Mapping[tuple[str, Hashable], Deferred[bytes]]

_log = Logger()


class Scrape:
    """Looks at all metrics, as often as it is asked.

    Args:
        collector: those of the server.
        ask: asks each worker for its `report`, by its number and what tells it from others of that number, which are leaving: the
            newest is the last. None: there are no workers.

    Attributes:
        past: what workers that have ended had counted.
    """

    def __init__(self, collector: Collector, ask: Callable[[], Asked] | None = None) -> None:
        self.collector = collector
        self.past = Past(collector.server.runtime.turns)
        self._ask = ask

    async def families(self) -> AsyncIterator[Family]:
        """Yield all families, each with the values of all workers; one with many samples comes in parts, one after the other."""
        if self._ask is None:
            source = self.collector.source()
            for each in METRICS:
                for part in parts(each, each.rows(source)):
                    yield part
            for beside in others():
                for part in partsOf(beside):
                    yield part
            return
        asked = self._ask()
        answered = await self._answers(asked)
        sums = await self.past.sums()
        living = self.past.living()
        reports: dict[str, list[Report]] = {place: [] for place in sums.places if place != SUPERVISOR}
        turns = self.collector.server.runtime.turns
        # Of one that has not answered, or cannot be asked because it is about to end, what it had said before.
        for which in [*[each for each in living if each not in asked], *[each for each in asked if each in living]]:
            worker, answer = which[0], living[which]
            if turns.over:
                await turns.next()
            with turns.counting(stepsOf(answer)):
                try:
                    found = readReport(answer)
                    reports.setdefault(worker, []).append(found if which in answered else counted(found))
                except ValueError:
                    _log.warn("worker {worker}: its metrics cannot be read", worker=worker, event="metrics.unreadable")
        source = self.collector.source()
        for each in METRICS:
            own = each.rows(source)
            # Supervisors before this one have counted, too.
            for part in parts(each, sums.rows(SUPERVISOR, each, [Report({each.name: own}, [])]), {WORKER: SUPERVISOR}):
                yield part
            for worker, said in reports.items():
                for part in parts(each, sums.rows(worker, each, said), {WORKER: worker}):
                    yield part
        merging: dict[str, Any] = {}
        for worker, said in reports.items():
            for other in sums.others(worker, said):
                merged = merging.get(other.name)
                if merged is None:
                    merged = merging[other.name] = Family(other.name, other.help, other.kind)
                merged.samples += [Sample(name, {**labels, WORKER: worker}, value) for name, labels, value in other.samples]
        for merged in merging.values():
            for part in partsOf(merged):
                yield part

    def moving(self) -> Iterator[tuple[str, Hashable | None, bytes]]:
        """Yield what was counted here and by workers, for the `Past` of another supervisor."""
        source = self.collector.source()
        yield SUPERVISOR, None, msgspec.msgpack.encode(Report({each.name: each.rows(source) for each in METRICS}, []))
        yield from self.past.moving()

    async def _answers(self, asked: Asked) -> set[tuple[str, Hashable]]:
        """Return who has answered in time: many may answer in one turn, which only notes it (see `Past.saw`)."""
        found: set[tuple[str, Hashable]] = set()
        if not asked:
            return found
        done: Deferred[None] = Deferred()
        left = set(asked)

        def end() -> None:
            if not done.called:
                done.callback(None)

        def take(answer: Any, worker: tuple[str, Hashable]) -> None:
            if isinstance(answer, bytes) and not done.called:
                found.add(worker)
                self.past.saw(*worker, answer)
            left.discard(worker)
            if not left:
                end()

        late = self.collector.server.reactor.callLater(PATIENCE, end)
        for worker, answer in asked.items():
            answer.addBoth(take, worker)
        try:
            await done
        finally:
            if late.active():
                late.cancel()
        return found
