"""New code for a server with open connections: what their clients notice."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hostile.attack import PLAIN
from hostile.cluster import until
from hostile.daemon import Daemon
from hostile.moved import Crowd, Publications
from hostile.places import ROOT

__all__ = ["MOVES", "Move", "MoveRow", "move"]

CHANNELS = 100
RATE = 200.0
# The clients of each kind.
FULL = {"raw": 1000, "counter": 1000, "json": 1000, "deflate": 900, "pattern": 50, "stream": 1000, "stream of a pattern": 50}
# Each kind that can go on, alone: so many clients of it. A pattern is of one channel then; of all, 200 messages a second would be
# a million deliveries.
ALONE = 5000
# Seconds before and after, in which the usual times are measured.
USUAL = 3.0


@dataclass(frozen=True)
class Move:
    """New code, again and again.

    Attributes:
        name: its name, a few words.
        sentence: what happens.
        times: how often.
        dies: the process that is killed in the middle: "old", "new", or "" for none.
        command: of ``twisted-ws``, by which it happens.
        kinds: how many clients of each kind there are.
    """

    name: str
    sentence: str
    times: int = 1
    dies: str = ""
    command: tuple[str, ...] = ("reload", "--services")
    kinds: Mapping[str, int] = field(default_factory=lambda: FULL)


MOVES = [
    Move("ten upgrades", "The worker is replaced ten times in a row (`twisted-ws reload --services`).", 10),
    Move(
        "ten upgrades of the whole server",
        "Supervisor and worker are replaced ten times in a row (`twisted-ws upgrade`).",
        10,
        command=("upgrade",),
    ),
    Move("old worker killed", "The old worker is killed (SIGKILL) in the middle.", dies="old"),
    Move(
        "new worker killed",
        "The new worker is killed (SIGKILL) in the middle; the next one gets what is left.",
        dies="new",
    ),
    *(
        Move(
            f"ten upgrades of the whole server: {kind}",
            f"The same with {ALONE:,} clients of this kind and no other.",
            10,
            command=("upgrade",),
            kinds={kind: ALONE},
        )
        for kind in ("raw", "counter", "json", "deflate", "narrow pattern", "stream", "stream of a narrow pattern")
    ),
]


@dataclass
class MoveRow:
    """The result.

    Attributes:
        name: of the move.
        clients, published: how many.
        kinds: for each kind of client: how many, messages, closed, lost, doubled, out of order.
        longest, usual: the longest time from publication to arrival, seconds: while connections moved, and at other times.
        faults: everything wrong.
    """

    name: str
    clients: int = 0
    published: int = 0
    kinds: dict[str, dict[str, int]] = field(default_factory=dict)
    longest: float = 0.0
    usual: float = 0.0
    faults: list[str] = field(default_factory=list)

    def asData(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return asdict(self)


def _run(words: tuple[str, ...], daemon: Daemon) -> None:
    command = [sys.executable, "-m", "twisted_ws", *words]
    command += ["--state-directory", str(daemon.directory / "state" / "twisted-ws")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"twisted-ws {words[0]} says {done.stderr.strip()}")


def _happen(each: Move, daemon: Daemon, crowd: Crowd) -> None:
    before = len(daemon.said())
    if each.dies:
        count = sum(client.kind == "counter" for client in crowd.clients)
        (daemon.directory / f"{each.dies} dies").write_text(str(count // 2))
    for _ in range(each.times):
        _run(each.command, daemon)
    if each.dies:
        until("it died", lambda: not (daemon.directory / f"{each.dies} dies").exists())
    if each.dies == "new":  # the next worker gets what the old one has left
        until("the rest has gone over", lambda: daemon.said().count("connections that go on in the new worker", before) >= 2)


def move(each: Move, directory: Path, scale: float = 1.0) -> MoveRow:
    """Let it happen, and count what clients notice.

    Args:
        each: what.
        directory: the daemon's.
        scale: the share of the clients, and of the times.
    """
    row = MoveRow(each.name)
    if scale < 1:
        each = replace(each, times=max(round(each.times * scale), 1))
    kinds = {kind: max(round(count * scale), 2) for kind, count in each.kinds.items()}
    variant = replace(PLAIN, options=("--workers", "1", "--compression", "on"), limits={"drainTimeout": 120})
    with Daemon(variant, directory) as daemon:
        until("it listens", lambda: "1 worker listens" in daemon.said())
        with Crowd(daemon.ws, kinds, CHANNELS) as crowd, Publications(daemon.http, CHANNELS, RATE, 100) as publications:
            time.sleep(USUAL)
            row.usual = crowd.takeLongest()
            _happen(each, daemon, crowd)
            time.sleep(0.5)
            row.longest = crowd.takeLongest()
            publications.stop()
            tallies = crowd.rest(publications.counts)
    row.clients, row.published = len(crowd.clients), sum(publications.counts.values())
    row.kinds = {
        kind: {
            "clients": found.clients,
            "got": found.got,
            "closed": found.closed,
            "lost": found.lost,
            "doubled": found.doubled,
            "disordered": found.disordered,
        }
        for kind, found in tallies.items()
    }
    wrong = ("lost", "doubled", "disordered") if each.dies else ("closed", "lost", "doubled", "disordered")
    row.faults = [f"{count} {what}" for what in wrong if (count := sum(kind[what] for kind in row.kinds.values()))]
    if publications.wrong:
        row.faults.append(publications.wrong)
    if each.dies and not 0 < sum(kind["closed"] for kind in row.kinds.values()) < row.clients:
        row.faults.append("it did not happen in the middle")
    return row
