"""What a scrape has, compared with the declarations."""

from __future__ import annotations

from collections.abc import Collection

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openFamilies
from prometheus_client.parser import text_string_to_metric_families as families

from twisted_ws.metrics.declared import METRICS, Metric

BY_FAMILY = {each.family: each for each in METRICS}
# What only a daemon knows, with TLS, an audit log, workers, or an outbox.
OF_A_DAEMON = frozenset(
    (
        *("tls_handshakes", "log_lines_lost", "audit_lines_lost", "certificate_expiry_timestamp_seconds", "workers"),
        "engine_seconds",
        *("outbox_up", "outbox_waiting", "outbox_lag_seconds", "outbox_published", "outbox_refused"),
    )
)


def wrong(text: str, expected: Collection[Metric], isOpen: bool = False, others: Collection[str] = ()) -> list[str]:
    """Return what is wrong with a scrape: a metric that is expected and has no value, has no help, or is not declared.

    Those of a service are `others`.
    """
    found, problems = set(), []
    for each in (openFamilies if isOpen else families)(text):
        metric = BY_FAMILY.get(each.name)
        if each.name.startswith(tuple(others)):  # it has a time of creation beside it
            continue
        if metric is None:
            problems.append(f"{each.name} is not declared")
            continue
        if not each.documentation:
            problems.append(f"{each.name} has no help")
        if each.type != metric.kind.value:
            problems.append(f"{each.name} is a {each.type}")
        if each.samples:
            found.add(each.name)
    return problems + [f"{each.family} has no value" for each in expected if each.family not in found]


def values(text: str, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """Return the samples of a name, by their labels."""
    return {
        tuple(sorted(each.labels.items())): each.value
        for family in families(text)
        for each in family.samples
        if each.name == name
    }
