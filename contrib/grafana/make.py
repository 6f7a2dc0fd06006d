#!/usr/bin/env python3
"""Write twisted-ws.json, the Grafana dashboard: seven rows of panels, each panel a line below."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# Each query sees what is chosen above the dashboard.
CHOSEN = 'job=~"$job",instance=~"$instance"'
HEIGHT, WIDTH = 7, 24


def rate(name: str, by: str = "", more: str = "") -> str:
    """Return the rate of a counter, added up by some labels."""
    return f"sum by ({by}) (rate(twisted_ws_{name}_total{{{CHOSEN}{more}}}[$__rate_interval]))"


def gauge(name: str, by: str = "", more: str = "") -> str:
    """Return a gauge, added up by some labels."""
    return f"sum by ({by}) (twisted_ws_{name}{{{CHOSEN}{more}}})"


def quantile(share: float, name: str, by: str = "") -> str:
    """Return a quantile of a histogram."""
    labels = ", ".join(["le", *([by] if by else [])])
    return f"histogram_quantile({share}, sum by ({labels}) (rate(twisted_ws_{name}_bucket{{{CHOSEN}}}[$__rate_interval])))"


def quantiles(name: str) -> list[tuple[str, str]]:
    """Return the median and the 99th percentile."""
    return [(quantile(0.5, name), "p50"), (quantile(0.99, name), "p99")]


def process(name: str) -> str:
    """Return a number of the process, by worker."""
    return f"sum by (instance, worker) ({name}{{{CHOSEN}}})"


# A row: its panels, as title, unit, and queries with their legends.
Panels = list[tuple[str, str, list[tuple[str, str]]]]
EACH = "{{instance}} {{worker}}"
ROWS: dict[str, Panels] = {
    "Now": [
        ("Connections", "short", [(gauge("connections", "transport"), "{{transport}}")]),
        ("Published", "cps", [(rate("published", "source"), "{{source}}")]),
        ("Deliveries", "cps", [(rate("deliveries"), "to many"), (rate("messages_sent"), "to one")]),
        ("Delivery latency", "s", quantiles("delivery_seconds")),
    ],
    "Connections": [
        ("Opened and closed", "cps", [(rate("connections_opened"), "opened"), (rate("connections_closed"), "closed")]),
        ("Closed by code", "cps", [(rate("connections_closed", "code, by"), "{{code}} by {{by}}")]),
        ("Refused", "cps", [(rate("connections_refused", "reason"), "{{reason}}")]),
        ("Handshakes", "s", quantiles("handshake_seconds")),
    ],
    "Messages": [
        ("Received", "cps", [(rate("messages_received"), "messages")]),
        ("Bytes", "Bps", [(rate("received_bytes"), "received"), (rate("delivered_bytes"), "delivered")]),
        ("By namespace", "cps", [(rate("published", "namespace"), "{{namespace}}")]),
        ("Refused publications", "cps", [(rate("publish_errors", "code"), "{{code}}")]),
        ("Outbox", "s", [(gauge("outbox_lag_seconds"), "oldest row")]),
    ],
    "Slow clients and the past": [
        ("Behind", "short", [(gauge("subscribers_behind"), "clients")]),
        ("Wait of those behind", "s", quantiles("delivery_wait_seconds")),
        ("Dropped", "cps", [(rate("messages_dropped", "policy"), "{{policy}}"), (rate("slow_consumers"), "clients ended")]),
        ("Resumed", "cps", [(rate("resumes", "result"), "{{result}}"), (rate("resumed_messages"), "messages")]),
    ],
    "Who it is, and services": [
        ("Authentications", "cps", [(rate("authentications", "by, result"), "{{by}} {{result}}")]),
        ("Asking a back end", "s", quantiles("authentication_seconds")),
        ("Handlers that wait", "s", [(quantile(0.99, "handler_seconds", "service, event"), "{{service}}.{{event}} p99")]),
        ("Errors of handlers", "cps", [(rate("handler_errors", "service, event"), "{{service}}.{{event}}")]),
    ],
    "HTTP and channels": [
        ("Requests", "cps", [(rate("http_requests", "operation, status"), "{{operation}} {{status}}")]),
        ("Latency", "s", quantiles("http_request_seconds")),
        ("Channels and subscriptions", "short", [(gauge("channels"), "channels"), (gauge("subscriptions"), "subscriptions")]),
        ("History", "bytes", [(gauge("history_bytes"), "bytes")]),
    ],
    "Process": [
        ("Reactor lag", "s", [(quantile(0.99, "reactor_lag_seconds", "instance, worker"), EACH)]),
        ("Processor", "percentunit", [(f"rate(process_cpu_seconds_total{{{CHOSEN}}}[$__rate_interval])", EACH)]),
        ("Memory", "bytes", [(process("process_resident_memory_bytes"), EACH)]),
        ("Waiting bytes", "bytes", [(gauge("send_queue_bytes"), "waiting"), (gauge("send_queue_limit_bytes"), "limit")]),
    ],
}


def variable(name: str, of: str) -> dict[str, Any]:
    """Return a choice above the dashboard, made from the values of a label."""
    query = f"label_values({of}, {name})"
    source = {"type": "prometheus", "uid": "$datasource"}
    more = {"multi": True, "includeAll": True, "current": {"text": "All", "value": "$__all"}, "refresh": 2, "sort": 1}
    return {"name": name, "type": "query", "datasource": source, "query": query, "definition": query, **more}


def panels() -> list[dict[str, Any]]:
    """Return all rows and panels, numbered and placed."""
    made: list[dict[str, Any]] = []
    for number, (title, row) in enumerate(ROWS.items()):
        y = number * (HEIGHT + 1)
        made.append({"type": "row", "title": title, "id": len(made) + 1, "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}})
        width = WIDTH // len(row)
        for place, (name, unit, queries) in enumerate(row):
            targets = [
                {"refId": chr(ord("A") + index), "expr": query, "legendFormat": legend}
                for index, (query, legend) in enumerate(queries)
            ]
            made.append(
                {
                    "type": "timeseries",
                    "title": name,
                    "id": len(made) + 1,
                    "datasource": {"type": "prometheus", "uid": "$datasource"},
                    "gridPos": {"x": place * width, "y": y + 1, "w": width, "h": HEIGHT},
                    "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": {"fillOpacity": 8}}, "overrides": []},
                    "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
                    "targets": targets,
                }
            )
    return made


def dashboard() -> str:
    """Return the dashboard as a file has it."""
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    choices = [source, variable("job", "twisted_ws_build_info"), variable("instance", 'twisted_ws_build_info{job=~"$job"}')]
    made = {
        "title": "twisted-ws",
        "uid": "twisted-ws",
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": choices},
        "panels": panels(),
    }
    return json.dumps(made, indent=1) + "\n"


if __name__ == "__main__":
    (Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).with_name("twisted-ws.json")).write_text(dashboard())
