"""Attack a real daemon, make connections fail, or wear it out, among good clients that count what they get.

A complete run of a part writes its results to hostile/results.json and docs/reliability.md; an incomplete run writes only
hostile/build/last.json.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from bench.machine import machine
from hostile import report
from hostile.attack import Attack
from hostile.attacks import ATTACKS
from hostile.chart import chart
from hostile.faults import FAULTS, suffer
from hostile.moves import MOVES, move
from hostile.outages import OUTAGES, endure
from hostile.places import BUILD, HERE, ROOT
from hostile.results import Results
from hostile.soak import soak
from hostile.stage import Stage

__all__ = ["main"]

KEPT = HERE / "results.json"
LAST = BUILD / "last.json"
PAGE = ROOT / "docs" / "reliability.md"
PICTURE = ROOT / "docs" / "reliability.svg"
CONFORMANCE = ROOT / "tools" / "conformance" / "results.json"
PARTS = ("attacks", "faults", "outages", "moves", "soak")
QUICK_GOOD, QUICK_SCALE = 3, 0.1
# The cores for the daemon and for everything else.
CORES = 0, 1


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m hostile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} [attacks]")
    parser.add_argument("--only", metavar="A,B", help="attacks, kinds of attacks, or faults; see --list")
    parser.add_argument("--quick", action="store_true", help="run a tenth of everything, with few good clients")
    parser.add_argument("--good", type=int, metavar="N", help="good clients of each of the four kinds [25]")
    parser.add_argument("--connects", type=int, metavar="N", help="connections of the soak test [1,000,000]")
    parser.add_argument("--save", action="store_true", help="add the results to the kept ones and to the documentation")
    parser.add_argument("--list", action="store_true", help="show the attacks and faults")
    parser.add_argument("--write-docs", action="store_true", help="run nothing: write the documentation from the kept results")
    options = parser.parse_args(arguments)
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"unknown part {part!r}; the parts are {', '.join(PARTS)}")
    options.only = [name.strip() for name in options.only.split(",")] if options.only else []
    known = {name for each in ATTACKS for name in (each.name, each.group)} | {each.name for each in (*FAULTS, *OUTAGES, *MOVES)}
    for name in options.only:
        if name not in known:
            parser.error(f"unknown name {name!r}; --list shows the known names")
    if options.save and options.quick:
        parser.error("the results of a quick run cannot be kept: omit --save or --quick")
    return options


def chosen(wanted: Sequence[str]) -> list[Attack]:
    """Return the requested attacks, by name or kind; all of them if none were requested."""
    return [each for each in ATTACKS if not wanted or each.name in wanted or each.group in wanted]


def _attacks(options: argparse.Namespace, results: Results) -> bool:
    """Run the attacks, and print the result of each; return whether the daemon held."""
    good = options.good or (QUICK_GOOD if options.quick else 25)
    scale = QUICK_SCALE if options.quick else 1.0
    attacks = chosen(options.only)
    print(report.HEAD)
    for variant in {each.variant.name: each.variant for each in attacks}.values():
        with Stage(variant, BUILD / "run" / variant.name, good, scale, CORES) as stage:
            for each in attacks:
                if each.variant.name == variant.name:
                    row = results.attacks[each.name] = stage.play(each).asData()
                    print(report.attackLine(row), flush=True)
    held = sum(not row["faults"] for row in results.attacks.values())
    print(f"{held} of {len(results.attacks)} held")
    return held == len(results.attacks)


def _faults(options: argparse.Namespace, results: Results) -> bool:
    """Make connections fail in every way, and print the results; return whether nothing was lost unnecessarily."""
    known = [each for each in FAULTS if not options.only or each.name in options.only]
    print(report.FAULT_HEAD)
    for each in known:
        row = suffer(each, BUILD / "run" / "faults", 1 if options.quick else 3, 0.3 if options.quick else 1.0, CORES).asData()
        print(report.faultLine(row), flush=True)
        results.faults[each.name] = row
    return not any(row["faults"] for row in results.faults.values())


def _outages(options: argparse.Namespace, results: Results) -> bool:
    """Let processes and the engine between them fail, and print the results; return whether nothing was lost unnecessarily."""
    known = [each for each in OUTAGES if not options.only or each.name in options.only]
    print(report.OUTAGE_HEAD)
    for each in known:
        row = endure(each, BUILD / "run" / "outages", 1 if options.quick else 9, 0.3 if options.quick else 1.0).asData()
        print(report.outageLine(row), flush=True)
        results.outages[each.name] = row
    return not any(row["faults"] for row in results.outages.values())


def _moves(options: argparse.Namespace, results: Results) -> bool:
    """Give a server new code while clients count, and print the results; return whether nobody noticed anything."""
    known = [each for each in MOVES if not options.only or each.name in options.only]
    print(report.MOVE_HEAD)
    for each in known:
        row = move(each, BUILD / "run" / "moves", 0.1 if options.quick else 1.0).asData()
        print(report.moveLine(row), flush=True)
        results.moves[each.name] = row
    return not any(row["faults"] for row in results.moves.values())


def _soak(options: argparse.Namespace, results: Results) -> bool:
    """Make very many connections, and print what the daemon holds meanwhile; return whether nothing was left behind."""
    total = options.connects or (20_000 if options.quick else 1_000_000)
    found = soak(
        BUILD / "run" / "soak", total, options.good or 25, CORES, lambda sample: print(report.soakLine(sample), flush=True)
    )
    results.soak = found.asData()
    for fault in found.faults:
        print(f"    FAULT: {fault}")
    return not found.faults


RUNS = {"attacks": _attacks, "faults": _faults, "outages": _outages, "moves": _moves, "soak": _soak}


def parts(results: Results) -> dict[str, str]:
    """Return the content of the page by part; nothing for a part that has not been run."""
    found = {
        "attacks": lambda: report.attacks(ATTACKS, results.attacks),
        "faults": lambda: report.faults(FAULTS, results.faults),
        "outages": lambda: report.outages(OUTAGES, results.outages),
        "moves": lambda: report.moves(MOVES, results.moves),
        "soak": lambda: report.soak(results.soak),
    }
    page = {}
    for part, make in found.items():
        if part in results.dates:
            # A separate paragraph: directly after a sentence, a table would not be one.
            page[part] = f"{report.machine(results.dates[part], results.machine[part])}\n\n{make()}"
    kept = json.loads(CONFORMANCE.read_text()) if CONFORMANCE.exists() else {}
    return {**page, "conformance": report.conformance(kept)}


def _writeDocs() -> None:
    results = Results.load(KEPT)
    PAGE.write_text(report.filled(PAGE.read_text(), parts(results)))
    if results.soak:
        PICTURE.write_text(chart(results.soak["samples"]))


def _run(options: argparse.Namespace) -> bool:
    BUILD.mkdir(exist_ok=True)
    held, results = True, Results()
    for part in options.parts or PARTS[:1]:
        held = RUNS[part](options, results) and held
        results.dates[part] = f"{datetime.now(UTC):%Y-%m-%d}"
        results.machine[part] = machine()
    results.save(LAST)
    if options.save or not (options.only or options.quick or options.good or options.connects):
        kept = Results.load(KEPT)
        kept.replace(results, whole=not options.only)
        kept.save(KEPT)
        _writeDocs()
    return held


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0; 1 if the daemon did not hold; 130 after Ctrl-C.
    """
    options = _arguments(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.list:
            for each in ATTACKS:
                print(f"{each.group:12}{each.name:42}{each.sentence}")
            for fault in FAULTS:
                print(f"{'faults':12}{fault.name:42}{fault.sentence}")
            for outage in OUTAGES:
                print(f"{'outages':12}{outage.name:42}{outage.sentence}")
            for each in MOVES:
                print(f"{'moves':12}{each.name:42}{each.sentence}")
        elif options.write_docs:
            _writeDocs()
        else:
            return 0 if _run(options) else 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
