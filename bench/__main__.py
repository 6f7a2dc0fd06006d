"""Run the workloads against each server, in interleaved rounds, and print medians, ratios and targets.

A complete run (without --quick, --only or --peers) writes bench/results.json and the tables of
docs/performance.md; any other run writes only bench/build/last.json.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from bench.installing import NotInstalled, compilePrograms, install, makeCertificate, makeToken, versionOf
from bench.machine import machine
from bench.peers import PEERS, Peer
from bench.places import BUILD, HERE, ROOT
from bench.report import facts, filled, markdown, text
from bench.results import Results
from bench.running import Failed, settle, started
from bench.workloads import WORKLOADS, Effort, Workload

QUICK_PEERS = "yardstick,twisted_ws,rules,workers1,workers2,redis,pure,stock,picows"
QUICK = Effort(rounds=1, seconds=1.0, quick=True)
# A measurement is repeated if other processes took more than this share of a core, and tried at most this many times.
DISTURBED = 0.1
TRIES = 3
LAST = BUILD / "last.json"
KEPT = HERE / "results.json"
PAGE = ROOT / "docs" / "performance.md"
ROWS = [row for workload in WORKLOADS for row in workload.rows]


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="take less than three minutes")
    parser.add_argument("--only", metavar="A,B", help="workloads: " + ", ".join(workload.name for workload in WORKLOADS))
    parser.add_argument("--peers", metavar="A,B", help="servers: " + ", ".join(peer.key for peer in PEERS))
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds of each workload [{Effort.rounds}]")
    parser.add_argument("--seconds", type=float, metavar="S", help=f"seconds of each measurement [{Effort.seconds:g}]")
    parser.add_argument("--save", action="store_true", help="add the results to the kept ones and to the documentation")
    parser.add_argument(
        "--write-docs", action="store_true", help="measure nothing: write the documentation from the kept results"
    )
    options = parser.parse_args(arguments)
    if options.save and options.quick:
        parser.error("the results of a quick run cannot be kept: omit --save or --quick")
    return options


def _chosen(names: str | None, known: Iterable[str]) -> list[str]:
    """Return the known names that were requested; all of them if none were."""
    known = list(known)
    if names is None:
        return known
    for name in names.split(","):
        if name not in known:
            raise SystemExit(f"bench: unknown name {name!r}; the known names are {', '.join(known)}")
    return [name for name in known if name in names.split(",")]


def _available(peers: Iterable[Peer]) -> list[Peer]:
    """Install the peers, report those that cannot be installed, and return the others."""
    there = []
    missing: dict[str, str] = {}
    for peer in peers:
        if peer.needs not in missing:
            try:
                install(peer.needs)
            except NotInstalled as error:
                missing[peer.needs] = str(error)
        if peer.needs in missing:
            print(f"left out: {peer.title}: {missing[peer.needs]}", file=sys.stderr)
        else:
            there.append(peer)
    return there


def _say(line: str, end: str = "") -> None:
    """Overwrite the progress line; on anything but a terminal, print only lines that have an `end`."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end=end, file=sys.stderr, flush=True)
    elif end:
        print(line, end=end, file=sys.stderr)


def _measure(workload: Workload, peers: Sequence[Peer], effort: Effort, results: Results) -> None:
    rows = [row.key for row in workload.rows]
    for number in range(min(effort.rounds, workload.rounds)):
        for peer in filter(workload.takes, peers):
            _say(f"{workload.name}, round {number + 1}: {peer.title}")
            try:
                for left in reversed(range(TRIES)):
                    with started(peer) as server:
                        sample = workload.run(server, effort)
                    if sample.get("others", 0.0) < DISTURBED or not left:
                        break
                    _say(f"again: {workload.name}, {peer.title}: other processes took {sample['others']:.0%} of a core", "\n")
                results.add(workload.name, rows, peer.key, sample)
            except Failed as error:
                _say(f"failed: {workload.name}: {error}", "\n")


def _writeDocs() -> None:
    results = Results.load(KEPT)
    PAGE.write_text(filled(PAGE.read_text(), markdown(ROWS, results)))


def _run(options: argparse.Namespace) -> None:
    """Measure, print and keep.

    Raises:
        NotInstalled: something that every workload needs is missing.
    """
    effort = QUICK if options.quick else Effort()
    effort = Effort(options.rounds or effort.rounds, options.seconds or effort.seconds, effort.quick)
    names = _chosen(options.only, (workload.name for workload in WORKLOADS))
    keys = _chosen(options.peers or (QUICK_PEERS if options.quick else None), (peer.key for peer in PEERS))
    compilePrograms()
    makeCertificate()
    makeToken()
    peers = _available(peer for peer in PEERS if peer.key in keys)
    results = Results(
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        machine=machine(),
        peers={peer.key: peer.title for peer in PEERS},
        versions={peer.key: versionOf(peer.key) for peer in peers},
        effort={"rounds": effort.rounds, "seconds": effort.seconds},
    )
    settle()
    for workload in WORKLOADS:
        if workload.name in names:
            _measure(workload, peers, effort, results)
    results.where = dict.fromkeys(results.figures, facts(results))
    _say("")
    print(f"medians of {effort.rounds} round(s) of {effort.seconds:g} s; ratios are those of the same round\n")
    print(text(ROWS, results))
    results.save(LAST)
    if not (options.quick or options.only or options.peers):
        results.save(KEPT)
        _writeDocs()
    elif options.save:
        kept = Results.load(KEPT)
        kept.replace(results)
        kept.save(KEPT)
        _writeDocs()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0; 1 if nothing could be measured; 130 after Ctrl-C.
    """
    options = _arguments(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.write_docs:
            _writeDocs()
        else:
            _run(options)
    except NotInstalled as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        _say("interrupted", "\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
