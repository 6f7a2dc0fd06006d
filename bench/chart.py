"""Draw the results: a panel for each row, with a bar for each server, as HTML whose colours and width are the page's. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from bench.figures import Row, middle
from bench.report import compared, figure
from bench.results import Results

__all__ = ["chart"]


def chart(rows: Sequence[Row], results: Results, ours: Sequence[str] = ("twisted_ws", "pure")) -> str:
    """Return HTML with the rows that compare servers; the bars of `ours` stand out, and the best of each row comes first."""
    when = f"{results.date}, {results.machine.get('cores', '?')} cores of {results.machine.get('processor', '?')}"
    panels = [_panel(row, results.figures[row.key], results.peers, when, ours) for row in compared(rows, results)]
    return "\n".join(['<div class="bars">', *panels, "</div>", ""])


def _panel(row: Row, found: Mapping[str, Sequence[float]], peers: Mapping[str, str], when: str, ours: Sequence[str]) -> str:
    values = sorted(((middle(values) or 0.0, key) for key, values in found.items()), reverse=not row.less)
    most = max(value for value, _ in values) or 1.0
    title = f"{escape(row.title)}{' (less is better)' if row.less else ''}"
    lines = ["<table>", f'<caption>{title} <span class="bars-when">{escape(when)}</span></caption>']
    for value, key in values:
        kind = ' class="bars-ours"' if key in ours else ""
        bar = f'<span class="bar" style="width: {100 * value / most:.1f}%"></span>'
        name = escape(peers.get(key, key))
        lines.append(f'<tr{kind}><th scope="row">{name}</th><td>{bar}</td><td>{escape(figure(value, row.unit))}</td></tr>')
    return "\n".join([*lines, "</table>"])
