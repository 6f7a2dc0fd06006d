"""What a server has done and how it is, for whoever watches it; `twisted_ws.telemetry.counts` counts the numbers themselves.

A program that has a server in it and a registry of prometheus_client: ``REGISTRY.register(Collector(server))``.
"""

from typing import Any

__all__ = ["Collector"]


def __getattr__(name: str) -> Any:
    """Load prometheus_client with what needs it: it takes a tenth of a second."""
    if name == "Collector":
        from twisted_ws.metrics.collector import Collector

        return Collector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
