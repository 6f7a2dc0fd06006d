"""Results as text: lines for the terminal, and Markdown for the documentation. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hostile.attack import Attack
from hostile.faults import Fault
from hostile.moves import Move
from hostile.outages import Outage

__all__ = [
    "attackLine",
    "attacks",
    "conformance",
    "faultLine",
    "faults",
    "filled",
    "machine",
    "outageLine",
    "outages",
    "soak",
    "soakLine",
    "wait",
]

MIB = 1 << 20


def wait(seconds: float) -> str:
    """Return a time formatted for people."""
    return f"{seconds * 1000:,.0f} ms" if seconds < 10 else f"{seconds:,.0f} s"


def attackLine(row: Mapping[str, Any]) -> str:
    """Return the result of an attack as a line for the terminal, followed by a line for each fault."""
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
    f"{'attack':32}{'the attacker got':60}{'bad':>6}{'closed':>8}{'longest':>11}"
    f"{'MiB':>14}{'descriptors':>16}{'cpu':>6}{'took':>8}"
)


def grid(head: Sequence[str], lines: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """Return a table in Markdown, with this many left-aligned columns."""
    marks = ["---"] * left + ["---:"] * (len(head) - left)
    return ["| " + " | ".join(cells) + " |" for cells in (head, marks, *lines)]


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;")


def attacks(known: Iterable[Attack], rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return one table of attacks for each kind."""
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
        lines += [f"### {'TLS' if group == 'tls' else group.capitalize()}", "", *grid(head, cells, left=2), ""]
    count = sum(map(len, parts.values()))
    held = sum(not rows[each.name]["faults"] for each in known if each.name in rows)
    good = [row["good"] for row in rows.values()]
    delivered = sum(each["delivered"] for each in good)
    bad = sum(each["lost"] + each["doubled"] + each["disordered"] for each in good)
    told = f"{held} of {count} held; of {delivered:,} messages to good clients {bad:,} were lost, doubled or out of order."
    return "\n".join([told, "", *lines]).rstrip()


COUNTS = ("delivered", "silent", "told", "doubled", "disordered")
FAULT_HEAD = f"{'fault':36}{'published':>11}{'delivered':>11}{'silent':>8}{'reported':>9}{'doubled':>9}{'order':>7}{'took':>8}"


def _sums(kinds: Iterable[Mapping[str, int]]) -> list[int]:
    kinds = list(kinds)
    return [sum(kind[name] for kind in kinds) for name in COUNTS]


def faultLine(row: Mapping[str, Any]) -> str:
    """Return the result of a fault as a line for the terminal, followed by a line for everything wrong."""
    delivered, silent, told, doubled, disordered = _sums(row["kinds"].values())
    line = f"{row['name']:36}{row['published']:>11,}{delivered:>11,}{silent:>8}{told:>9,}{doubled:>9}{disordered:>7}"
    return "\n".join([f"{line}{row['seconds']:>6.0f} s", *(f"    FAULT: {fault}" for fault in row["faults"])])


def faults(known: Iterable[Fault], rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table of the faults, and a table of the kinds of subscribers."""
    lines, kinds = [], {}
    for each in known:
        row = rows.get(each.name)
        if row is None:
            continue
        sums = _sums(row["kinds"].values())
        cells = f"{row['published']:,}", *(f"{count:,}" for count in sums)
        lines.append((f"**{_cell(each.name)}**: {_cell(each.sentence)}", *cells))
        for kind, counts in row["kinds"].items():
            kinds.setdefault(kind, []).append(counts)
    total = _sums(counts for found in kinds.values() for counts in found)
    published = sum(row["published"] for row in rows.values())
    lines.append(("all", f"{published:,}", *(f"{count:,}" for count in total)))
    head = ("delivered", "lost silently", "reported lost", "doubled", "out of order")
    by = [(kind, *(f"{count:,}" for count in _sums(found))) for kind, found in kinds.items()]
    return "\n".join([*grid(("fault", "published", *head), lines), "", *grid(("subscribers", *head), by)])


OUTAGE_HEAD = (
    f"{'fault':36}{'published':>10}{'delivered':>10}{'silent':>7}{'told':>7}"
    f"{'doubled':>8}{'order':>6}{'ended':>7}{'whole':>8}{'took':>7}"
)


def outageLine(row: Mapping[str, Any]) -> str:
    """Return the result of an outage as a line for the terminal, followed by a line for everything wrong."""
    delivered, silent, told, doubled, disordered = _sums(row["kinds"].values())
    ended = row["connects"] - row["subscribers"]
    line = f"{row['name']:36}{row['published']:>10,}{delivered:>10,}{silent:>7}{told:>7,}{doubled:>8}{disordered:>6}{ended:>7}"
    line += f"{row['whole']:>6.1f} s{row['seconds']:>5.0f} s"
    return "\n".join([line, *(f"    FAULT: {fault}" for fault in row["faults"])])


def outages(known: Iterable[Outage], rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table of the outages, and a table of the kinds of subscribers."""
    lines, kinds = [], {}
    for each in known:
        row = rows.get(each.name)
        if row is None:
            continue
        cells = f"{row['published']:,}", *(f"{count:,}" for count in _sums(row["kinds"].values()))
        ended = row["connects"] - row["subscribers"]
        wrong = f" (**not held**: {_cell('; '.join(row['faults']))})" if row["faults"] else ""
        name = f"**{_cell(each.name)}**: {_cell(each.sentence)}{wrong}"
        lines.append((name, *cells, f"{ended:,}", f"{row['whole']:.1f} s"))
        for kind, counts in row["kinds"].items():
            kinds.setdefault(kind, []).append(counts)
    head = ("delivered", "lost silently", "reported lost", "doubled", "out of order")
    by = [(kind, *(f"{count:,}" for count in _sums(found))) for kind, found in kinds.items()]
    table = grid(("fault", "published", *head, "reconnects", "whole after"), lines)
    return "\n".join([*table, "", *grid(("subscribers", *head), by)])


MOVE_HEAD = (
    f"{'move':24}{'clients':>9}{'published':>11}{'got':>11}{'closed':>8}{'lost':>6}{'doubled':>9}{'order':>7}"
    f"{'longest':>10}{'usual':>10}"
)
_NOTICED = ("closed", "lost", "doubled", "disordered")


def moveLine(row: Mapping[str, Any]) -> str:
    """Return the result of a move as a line for the terminal, followed by a line for everything wrong."""
    kinds = row["kinds"].values()
    got, (closed, lost, doubled, disordered) = sum(each["got"] for each in kinds), _noticed(kinds)
    line = (
        f"{row['name']:24}{row['clients']:>9,}{row['published']:>11,}{got:>11,}{closed:>8,}{lost:>6}{doubled:>9}{disordered:>7}"
    )
    line += f"{row['longest'] * 1000:>7.0f} ms{row['usual'] * 1000:>7.0f} ms"
    return "\n".join([line, *(f"    FAULT: {fault}" for fault in row["faults"])])


def _noticed(kinds: Iterable[Mapping[str, int]]) -> list[int]:
    kinds = list(kinds)
    return [sum(kind[name] for kind in kinds) for name in _NOTICED]


def moves(known: Iterable[Move], rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table of the moves, and one of the kinds of clients."""
    lines, by = [], {}
    for each in known:
        row = rows.get(each.name)
        if row is None:
            continue
        wrong = f" (**not held**: {_cell('; '.join(row['faults']))})" if row["faults"] else ""
        name = f"**{_cell(each.name)}**: {_cell(each.sentence)}{wrong}"
        times = f"{row['longest'] * 1000:,.0f} ms", f"{row['usual'] * 1000:,.0f} ms"
        cells = f"{row['clients']:,}", f"{row['published']:,}", *(f"{count:,}" for count in _noticed(row["kinds"].values()))
        lines.append((name, *cells, *times))
        for kind, counts in row["kinds"].items():
            by.setdefault(kind, []).append((row["name"], counts))
    head = ("closed", "lost", "doubled", "out of order")
    table = grid(("move", "connections", "published", *head, "longest delivery", "usual"), lines)
    kinds = [
        (kind, f"{sum(each['got'] for _, each in found):,}", *(f"{count:,}" for count in _noticed(each for _, each in found)))
        for kind, found in by.items()
    ]
    return "\n".join([*table, "", *grid(("clients", "messages", *head), kinds)])


def soakLine(sample: Sequence[float]) -> str:
    """Return a sample as a line for the terminal."""
    count, memory, descriptors, seconds = sample
    return f"{count:>12,} connects{memory / MIB:>8.1f} MiB{descriptors:>8} descriptors{seconds:>8.0f} s"


def soak(found: Mapping[str, Any]) -> str:
    """Return the result of the soak test, and the number of connections that ended in each state."""
    samples, good = found["samples"], found["good"]
    total = samples[-1][0]
    tenth = next(sample for sample in samples if sample[0] >= total / 10)
    bad = good["lost"] + good["doubled"] + good["disordered"]
    told = (
        f"{total:,} connections in {found['seconds'] / 60:.0f} minutes; {found['cpu'] / total * 1e6:,.0f} us of the daemon's "
        "processor time for each, including its work for the good clients. "
        f"Memory was {tenth[1] / MIB:.1f} MiB after the first tenth and "
        f"{samples[-1][1] / MIB:.1f} MiB after the last; descriptors were {samples[0][2]} before, "
        f"{max(sample[2] for sample in samples)} at most, and {samples[-1][2]} after. Of {good['delivered']:,} messages to "
        f"{good['clients']} good clients {bad} were lost, doubled or out of order; {len(good['closed'])} of them were closed."
    )
    lines = [
        told,
        "",
        "```{raw} html",
        ":file: reliability.svg",
        "```",
        *([f"\n**Not held**: {_cell('; '.join(found['faults']))}."] if found["faults"] else []),
        "",
        *grid(("state at the end", "connections"), [(_cell(name), f"{count:,}") for name, count in found["connects"].items()]),
    ]
    return "\n".join(lines)


def conformance(found: Mapping[str, Any]) -> str:
    """Return the counts of the Autobahn|Testsuite, or a sentence if it has not been run."""
    if not found:
        return "It has not been run here yet: `make conformance`."
    outcomes = ("OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED", "FAILED")
    lines = [
        (way, str(sum(counts.values())), *(str(counts.get(name, 0)) for name in outcomes))
        for way, counts in found["ways"].items()
    ]
    return "\n".join([f"Run on {found['date']}.", "", *grid(("", "cases", *(name.lower() for name in outcomes)), lines)])


def machine(date: str, facts: Mapping[str, str]) -> str:
    """Return the date and machine of a run."""
    return (
        f"Run on {date}: {facts.get('cores', '?')} cores of {facts.get('processor', '?')}, {facts.get('memory', '?')}, "
        f"{facts.get('system', '?')}, Linux {facts.get('kernel', '?')}, Python {facts.get('python', '?')}."
    )


def begin(name: str) -> str:
    """Return the mark before a part of the page."""
    return f"<!-- {name}: written by python -m hostile --write-docs -->"


def end(name: str) -> str:
    """Return the mark after a part of the page."""
    return f"<!-- end of {name} -->"


def filled(page: str, parts: Mapping[str, str]) -> str:
    """Return the page with new content between the marks of each part.

    Raises:
        ValueError: the page does not have them.
    """
    for name, content in parts.items():
        before, first, rest = page.partition(begin(name))
        _, last, after = rest.partition(end(name))
        if not first or not last:
            raise ValueError(f"the page has no place for {name}")
        page = f"{before}{first}\n\n{content}\n\n{last}{after}"
    return page
