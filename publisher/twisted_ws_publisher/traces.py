"""The trace that a call is a part of, if the program uses OpenTelemetry; this distribution does not depend on it."""

from __future__ import annotations

import sys
from collections.abc import Mapping


def trace_headers() -> Mapping[str, str]:
    """Return the headers that name the current span to the server, such as ``traceparent``; none without OpenTelemetry."""
    if "opentelemetry.trace" not in sys.modules:
        return {}  # nobody here has begun a span
    carrier: dict[str, str] = {}
    try:
        from opentelemetry import propagate

        propagate.inject(carrier)
    except Exception:
        return {}  # a trace is never worth a message
    # A propagator of the program's own may write anything.
    return {name: value for name, value in carrier.items() if f"{name}{value}".isascii() and f"{name}{value}".isprintable()}
