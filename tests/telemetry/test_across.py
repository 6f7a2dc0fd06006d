"""A trace that goes on in other workers; for that over Redis, see tests/engines/redis/test_engine.py."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from tests.engines.hub.worlds import World
from tests.telemetry.test_tracing import Spans, parent, spans
from twisted_ws.message import Message
from twisted_ws.telemetry import tracing

__all__ = ["spans"]


def test_workers(spans: Spans) -> None:
    """What one worker publishes is delivered by another in the same trace, with its recipients."""
    world = World()
    first, second = world.workers
    second.watch("a")
    second.node.count = 3
    published = tracing.traced("publish", first.engine.publish, "a", Message.of("1"))
    world.settle()
    assert published.result.recipients == 3
    one = spans.one("deliver")
    assert parent(one) == spans.one("publish").context.span_id
    assert one.context.trace_id == spans.one("publish").context.trace_id
    assert (one.attributes["messaging.destination.name"], one.attributes["twisted_ws.recipients"]) == ("a", 3)


def test_supervisor(spans: Spans) -> None:
    """So is what is published at the supervisor."""
    world = World()
    for each in world.workers:
        each.watch("a")
    tracing.traced("publish", world.hub.publish, "a", Message.of("1"))
    world.settle()
    assert [parent(each) for each in spans.named("deliver")] == [spans.one("publish").context.span_id] * 2


def test_journal(spans: Spans) -> None:
    """Whoever notes what a worker gets, for connections that move, notes the same with a trace as without."""
    world = World()
    worker = world.workers[0]
    worker.watch("a")
    noted: list[tuple[object, ...]] = []
    journal = type("Noting", (), {"add": lambda self, *what: noted.append(what)})()
    worker.engine.keepJournal(journal)
    tracing.traced("publish", world.hub.publish, "a", Message.of("1"))
    world.hub.publish("a", Message.of("1"))
    world.settle()
    (_, kind, fields), (_, otherKind, otherFields) = noted
    assert (kind, fields[:2], fields[3:]) == (otherKind, otherFields[:2], otherFields[3:])
    assert len(spans.named("deliver")) == 1


def test_notRecorded() -> None:
    """A trace that nobody records does not travel, and garbage in its place is no trace."""
    found = Spans()
    found.provider.sampler = ALWAYS_OFF
    tracing.begin(found.provider.get_tracer("test"))
    try:
        world = World()
        world.workers[1].watch("a")
        tracing.traced("publish", world.workers[0].engine.publish, "a", Message.of("1"))
        world.settle()
        assert found.exporter.get_finished_spans() == ()
        for text in "", "00-x-y-01", "00-0-0-01":
            assert tracing.delivered(text, "a", lambda: 7) == 7
            assert tracing.under(text, lambda: trace.get_current_span().get_span_context().is_valid) is False
    finally:
        tracing.end()
        found.provider.shutdown()
