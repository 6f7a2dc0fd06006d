"""Spans of what the server does, for OpenTelemetry. Without it, `tracer` is None: each place looks at that, and pays no more.

What is current travels in the context variables of OpenTelemetry, which coroutines and `inlineCallbacks` keep. Plain callbacks
lose them, so that nothing here relies on those: a span that outlasts a call is held by the Deferred that it waits for.
"""

from __future__ import annotations

from asyncio import iscoroutine
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

# Makes spans; None without OpenTelemetry. Only `begin` and `end` change it, and only while there is one is the rest used.
tracer: Any = None

_context: Any = None
_propagate: Any = None
_trace: Any = None
_kinds: Mapping[str, Any] = {}
# Where the context keeps whom a request says that it comes from.
_PUBLISHER = "twisted_ws.publisher"


def begin(maker: Any) -> None:
    """Make spans from now on.

    Args:
        maker: a tracer of OpenTelemetry.
    """
    global tracer, _context, _propagate, _trace, _kinds
    from opentelemetry import context, propagate, trace

    _context, _propagate, _trace = context, propagate, trace
    _kinds = {kind.name.lower(): kind for kind in trace.SpanKind}
    tracer = maker


def end() -> None:
    """Make no more spans."""
    global tracer
    tracer = None


def parentOf(get: Callable[[str], str | None]) -> Any:
    """Return the context of the request that `get` has the headers of, by lower-case name: the span that it is a part of."""
    carrier = {name: value for name in _propagate.get_global_textmap().fields if (value := get(name.lower())) is not None}
    return _propagate.extract(carrier, _context.Context())


def asPublisher(parent: Any) -> Any:
    """Return a context in which what is published is linked with the span of `parent`."""
    found = _trace.get_current_span(parent).get_span_context()
    return _context.set_value(_PUBLISHER, found, parent) if found.is_valid else parent


def links() -> list[Any]:
    """Return links to the publisher that the current context names, if any."""
    found = _context.get_value(_PUBLISHER)
    return [] if found is None else [_trace.Link(found)]


def injected(span: Any) -> tuple[tuple[str, str], ...]:
    """Return the headers for a request that is a part of a span."""
    carrier: dict[str, str] = {}
    _propagate.inject(carrier, _trace.set_span_in_context(span))
    return tuple(carrier.items())


def carried() -> str | None:
    """Return the current span as it travels between servers, in the form of `traceparent`; None if it is not recorded."""
    found = _trace.get_current_span().get_span_context()
    if not (found.is_valid and found.trace_flags.sampled):
        return None
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-01"


def _carriedBy(text: str) -> Any:
    """Return the context that `carried` has made a text of; None if the text is not one."""
    parts = text.split("-")
    try:
        trace, span = int(parts[1], 16), int(parts[2], 16)
    except (ValueError, IndexError):
        return None
    found = _trace.SpanContext(trace, span, True, _trace.TraceFlags(_trace.TraceFlags.SAMPLED))
    return _trace.set_span_in_context(_trace.NonRecordingSpan(found), _context.Context()) if found.is_valid else None


def under(text: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """Return what `call` returns; what it does is a part of a span of another server, which it has `carried` here."""
    context = _carriedBy(text)
    if context is None:
        return call(*arguments)
    token = _context.attach(context)
    try:
        return call(*arguments)
    finally:
        _context.detach(token)


def delivered(text: str, channel: str, take: Callable[..., Any], *arguments: Any) -> Any:
    """Return what `take` returns, and make a span of it, a part of one of another server.

    Args:
        text: the other span, which that server has `carried` here.
        channel: the channel.
        take: passes a message of it on, and returns how many took it, now or later.
        arguments: its arguments.
    """
    parent = _carriedBy(text)
    if parent is None:
        return take(*arguments)
    attributes = {
        "messaging.system": "twisted_ws",
        "messaging.operation.type": "process",
        "messaging.destination.name": channel,
    }
    return traced("deliver", take, *arguments, kind="consumer", attributes=attributes, parent=parent, found=_tellRecipients)


def _tellRecipients(span: Any, count: int) -> None:
    span.set_attribute("twisted_ws.recipients", count)


def start(
    name: str,
    kind: str = "internal",
    attributes: Mapping[str, Any] | None = None,
    parent: Any = None,
    linked: Iterable[Any] = (),
) -> Any:
    """Begin a span.

    Args:
        name: of few: no name of a channel or user, which are attributes.
        kind: internal, server, client, producer or consumer.
        attributes: what is known of it.
        parent: the context that it is a part of; None: the current one.
        linked: links to other spans.
    """
    return tracer.start_span(name, parent, _kinds[kind], attributes, list(linked))


def finish(span: Any, error: BaseException | None = None, status: int = 0) -> None:
    """End a span.

    Args:
        span: the span.
        error: what it has failed with. Only its type is noted: its text may be somebody's data.
        status: of an HTTP response; 0 without one.
    """
    if status:
        span.set_attribute("http.response.status_code", status)
    if error is not None:
        span.set_attribute("error.type", type(error).__qualname__)
        code = getattr(error, "code", None) or getattr(error, "status", None)
        if isinstance(code, (str, int)):
            span.set_attribute("twisted_ws.code", code)
        _mark(error, span)
    # A refusal, or a peer that has left, is not an error.
    if status >= 500 or (error is not None and not isinstance(error, CancelledError) and not hasattr(error, "status")):
        span.set_status(_trace.StatusCode.ERROR)
    span.end()


def traced(
    name: str,
    call: Callable[..., Any],
    *arguments: Any,
    kind: str = "internal",
    attributes: Mapping[str, Any] | None = None,
    parent: Any = None,
    linked: Iterable[Any] = (),
    found: Callable[[Any, Any], None] | None = None,
) -> Any:
    """Return what `call` returns, and make a span of it, which ends with the Deferred or coroutine that it returns.

    The other arguments are those of `start`, and `found`, which is called with the span and the result before the span ends.

    Returns:
        The result; for a coroutine, a Deferred of its result.
    """
    span = start(name, kind, attributes, parent, linked)
    token = _context.attach(_trace.set_span_in_context(span, parent))
    try:
        result = call(*arguments)
        if iscoroutine(result):
            result = Deferred.fromCoroutine(result)
    except BaseException as error:
        finish(span, error)
        raise
    finally:
        _context.detach(token)
    if isinstance(result, Deferred):
        return result.addBoth(_ended, span, found)
    if found is not None:
        found(span, result)
    finish(span)
    return result


def within(span: Any, call: Callable[..., Any], *arguments: Any, parent: Any = None) -> Any:
    """Return what `call` returns; what it does, and what it begins, is a part of a span that goes on."""
    token = _context.attach(_trace.set_span_in_context(span, parent))
    try:
        return call(*arguments)
    finally:
        _context.detach(token)


def waiting(name: str, later: Deferred[Any], attributes: Mapping[str, Any] | None = None) -> Deferred[Any]:
    """Return a Deferred that another server will answer, and make a span of the wait if it is a part of one.

    Else it is a chore of ours, such as a heartbeat.
    """
    if not _trace.get_current_span().get_span_context().is_valid:
        return later
    return later.addBoth(_ended, start(name, "client", attributes), None)


def _ended(result: Any, span: Any, found: Callable[[Any, Any], None] | None) -> Any:
    isFailure = isinstance(result, Failure)
    if found is not None and not isFailure:
        found(span, result)
    finish(span, result.value if isFailure else None)
    return result


# Where an exception has the span in which it was raised: its log line is written by a callback, outside of it.
_MARK = "_twisted_ws_span"


def _mark(error: BaseException, span: Any) -> None:
    try:
        if not hasattr(error, _MARK):
            setattr(error, _MARK, span.get_span_context())
    except Exception:
        pass  # of a class that has no room for it


def ofError(error: object) -> dict[str, Any]:
    """Return the fields `trace` and `span` of the log for an exception; none without OpenTelemetry."""
    return {} if tracer is None else _ids(getattr(error, _MARK, None))


def ofSpan(span: Any) -> dict[str, Any]:
    """Return the same for a span, or None."""
    return {} if tracer is None or span is None else _ids(span.get_span_context())


def ofContext() -> dict[str, Any]:
    """Return the same for what is current."""
    return {} if tracer is None else _ids(_trace.get_current_span().get_span_context())


def _ids(found: Any) -> dict[str, Any]:
    if found is None or not found.is_valid:
        return {}
    return {"trace": format(found.trace_id, "032x"), "span": format(found.span_id, "016x")}
