"""The tables of the documentation, made from the measurements and the model; a test compares, so that a page cannot drift."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from tools.capacity.check import check, predicted
from tools.capacity.costs import Costs, fit
from tools.capacity.measure import LATENCY
from tools.capacity.model import Kind, Layout, Load, Machine, Traffic, kinds, most, plan
from tools.capacity.queueing import simulate

__all__ = ["PAGES", "costsHere", "example", "filled", "tables"]

_HERE = Path(__file__).parent
PAGES = (_HERE.parent.parent / "docs/explanation/scaling.md",)
MEASUREMENTS, STORM = _HERE / "measurements.json", _HERE / "storm.json"
_GIB = 1024**3
_MARKED = re.compile(r"(<!-- capacity: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _table(head: str, rows: list[tuple[Any, ...]]) -> str:
    names = [each.strip() for each in head.split("|")]
    lines = [f"| {' | '.join(names)} |", "| --- |" + " ---: |" * (len(names) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def _number(value: float) -> str:
    """Return a number as a person would write it: two digits that count, or all before the point."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def example(connections: float, tls: float) -> Load:
    """Return the load of the plans: callers of a news and chat service.

    A caller stays for ten minutes, is in a channel of 100 that has a message every ten seconds, sends a message every 30 seconds,
    which is answered, and hears a broadcast every ten seconds.
    """
    traffic = (
        Traffic("channel", connections / 1000, 300, 100),
        Traffic("broadcast", 0.1, 300),
        Traffic("answer", connections / 30, 100),
    )
    return Load(connections, tls, connections / 600, traffic)


def costs(found: Mapping[str, Any]) -> str:
    """Return what one thing of each kind takes."""
    c = fit(found)
    plain = "µs of a core"
    rows: list[tuple[Any, ...]] = [
        ("a connection, from its SYN to its end", f"{c.connect:.0f} {plain}", f"{c.connectTls:.0f} {plain}"),
        ("a silent connection: the process", f"{c.connection:,.0f} B", f"{c.connectionTls:,.0f} B"),
        ("a silent connection: the kernel", f"{c.socket:,.0f} B", "the same"),
        ("a ping and its pong", f"{c.ping:.0f} {plain}", f"{c.pingTls:.0f} {plain}"),
        ("a delivery of 125 B, to 1,000 callers", f"{c.deliver.of(125):.1f} {plain}", f"{c.deliverTls.of(125):.1f} {plain}"),
        ("a delivery of 4 KiB, to 1,000 callers", f"{c.deliver.of(4096):.1f} {plain}", f"{c.deliverTls.of(4096):.1f} {plain}"),
        ("a caller's message of 125 B and the answer", f"{c.answer.of(125):.1f} {plain}", f"{c.answerTls.of(125):.1f} {plain}"),
    ]
    crowd = ", ".join(f"{count:,}: {factor:.2f}" for count, factor in c.crowd)
    return (
        _table("what | plain | TLS", rows) + f"\n\nA delivery in a process with more connections, compared with 1,000: {crowd}."
    )


def engines(found: Mapping[str, Any]) -> str:
    """Return what a publication takes, by engine."""
    c = fit(found)

    def row(*cells: Any) -> tuple[Any, ...]:
        return tuple(each if isinstance(each, str) else f"{each:.0f} µs" for each in cells)

    size = 125
    return _table(
        "a publication of 125 B takes | one process | `--workers` | `--engine redis:`",
        [
            row(
                "who reads the POST",
                c.publish.of(size),
                "supervisor: " + f"{c.hubPublish.of(size):.0f} µs",
                c.nodePublish.of(size),
            ),
            row("who numbers and keeps it", "the same", "the same", "database: " + f"{c.redisPublish.of(size):.0f} µs"),
            row(
                "to pass it on to one worker or node",
                "-",
                f"busy: {c.hubWorker.of(size):.0f} µs, idle: {c.hubWorker.of(size) + c.hubAlone:.0f} µs",
                c.redisNode.of(size),
            ),
            row("who receives it there", "-", c.receive.of(size), c.nodeReceive.of(size)),
            row(
                "more after 1 ms of sleep",
                c.wake,
                f"supervisor {c.hubWake:.0f} µs, worker {c.wake:.0f} µs",
                f"node {c.nodeWake:.0f} µs, database {c.redisWake:.0f} µs",
            ),
        ],
    )


def checks(found: Mapping[str, Any]) -> str:
    """Return what the model says of the runs that were held back."""
    return _table(
        "held back | part | predicted, cores | measured, cores | predicted / measured",
        [(each.run, each.part, f"{each.predicted:.3f}", f"{each.measured:.3f}", f"{each.ratio:.2f}") for each in check(found)],
    )


def waits(found: Mapping[str, Any]) -> str:
    """Return what the queueing simulation says of the time of delivery, beside what was measured."""
    samples = found["samples"]["latency"]
    groups = LATENCY
    c = fit(found)
    # Callers that look at once cost more, so the queue is that of the processor time which this run took.
    took = median(sample["cpu server"] / 1e6 * groups[0].rate / sample["posts 0"] for sample in samples)
    c = c.times(took / predicted("one", groups, c)["server"])
    crowd = c.crowdFactor(sum(each.callers for each in groups))
    several = [
        Kind(
            rate=each.rate,
            often=each.rate,
            some=each.callers,
            engine=0,
            publisher=0,
            before=c.publish.of(each.size) + c.begin,
            deliver=c.deliver.of(each.size) * crowd,
            there=1,
            traffic=Traffic("channel", each.rate, each.size, each.callers),
        )
        for each in groups
    ]
    said = simulate(several, c.wake, 0, even=True)
    weights = [each.rate * each.callers for each in groups]

    def measured(key: str) -> float:
        """Return the mean over the groups, by their deliveries."""
        by = [median(sample[f"{key} {number}"] for sample in samples) / 1000 for number in range(len(groups))]
        return float(sum(value * weight for value, weight in zip(by, weights, strict=True)) / sum(weights))

    return _table(
        "one process, two channels | predicted | measured",
        [
            ("p50 of a delivery", f"{said.p50:.1f} ms", f"{measured('p50'):.1f} ms"),
            ("p99 of a delivery", f"{said.p99:.1f} ms", f"{measured('p99'):.1f} ms"),
        ],
    )


def plans(found: Mapping[str, Any]) -> str:
    """Return the layouts for 10^5, 10^6 and 10^7 callers."""
    c, machine = fit(found), Machine()
    rows: list[tuple[Any, ...]] = []
    for tls, name in ((0, "in proxies"), (1, "in the servers")):
        for exponent in (5, 6, 7):
            load = example(10.0**exponent, tls)
            layout, found_ = plan(load, machine, c, proxied=not tls)
            fullest = ", ".join(f"{part.name} {part.share:.0%}" for part in found_.parts[:2])
            slowest = (
                max(each.some * each.deliver for each in kinds(load, layout, c))
                / 1e6
                / (1 - found_.part("each worker" if layout.workers else "the process").used)
            )
            rows.append(
                (
                    f"10^{exponent}, TLS {name}",
                    layout.machines,
                    layout.shards or "-",
                    layout.proxies or "-",
                    f"{found_.cores:.1f}",
                    f"{found_.memory / _GIB:.1f} GiB",
                    f"{found_.outgoing * 8e-9:.2f} Gbit/s",
                    fullest,
                    "-" if layout.machines == 1 else f"{found_.comeback:.1f} s",
                    f"{slowest:.2f} s",
                )
            )
    return _table(
        "callers | machines | Redis | proxies | busy cores of 8 | memory of 32 GiB | network | fullest"
        " | one is lost: all back after | a broadcast takes",
        rows,
    )


def breaks(found: Mapping[str, Any]) -> str:
    """Return what is full first when the load of a plan grows and the machines stay."""
    c, machine = fit(found), Machine()
    rows: list[tuple[Any, ...]] = []
    for exponent in (5, 6, 7):
        load = example(10.0**exponent, 0)
        _, found_ = plan(load, machine, c, proxied=True)
        shares = [part for part in found_.parts if part.share >= 0.01][:6]
        rows.append((f"10^{exponent}", *(f"{part.name}: {1 / part.share:,.1f} times" for part in shares)))
    return _table("callers | first | then | then | then | then | then", rows)


def cores(found: Mapping[str, Any]) -> str:
    """Return what one machine does with more and more cores."""
    c = fit(found)
    loads = {
        "1 message to 1,000": Load(10_000, traffic=(Traffic("channel", 1, 300, 1000),)),
        "1 message to 10": Load(10_000, traffic=(Traffic("channel", 1, 300, 10),)),
    }
    rows: list[tuple[Any, ...]] = []
    for name, load in loads.items():
        alone = 0.0
        for count in (1, 2, 4, 8, 16):
            machine = Machine(cores=count)
            numbers = {0, max(count - 1, 1), count} if count > 1 else {0}
            factor, layout, found_ = most(load, [Layout(workers=each, machine=machine) for each in sorted(numbers)], c)
            alone = alone or factor
            hub = next((part.share for part in found_.parts if part.name == "the supervisor"), None)
            rows.append(
                (
                    f"{name}, {count} {'core' if count == 1 else 'cores'}",
                    f"{layout.workers} workers" if layout.workers else "one process",
                    _number(factor),
                    f"{found_.deliveries:,.0f}",
                    f"{factor / alone:.1f}",
                    "-" if hub is None else f"{hub:.0%}",
                    found_.first.name,
                )
            )
    return _table("load | layout | messages/s | deliveries/s | times one core | supervisor | full first", rows)


def storms(found: Mapping[str, Any]) -> str:
    """Return what the storm measured."""
    runs = found["runs"]

    def row(name: str, key: str, unit: str = "") -> tuple[Any, ...]:
        return (name, *(f"{each[key]:,}{unit}" for each in runs))

    def wait(each: Mapping[str, Any], name: str) -> str:
        match = re.search(rf"\b{name}=([\d.]+)us", each["those who stay"])
        return f"{float(match[1]) / 1000:,.0f} ms" if match else "-"

    return _table(
        f"{runs[0]['callers']:,} callers | "
        + " | ".join(f"drained, {each['rate']:,} a second" if each["rate"] else "killed" for each in runs),
        [
            row("all are back after", "seconds", " s"),
            row("most that left in one second", "left, most in a second"),
            row("most that came back in one second", "back, most in a second"),
            row("attempts that failed", "failed attempts"),
            row("handshake, half of them within", "handshake p50 ms", " ms"),
            row("handshake, 99 of 100 within", "handshake p99 ms", " ms"),
            row("processor time of the new server for each", "CPU for each, us", " µs"),
            ("messages to those who were there before, p50", *(wait(each, "p50") for each in runs)),
            ("the same, p99", *(wait(each, "p99") for each in runs)),
        ],
    )


def machineOf(found: Mapping[str, Any]) -> str:
    """Return where and when something was measured."""
    on = found["machine"]
    rounds = f"; medians of {found['rounds']} rounds" if "rounds" in found else ""
    return (
        f"Measured on {found['date']}: {on['cores']} cores of {on['processor']}, {on['memory']}, {on['system']}, "
        f"Linux {on['kernel']}, Python {on['python']}{rounds}."
    )


_TABLES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "costs": costs,
    "engines": engines,
    "checks": checks,
    "waits": waits,
    "plans": plans,
    "breaks": breaks,
    "cores": cores,
    "measured": machineOf,
}


def tables() -> dict[str, str]:
    """Return all tables by name."""
    found = json.loads(MEASUREMENTS.read_text())
    made = {name: table(found) for name, table in _TABLES.items()}
    storm = json.loads(STORM.read_text())
    return made | {"storm": storms(storm) + "\n\n" + machineOf(storm)}


def filled(text: str, made: Mapping[str, str]) -> str:
    """Return a page with its tables as they should be.

    Raises:
        KeyError: the page wants a table that is not made.
    """
    return _MARKED.sub(lambda match: f"{match[1]}\n{made[match[2]]}\n\n{match[3]}", text)


def costsHere() -> Costs:
    """Return the constants of the measurements that came with the tool."""
    return fit(json.loads(MEASUREMENTS.read_text()))
