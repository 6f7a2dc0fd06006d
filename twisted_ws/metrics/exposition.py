"""Metrics as they are written: the text of Prometheus, or OpenMetrics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from prometheus_client import exposition
from prometheus_client.core import Metric as Family
from prometheus_client.openmetrics import exposition as openmetrics

if TYPE_CHECKING:
    from twisted_ws.wire.loop.turns import Turns

# Steps of `Turns` for one sample, made and written.
STEPS = 6
# Bytes of the text that are put together in one step.
JOINED = 8192

_EOF = b"# EOF\n"
_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_OPEN = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class _One:
    """A registry of one family."""

    def __init__(self, family: Family) -> None:
        self._family = family

    def collect(self) -> list[Family]:
        """Return it."""
        return [self._family]


def choose(accept: str) -> tuple[str, Callable[[Family], bytes], bytes]:
    """Return the type of an answer, what writes one family, and what comes after all, as an Accept header asks for them.

    There are no native histograms: they exist in protobuf only.
    """
    if "application/openmetrics-text" in accept.lower():
        return _OPEN, _openMetrics, _EOF
    return _TEXT, _text, b""


def _openMetrics(family: Family) -> bytes:
    text: bytes = openmetrics.generate_latest(_One(family))  # type: ignore[no-untyped-call]
    return text.removesuffix(_EOF)


def _text(family: Family) -> bytes:
    return exposition.generate_latest(_One(family))


async def write(parts: AsyncIterator[Family], accept: str, turns: Turns) -> tuple[str, bytes]:
    """Return the type and the text of metrics, written in as many turns of the reactor as it takes.

    Args:
        parts: the metrics; one with many samples comes in several parts (see `twisted_ws.metrics.scrape.Scrape.families`).
        accept: the Accept header of the request; "" without one.
        turns: the server's.
    """
    kind, writer, last = choose(accept)
    written: list[bytes] = []
    before = ""
    async for part in parts:
        with turns.counting(1 + STEPS * len(part.samples)):
            text = writer(part)
            if part.name == before:  # its type and help are there already
                text = b"".join([line for line in text.splitlines(True) if not line.startswith(b"# ")])
            written.append(text)
        before = part.name
        if turns.over:
            await turns.next()
    written.append(last)
    turns.spend(1 + sum(map(len, written)) // JOINED)
    if turns.over:
        await turns.next()
    return kind, b"".join(written)
