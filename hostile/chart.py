"""Draw a soak test: memory and descriptors over connections. Pure; the colours suit light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["chart"]

WIDTH, HEIGHT, GAP = 944, 150, 44
LEFT, RIGHT, HEAD = 64, 12, 28  # the space for the figures beside the picture, and for its title
TEXT = "#768390"
GRID = "#76839040"
LINE = "#2f81f7"
STYLE = f"text{{font:12px system-ui,sans-serif;fill:{TEXT}}}.t{{font-weight:600;font-size:13px}}"
STEPS = 4


def chart(samples: Sequence[Sequence[float]]) -> str:
    """Return an SVG picture of the samples of a soak test."""
    counts = [sample[0] for sample in samples]
    panels = {
        "resident memory, MiB": [sample[1] / (1 << 20) for sample in samples],
        "descriptors": [sample[2] for sample in samples],
    }
    title = "Memory and descriptors of the daemon, by connections made and closed"
    drawn: list[str] = []
    for index, (name, values) in enumerate(panels.items()):
        drawn += [f'<g transform="translate(0,{index * (HEAD + HEIGHT + GAP)})">', *_panel(name, counts, values), "</g>"]
    height = len(panels) * (HEAD + HEIGHT + GAP)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">',
            f"<title>{title}</title>",
            f"<style>{STYLE}</style>",
            *drawn,
            "</svg>",
            "",
        ]
    )


def _round(value: float) -> float:
    """Return the next round number above: 1, 2, 4 or 5 with zeros."""
    power = 1.0
    while power * 10 <= value:
        power *= 10
    return next(power * factor for factor in (1, 2, 4, 5, 10) if power * factor >= value)


def _panel(name: str, counts: Sequence[float], values: Sequence[float]) -> list[str]:
    """Draw one line over a grid that begins at 0."""
    top, last = _round(max(values) or 1), max(counts[-1], 1)
    width = WIDTH - LEFT - RIGHT
    lines = [f'<text class="t" x="0" y="14">{name}</text>']
    for step in range(STEPS + 1):
        y = HEAD + HEIGHT - HEIGHT * step / STEPS
        x = LEFT + width * step / STEPS
        anchor = "end" if step == STEPS else "middle"
        lines += [
            f'<path d="M{LEFT} {y:g}H{WIDTH - RIGHT}" stroke="{GRID}"/>',
            f'<text x="{LEFT - 8}" y="{y + 4:g}" text-anchor="end">{top * step / STEPS:,.4g}</text>',
            f'<text x="{x:g}" y="{HEAD + HEIGHT + 18}" text-anchor="{anchor}">{last * step / STEPS:,.0f}</text>',
        ]
    points = " ".join(
        f"{LEFT + width * count / last:.1f},{HEAD + HEIGHT - HEIGHT * value / top:.1f}"
        for count, value in zip(counts, values, strict=True)
    )
    return [*lines, f'<polyline points="{points}" fill="none" stroke="{LINE}" stroke-width="1.5"/>']
