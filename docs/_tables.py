"""Tables of the reference, generated from the code at each build, so that they are never out of date."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import twisted_ws
from bench.chart import chart
from bench.figures import middle
from bench.report import facts, figure
from bench.results import Results
from bench.workloads import WORKLOADS
from twisted_ws.closecodes import CHANNELS, CLOSES, Again, Close
from twisted_ws.daemon.settings import KEYS
from twisted_ws.limits import Limits
from twisted_ws.metrics.declared import METRICS
from twisted_ws.telemetry.events import EVENTS
from twisted_ws.telemetry.records import FIELDS, Record

# These are not settings of the file, so `KEYS` does not have them.
_FLAGS_ONLY = (
    ("--config FILE", "", "TOML file with these settings and one table for each service"),
    (
        "--service PATH=TARGET",
        "`/ws=demo`, `/channels/{channel}=channels`, `/channels=channels`, the page's `/playground`",
        "a service and where it is mounted; repeatable",
    ),
    (
        "--auth METHOD:ARGUMENTS",
        "none",
        "who may publish, by password (Twisted's strcred); repeatable; `--help-auth` lists the methods",
    ),
    ("--help-services", "", "list the installed services, and exit"),
    ("--version", "", "show the version, and exit"),
)
_UNITS = {"bytes": ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))}


def size(value: float, unit: str) -> str:
    """Return a default with its unit, as a person would write it."""
    for factor, name in _UNITS.get(unit, ()):
        if value >= factor and value % factor == 0:
            return f"{value / factor:g} {name}"
    return f"{value:g} {unit}"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _prose(text: str) -> str:
    """Return a text for people as Markdown: its flags are code, so that no two hyphens become a dash."""
    return re.sub(r"(?<![`\w])--[a-z][\w-]*", r"`\g<0>`", re.sub(r"[*<>]", r"\\\g<0>", text))


def options() -> str:
    """Return the table of the settings, from `KEYS`."""
    lines = [_row("option and key", "default", "meaning"), _row("---", "---", "---")]
    for key in KEYS:
        default = f"`{key.default}`" if key.default.startswith(("$", "8")) else key.default or "none"
        lines.append(_row(f"`{key.name}`" + (" (list)" if key.isList else ""), default, _prose(key.help)))
    return "\n".join(lines)


def flags() -> str:
    """Return the table of the flags that are not settings of the file."""
    lines = [_row("flag", "default", "meaning"), _row("---", "---", "---")]
    lines += [_row(f"`{name}`", default, meaning) for name, default, meaning in _FLAGS_ONLY]
    return "\n".join(lines)


def limits() -> str:
    """Return the table of the limits, from the fields of `Limits`."""
    flagOf = {key.field: key.name for key in KEYS if key.isLimit}
    lines = [_row("key in `[limits]`", "default", "beyond it", "reason"), _row("---", "---", "---", "---")]
    for each in fields(Limits):
        unit, zero = each.metadata["unit"], each.metadata["zero"]
        value = f"0: {zero}" if each.default == 0 else size(each.default, unit) + (f" (0: {zero})" if zero else "")
        flag = f"; also `--{flagOf[each.name]}`" if each.name in flagOf else ""
        lines.append(_row(f"`{each.name}`{flag}", value, each.metadata["beyond"] or "—", each.metadata["reason"]))
    return "\n".join(lines)


def _reconnects(close: Close) -> tuple[str, str]:
    """Return whether the Python client and ``twisted-ws.js`` reconnect after a close code."""
    python = close.again is not Again.NO
    return "yes" if python else "no", "yes" if (python if close.browser is None else close.browser) else "no"


def closes() -> str:
    """Return the table of the close codes that are sent, from `CLOSES`."""
    lines = [_row("code", "reason", "sent when", "reconnect?", "`Retry`", "`twisted-ws.js`"), _row(*["---"] * 6)]
    for each in CLOSES:
        if each.isSent:
            lines.append(_row(str(int(each.code)), each.reason, each.cause, each.advice or each.again.value, *_reconnects(each)))
    lines.append(_row("3000-4999", "your own", "registered with IANA (3xxx), or private (4xxx)", "your choice", "no", "no"))
    return "\n".join(lines)


def reported() -> str:
    """Return the table of the close codes that are reported but never sent."""
    lines = [_row("code", "means", "reconnect?", "`Retry`", "`twisted-ws.js`"), _row(*["---"] * 5)]
    for each in CLOSES:
        if not each.isSent:
            lines.append(_row(str(int(each.code)), each.cause, each.advice or each.again.value, *_reconnects(each)))
    return "\n".join(lines)


def channelCloses() -> str:
    """Return the table of the close codes of channels, from `CHANNELS`."""
    lines = [_row("code", "reason", "error", "reconnect?", "`twisted-ws.js`"), _row(*["---"] * 5)]
    for each in CHANNELS:
        lines.append(_row(str(each.code), each.reason, each.cause, each.advice or "no", _reconnects(each)[1]))
    return "\n".join(lines)


def logFields() -> str:
    """Return the table of the fields of a line of the log, from `Record`."""
    lines = [_row("field", "meaning"), _row("---", "---")]
    for name, kind in get_type_hints(Record, include_extras=True).items():
        lines.append(_row(f"`{name}`", kind.__metadata__[0].description))
    return "\n".join(lines)


def logEvents() -> str:
    """Return the catalogue of the log's events, from `EVENTS` and the calls in the source."""
    from _logcalls import logCalls  # beside this file

    calls = list(logCalls(Path(twisted_ws.__file__).parent))
    lines = [_row("event", "level", "what has happened", "fields"), _row("---", "---", "---", "---")]
    for event, meaning in EVENTS.items():
        of = [call for call in calls if call.event == event]
        levels = [level for level in ("debug", "info", "warn", "error", "critical") if any(call.level == level for call in of)]
        if not of:  # of the pipe between processes, which has no logger
            levels = ["warn"]
        names = [name for name in FIELDS if any(name in call.names for call in of)]
        lines.append(_row(f"`{event}`", ", ".join(levels), meaning, ", ".join(f"`{name}`" for name in names)))
    return "\n".join(lines)


def metrics() -> str:
    """Return the table of the metrics, from `METRICS`."""
    lines = [_row("name", "type", "labels", "what it says"), _row(*["---"] * 4)]
    for each in METRICS:
        labels = ", ".join(f"`{label}`" for label in each.labels) or "—"
        lines.append(_row(f"`{each.fullName}`", each.kind.value, labels, each.help))
    return "\n".join(lines)


# What the comparison shows of the benchmark: servers that others use for the same, and works that most of them do.
_COMPARED = ("twisted_ws", "pure", "nchan", "picows", "websockets", "ws", "stock")
_RESULTS = Path(__file__).parent.parent / "bench" / "results.json"
_WORK = ("fanout", "echo", "connects", "idle", "tls-fanout")


def compared() -> str:
    """Return what was measured of the servers that the comparison is about, from the results of the benchmark."""
    results = Results.load(_RESULTS)
    rows = {row.key: row for workload in WORKLOADS for row in workload.rows}
    titles = {**results.peers, "ws": "ws (Node.js), without Socket.IO"}
    lines = [_row("server", *(rows[key].title for key in _WORK)), _row("---", *["---:"] * len(_WORK))]
    for peer in _COMPARED:
        found = [figure(middle(results.figures[key].get(peer)), rows[key].unit) for key in _WORK]
        lines.append(_row(titles[peer], *found))
    return "\n".join([*lines, "", facts(results)])


TABLES = {
    "compared": compared,
    "log-events": logEvents,
    "log-fields": logFields,
    "options": options,
    "flags": flags,
    "limits": limits,
    "closes": closes,
    "reported-closes": reported,
    "channel-closes": channelCloses,
    "metrics": metrics,
}


class Table(SphinxDirective):
    """``table-of``: one of the tables above, by name."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        self.env.note_dependency(__file__)
        table = TABLES[self.arguments[0]]
        container = nodes.container(classes=[f"table-of-{self.arguments[0]}"])
        self.state.nested_parse(StringList(table().splitlines(), source=str(Path(__file__))), 0, container)
        return [container]


class Bars(SphinxDirective):
    """``bars-of``: the results of the benchmark, as bars."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the bars."""
        self.env.note_dependency(str(_RESULTS))
        rows = [row for workload in WORKLOADS for row in workload.rows]
        return [nodes.raw("", chart(rows, Results.load(_RESULTS)), format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("table-of", Table)
    app.add_directive("bars-of", Bars)
    return {"parallel_read_safe": True}
