"""One look at all metrics: those of the server, of its workers if it has any, and what services count for themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from prometheus_client.core import Metric as Family
from prometheus_client.core import Sample
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from twisted_ws.metrics.collector import Collector, others, parts, partsOf
from twisted_ws.metrics.declared import METRICS
from twisted_ws.metrics.reports import Report, readReport

# Seconds for the answers of the workers; one that is dead or stuck is left out.
PATIENCE = 1.0
# Bytes of a worker's answer that are read in one step of `Turns`.
READ = 128
# The label that says whose a value is, and what it says of the supervisor's own.
WORKER, SUPERVISOR = "worker", "supervisor"

_log = Logger()


class Scrape:
    """Looks at all metrics, as often as it is asked.

    Args:
        collector: those of the server.
        ask: asks each worker, by its number, for its `report`; None: there are no workers.
    """

    def __init__(self, collector: Collector, ask: Callable[[], Mapping[str, Deferred[bytes]]] | None = None) -> None:
        self.collector = collector
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
        answers = await self._answers(self._ask())
        reports: dict[str, Report] = {}
        turns = self.collector.server.runtime.turns
        for worker, answer in answers.items():
            if turns.over:
                await turns.next()
            with turns.counting(1 + len(answer) // READ):
                try:
                    reports[worker] = readReport(answer)
                except ValueError:
                    _log.warn("worker {worker}: its metrics cannot be read", worker=worker, event="metrics.unreadable")
        source = self.collector.source()
        for each in METRICS:
            for part in parts(each, each.rows(source), {WORKER: SUPERVISOR}):
                yield part
            for worker, said in reports.items():
                if each.name in said.ours:
                    for part in parts(each, said.ours[each.name], {WORKER: worker}):
                        yield part
        found: dict[str, Any] = {}
        for worker, said in reports.items():
            for other in said.others:
                merged = found.get(other.name)
                if merged is None:
                    merged = found[other.name] = Family(other.name, other.help, other.kind)
                merged.samples += [Sample(name, {**labels, WORKER: worker}, value) for name, labels, value in other.samples]
        for merged in found.values():
            for part in partsOf(merged):
                yield part

    async def _answers(self, asked: Mapping[str, Deferred[bytes]]) -> dict[str, bytes]:
        """Return what has been said in time: many may answer in one turn, which only notes it."""
        found: dict[str, bytes] = {}
        if not asked:
            return found
        done: Deferred[None] = Deferred()
        left = set(asked)

        def end() -> None:
            if not done.called:
                done.callback(None)

        def take(answer: Any, worker: str) -> None:
            if isinstance(answer, bytes) and not done.called:
                found[worker] = answer
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
        return {worker: found[worker] for worker in asked if worker in found}
