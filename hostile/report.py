"""Results as text: lines for the terminal, and Markdown for the documentation. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hostile.attack import Attack

__all__ = ["attackLine", "attacks", "filled", "machine", "wait"]

MIB = 1 << 20


def wait(seconds: float) -> str:
    """Return a time as people read it."""
    return f"{seconds * 1000:,.0f} ms" if seconds < 10 else f"{seconds:,.0f} s"


def attackLine(row: Mapping[str, Any]) -> str:
    """Return what came of an attack as a line for the terminal, and a line more for each fault."""
    good = row["good"]
    bad = good["lost"] + good["doubled"] + good["disordered"]
    memory = "/".join(f"{size // MIB}" for size in row["memory"])
    descriptors = "/".join(f"{count}" for count in row["descriptors"])
    cells = (
        f"{row['name']:32}{row['got'][:58]:60}{bad:>6}{len(good['closed']):>8}",
        f"{wait(good['longest']):>11}{memory:>14}{descriptors:>16}{row['cpu']:>6.1f}{row['seconds']:>6.0f} s",
    )
    return "\n".join(["".join(cells), *(f"    FAULT: {fault}" for fault in row["faults"])])


HEAD = (
    f"{'attack':32}{'the attacker got':60}{'amiss':>6}{'closed':>8}{'longest':>11}"
    f"{'MiB':>14}{'descriptors':>16}{'cpu':>6}{'took':>8}"
)


def grid(head: Sequence[str], lines: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """Return a table in Markdown, with so many columns that stand on the left."""
    marks = ["---"] * left + ["---:"] * (len(head) - left)
    return ["| " + " | ".join(cells) + " |" for cells in (head, marks, *lines)]


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;")


def attacks(known: Iterable[Attack], rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table of the attacks for each kind."""
    parts: dict[str, list[Sequence[str]]] = {}
    for each in known:
        row = rows.get(each.name)
        if row is None:
            continue
        good = row["good"]
        parts.setdefault(each.group, []).append(
            (
                f"**{_cell(each.name)}**: {_cell(each.sentence)}",
                _cell(row["got"])
                if not row["faults"]
                else f"{_cell(row['got'])} (**not held**: {_cell('; '.join(row['faults']))})",
                f"{good['lost']} / {good['doubled']} / {good['disordered']}",
                str(len(good["closed"])),
                wait(good["longest"]),
                " / ".join(f"{size / MIB:.0f}" for size in row["memory"]),
                f"{row['descriptors'][0]} / {row['descriptors'][2]}",
            )
        )
    head = ("attack", "the attacker got", "lost / doubled / disordered", "closed", "longest wait", "MiB", "descriptors")
    lines: list[str] = []
    for group, cells in parts.items():
        lines += [f"### {group.capitalize()}", "", *grid(head, cells, left=2), ""]
    count = sum(map(len, parts.values()))
    held = sum(not rows[each.name]["faults"] for each in known if each.name in rows)
    good = [row["good"] for row in rows.values()]
    delivered = sum(each["delivered"] for each in good)
    bad = sum(each["lost"] + each["doubled"] + each["disordered"] for each in good)
    told = f"{held} of {count} held; of {delivered:,} messages to good clients {bad:,} were lost, doubled or out of order."
    return "\n".join([told, "", *lines]).rstrip()


def machine(date: str, facts: Mapping[str, str]) -> str:
    """Return when and on what it was found."""
    return (
        f"Run on {date}: {facts.get('cores', '?')} cores of {facts.get('processor', '?')}, {facts.get('memory', '?')}, "
        f"{facts.get('system', '?')}, Linux {facts.get('kernel', '?')}, Python {facts.get('python', '?')}."
    )


def begin(name: str) -> str:
    """Return the mark before a part of the page."""
    return f"<!-- {name}: written by python -m hostile --write-docs -->"


def end(name: str) -> str:
    """Return the mark behind a part of the page."""
    return f"<!-- end of {name} -->"


def filled(page: str, parts: Mapping[str, str]) -> str:
    """Return a page with new content between the marks of each part.

    Raises:
        ValueError: it does not have them.
    """
    for name, content in parts.items():
        before, first, rest = page.partition(begin(name))
        _, last, after = rest.partition(end(name))
        if not first or not last:
            raise ValueError(f"the page has no place for {name}")
        page = f"{before}{first}\n\n{content}\n\n{last}{after}"
    return page
