"""What a worker says of its metrics, as its supervisor is told."""

from __future__ import annotations

import sys

import msgspec

from twisted_ws.metrics.declared import METRICS, Source

# As they travel: the labels and the number, or the counts of buckets and their sum.
_Rows = list[tuple[tuple[str, ...], int | float | tuple[list[int], float]]]


class Other(msgspec.Struct, array_like=True):
    """A family that is not ours, with the name, labels and value of each sample."""

    name: str
    kind: str
    help: str
    samples: list[tuple[str, dict[str, str], float]]


class Report(msgspec.Struct, array_like=True):
    """What a worker says: the rows of our metrics by name, and the families of others."""

    ours: dict[str, _Rows]
    others: list[Other]


readReport = msgspec.msgpack.Decoder(Report).decode

# Bytes of a report that are read in one step of `Turns`.
_READ = 128


def stepsOf(said: bytes) -> int:
    """Return what it costs to read a report, in steps of `Turns`."""
    return 1 + len(said) // _READ


def report(source: Source) -> bytes:
    """Return all metrics of a worker, for `twisted_ws.metrics.scrape.Scrape` in its supervisor."""
    ours = {each.name: rows for each in METRICS if (rows := each.rows(source))}
    theirs: list[Other] = []
    if "prometheus_client" in sys.modules:  # a worker does not load it for itself
        from twisted_ws.metrics.collector import others

        for each in others():
            samples = [(name, labels, value) for name, labels, value, *_ in each.samples]
            theirs.append(Other(each.name, each.type, each.documentation, samples))
    return msgspec.msgpack.encode(Report(ours, theirs))
