"""Draw the results: a panel for each row, with a bar for each server. Pure; the colours suit light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from bench.figures import Row, middle
from bench.report import compared, figure
from bench.results import Results

__all__ = ["chart"]

WIDTH, COLUMNS, GAP = 944, 2, 28
BAR, STEP, HEAD = 12, 18, 30
NAME, VALUE = 184, 76  # the space for the name to the left of the bars, and for the figure to their right
TEXT = "#768390"
FAINT = "#8b949e"
OURS = "#2f81f7"
STYLE = f"text{{font:12px system-ui,sans-serif;fill:{TEXT}}}.t{{font-weight:600;font-size:13px}}.o{{fill:{OURS};font-weight:600}}"


def chart(rows: Sequence[Row], results: Results, ours: Sequence[str] = ("twisted_ws", "pure")) -> str:
    """Return an SVG picture of the rows that compare servers; the bars of `ours` stand out."""
    panels = compared(rows, results)
    width = (WIDTH - (COLUMNS - 1) * GAP) / COLUMNS
    drawn: list[str] = []
    top = bottom = 0.0
    for index, row in enumerate(panels):
        column = index % COLUMNS
        if not column:
            top = bottom
        height = HEAD + STEP * len(results.figures[row.key]) + GAP / 2
        bottom = max(bottom, top + height)
        drawn.append(f'<g transform="translate({column * (width + GAP):g},{top:g})">')
        drawn += [*_panel(row, results.figures[row.key], results.peers, width, ours), "</g>"]
    title = "Servers compared, by work: the median figure of each"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom:g}" role="img" aria-label="{title}">',
            f"<title>{title}</title>",
            f"<style>{STYLE}</style>",
            *drawn,
            "</svg>",
            "",
        ]
    )


def _panel(
    row: Row, found: Mapping[str, Sequence[float]], peers: Mapping[str, str], width: float, ours: Sequence[str]
) -> list[str]:
    values = sorted(((middle(values) or 0.0, key) for key, values in found.items()), reverse=not row.less)
    most = max(value for value, _ in values) or 1.0
    room = width - NAME - VALUE
    lines = [f'<text class="t" x="0" y="16">{escape(row.title)}{" (less is better)" if row.less else ""}</text>']
    for number, (value, key) in enumerate(values):
        y = HEAD + STEP * number
        kind, colour = (' class="o"', OURS) if key in ours else ("", FAINT)
        length = max(room * value / most, 1.0)
        lines += [
            f'<text{kind} x="{NAME - 8}" y="{y + 10}" text-anchor="end">{escape(peers.get(key, key))}</text>',
            f'<rect x="{NAME}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" fill="{colour}"/>',
            f'<text{kind} x="{NAME + length + 6:.1f}" y="{y + 10}">{escape(figure(value, row.unit))}</text>',
        ]
    return lines
