"""Results as text: a table for the terminal, and Markdown for the documentation. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bench.figures import Row, Verdict, judge, middle, ratio
from bench.results import Results

__all__ = ["BEGIN", "END", "facts", "figure", "filled", "markdown", "text"]

BEGIN = "<!-- Written by python -m bench --write-docs from bench/results.json: -->"
END = "<!-- End of what is written. -->"


def figure(value: float | None, unit: str) -> str:
    """Return a figure formatted for people; "-" for none."""
    if value is None:
        return "-"
    match unit:
        case "/s":
            return f"{value:,.0f}/s"
        case "bytes":
            return f"{value:,.0f} B"
        case "us":
            return f"{value:,.0f} µs" if value >= 100 else f"{value:.2f} µs"
        case _:
            return f"{value:.2f}"


def _spread(values: Sequence[float]) -> str:
    """Return the spread of the rounds, as a share of their median."""
    center = middle(values)
    return f"{(max(values) - min(values)) / center:.0%}" if center and len(values) > 1 else "-"


def _target(verdict: Verdict, peers: Mapping[str, str]) -> tuple[str, str, str, str, str]:
    row, target = verdict.row, verdict.target
    unit = "x" if target.against else row.unit
    sign = "at most" if row.less else "at least"
    against = f" of {peers.get(target.against, target.against)}" if target.against else ""
    bound = f"{sign} {figure(target.bound, unit)}{against}"
    return (
        row.title,
        peers.get(target.peer, target.peer),
        bound,
        figure(verdict.reached, unit),
        "met" if verdict.met else "missed",
    )


def _targets(rows: Sequence[Row], results: Results) -> list[tuple[str, str, str, str, str]]:
    verdicts = judge(rows, results.figures)
    return [_target(verdict, results.peers) for verdict in verdicts if verdict.reached is not None]


def text(rows: Sequence[Row], results: Results) -> str:
    """Return the whole report for a terminal.

    For each row and peer: the median and spread of the rounds, the ratios to the yardstick and to picows, and the share of its
    core that the server used. Then the targets.
    """
    lines = []
    for row in rows:
        found = results.figures.get(row.key)
        if not found:
            continue
        less = ", less is better" if row.less else ""
        lines.append(f"{row.title + less:56}{'median':>14}{'spread':>8}{'/yardstick':>12}{'/picows':>9}{'busy':>6}")
        for key, title in results.peers.items():
            if key in found:
                ratios = [figure(ratio(found, key, against), "x") for against in ("yardstick", "picows")]
                busy = figure(middle(results.details.get(f"{row.key} busy", {}).get(key)), "x")
                cells = f"{figure(middle(found[key]), row.unit):>14}{_spread(found[key]):>8}"
                lines.append(f"  {title:54}{cells}{ratios[0]:>12}{ratios[1]:>9}{busy:>6}")
    targets = _targets(rows, results)
    if targets:
        lines.append("targets")
    for title, who, bound, reached, word in targets:
        lines.append(f"  {title:46} {who:24}{bound:36}{reached:>12}  {word if word == 'met' else word.upper()}")
    return "\n".join(lines)


def _grid(head: Sequence[str], lines: Iterable[Sequence[str]], words: int = 1) -> list[str]:
    """Return a table whose first columns are words, and the others figures."""
    rule = ["---"] * words + ["---:"] * (len(head) - words)
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *lines)]


def compared(rows: Iterable[Row], results: Results) -> list[Row]:
    """Return the rows that compare servers, not a server with itself."""
    return [row for row in rows if len(results.figures.get(row.key, {})) > 2]


def _servers(rows: Sequence[Row], results: Results, turned: bool = False) -> list[str]:
    """Return a table of medians with one line for each server; if `turned`, with one line for each row."""
    there = [key for key in results.peers if any(key in results.figures[row.key] for row in rows)]
    titles = [results.peers[key] for key in there]
    cells = [[figure(middle(results.figures[row.key].get(key)), row.unit) for key in there] for row in rows]
    if turned:
        return _grid(("work", *titles), [(row.title, *line) for row, line in zip(rows, cells, strict=True)])
    lines = zip(titles, *cells, strict=True)
    return _grid(("server", *(row.title for row in rows)), lines)


def markdown(rows: Sequence[Row], results: Results) -> str:
    """Return the targets, the figures of each server, and the machine and versions."""
    many = compared(rows, results)
    few = [row for row in rows if row not in many and results.figures.get(row.key)]
    lines = _grid(("work", "who", "must reach", "reached", "result"), _targets(rows, results), words=3)
    for part in (many[: len(many) // 2], many[len(many) // 2 :]):
        if part:
            lines += ["", *_servers(part, results)]
    if few:
        lines += ["", *_servers(few, results, turned=True)]
    lines += ["", *_where(rows, results), ""]
    lines += [f"- {results.peers[key]}: {version}" for key, version in results.versions.items() if version]
    return "\n".join(lines)


def _where(rows: Sequence[Row], results: Results) -> list[str]:
    """Return a paragraph for each run of which there are rows, the last one first; all but the last name their rows."""
    found: dict[str, list[str]] = {facts(results): []}
    for row in rows:
        if row.key in results.figures:
            found.setdefault(results.where.get(row.key, facts(results)), []).append(row.title)
    first, *others = found
    paragraphs = [f"{first[:-1]}; except for what follows." if others else first]
    for each in others:
        paragraphs += ["", f"{each} These are: {'; '.join(found[each])}."]
    return paragraphs


def facts(results: Results) -> str:
    """Return when, where and how the results were measured."""
    machine, effort = results.machine, results.effort
    return (
        f"Measured on {results.date}: {machine.get('cores', '?')} cores of {machine.get('processor', '?')}, "
        f"{machine.get('memory', '?')}, {machine.get('system', '?')}, Linux {machine.get('kernel', '?')}, "
        f"Python {machine.get('python', '?')}; medians of {effort.get('rounds', 0):g} rounds of {effort.get('seconds', 0):g} s."
    )


def filled(page: str, content: str) -> str:
    """Return the page with new content between the two marks.

    Raises:
        ValueError: the page does not have them.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the page has no place for the figures")
    return f"{before}{BEGIN}\n\n{content}\n\n{END}{after}"
