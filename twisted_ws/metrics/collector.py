"""The metrics of a server for prometheus_client, and those of others beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import prometheus_client
from prometheus_client.core import REGISTRY, CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family

from twisted_ws.metrics.declared import METRICS, PREFIX, Kind, Metric, Row, Source
from twisted_ws.metrics.process import look

if TYPE_CHECKING:
    from twisted_ws.server.server import WebSocketServer

# Samples that are made and written at once: about a millisecond.
PART = 128

# What prometheus_client registers by itself; our own metrics say the same, and its list of descriptors may take long.
_BUILT_IN = (prometheus_client.GC_COLLECTOR, prometheus_client.PLATFORM_COLLECTOR, prometheus_client.PROCESS_COLLECTOR)

_FAMILIES: dict[Kind, Callable[..., Any]] = {
    Kind.COUNTER: CounterMetricFamily,
    Kind.GAUGE: GaugeMetricFamily,
    Kind.HISTOGRAM: HistogramMetricFamily,
}


def family(metric: Metric, rows: Iterable[Row] = (), more: Mapping[str, str] | None = None) -> Family:
    """Return a metric with its values, as prometheus_client has it.

    Args:
        metric: the metric.
        rows: its values.
        more: further labels, which all of them get.
    """
    more = more or {}
    made: Family = _FAMILIES[metric.kind](metric.family, metric.help, labels=(*more, *metric.labels))
    add(made, metric, rows, more)
    return made


def add(made: Any, metric: Metric, rows: Iterable[Row], more: Mapping[str, str]) -> None:
    """Add values to a family."""
    ends = [*(str(float(each)) for each in metric.bounds), "+Inf"]
    for labels, value in rows:
        labels = (*more.values(), *labels)
        if isinstance(value, (int, float)):
            made.add_metric(labels, value)
        else:
            counts, total = value
            made.add_metric(labels, [*zip(ends, accumulate(counts), strict=True)], total)


# What a registry gets: those of the process it has from elsewhere.
_OWN = tuple(each for each in METRICS if each.family.startswith(PREFIX))


class Collector:
    """The metrics of a server, for a registry of prometheus_client: ``REGISTRY.register(Collector(server))``.

    Args:
        server: the server.
        source: returns what the values are read from; None: the server and its process.

    Attributes:
        server: as given.
        source: what the values are read from, as it is when this is called.
    """

    def __init__(self, server: WebSocketServer, source: Callable[[], Source] | None = None) -> None:
        self.server = server
        self.source = source or (lambda: Source(server, look()))

    def describe(self) -> list[Family]:
        """Return all metrics without values, but those of the process; prometheus_client calls it."""
        return [family(each) for each in _OWN]

    def collect(self) -> Iterator[Family]:
        """Yield the same with their present values; prometheus_client calls it."""
        source = self.source()
        for each in _OWN:
            yield family(each, each.rows(source))


def others() -> list[Family]:
    """Return what services have in the default registry of prometheus_client, if any use it."""
    ours = {each.family for each in METRICS}
    found: list[Family] = []
    # A private name: the registry does not say otherwise what is in it (tests/metrics/test_seams.py).
    for each in tuple(REGISTRY._collector_to_names):
        if each not in _BUILT_IN and not isinstance(each, Collector):
            found += [made for made in each.collect() if made.name not in ours]
    return found


def parts(metric: Metric, rows: Sequence[Row], more: Mapping[str, str] | None = None) -> Iterator[Family]:
    """Yield a metric in parts of about `PART` samples each; at least one, which says its type and help."""
    each = max(PART // (len(metric.bounds) + 3), 1) if metric.kind is Kind.HISTOGRAM else PART
    for begin in range(0, max(len(rows), 1), each):
        yield family(metric, rows[begin : begin + each], more)


def partsOf(made: Family) -> Iterator[Family]:
    """Yield a family of somebody else likewise."""
    for begin in range(0, max(len(made.samples), 1), PART):
        part = Family(made.name, made.documentation, made.type)
        part.samples = made.samples[begin : begin + PART]
        yield part
