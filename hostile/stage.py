"""One attack on one daemon among good clients, and its result."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hostile.attack import Attack, Succeeded, Target
from hostile.crowd import Crowd, amiss
from hostile.daemon import Daemon, Variant
from hostile.processes import endWithParent

__all__ = ["Row", "Stage", "fork", "settled"]

# Seconds that an attack may take, and that the daemon may then take to clean up after it.
ATTACK_SECONDS, SETTLE_SECONDS = 180.0, 40.0
# Descriptors that may come and go besides the attack's: the publisher's, a watcher's.
SPARE = 4
fork = multiprocessing.get_context("fork")


@dataclass
class Row:
    """The result of an attack.

    Attributes:
        name: the name of the attack.
        got: what the attacker got, as it reported.
        good: the counts of the good clients.
        memory: resident bytes of the daemon: before, at most, after.
        descriptors: the same for its descriptors.
        cpu: seconds of processor time that the daemon used meanwhile.
        seconds: how long it took.
        tracebacks: the number of tracebacks in the log.
        logged: the number of lines in the log.
        faults: everything wrong; empty if the server held.
    """

    name: str
    got: str
    good: dict[str, Any] = field(default_factory=dict)
    memory: tuple[int, int, int] = (0, 0, 0)
    descriptors: tuple[int, int, int] = (0, 0, 0)
    cpu: float = 0.0
    seconds: float = 0.0
    tracebacks: int = 0
    logged: int = 0
    faults: list[str] = field(default_factory=list)

    def asData(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return asdict(self)


def _child(run: Callable[[Target], str], target: Target, answers: Connection) -> None:
    os.setpgid(0, 0)
    endWithParent()
    os.nice(3)
    try:
        answers.send((True, run(target)))
    except Succeeded as success:
        answers.send((False, str(success)))
    except BaseException as error:
        answers.send((False, f"the attack itself failed: {error!r}"))


def _attack(attack: Attack, target: Target) -> tuple[bool, str]:
    """Run an attack in its own process, so that everything that it holds is gone at its end."""
    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=_child, args=(attack.run, target, theirs))
    process.start()
    theirs.close()
    found = (False, f"it did not end within {ATTACK_SECONDS:g} s")
    try:
        if ours.poll(ATTACK_SECONDS):
            found = ours.recv()
    except EOFError:
        found = (False, "the attack itself ended without a result")
    finally:
        process.join(1)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the process, and those that it has started
        process.join()
        ours.close()
    return found


class _Watch:
    """Watch the daemon's memory and descriptors all the time, and keep the maximum."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.memory = self.descriptors = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(0.05):
            self.memory = max(self.memory, self._daemon.memory())
            self.descriptors = max(self.descriptors, self._daemon.descriptors())


def settled(daemon: Daemon, descriptors: int) -> None:
    """Wait until the daemon has no more descriptors than before, or time is up."""
    end = time.monotonic() + SETTLE_SECONDS
    while daemon.runs() and daemon.descriptors() > descriptors + SPARE and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(0.3)


class Stage:
    """A daemon and its good clients, for one attack after another, while the context lasts.

    Args:
        variant: the settings of the daemon.
        directory: its directory.
        good: the number of good clients of each of the four kinds.
        scale: the share of each attack to run.
        cores: the cores for the daemon and for the others; None for any.
    """

    def __init__(
        self, variant: Variant, directory: Path, good: int = 25, scale: float = 1.0, cores: tuple[int, int] | None = None
    ) -> None:
        core, self._core = cores or (None, None)
        self.daemon = Daemon(variant, directory, core)
        self._good = good
        self._scale = scale
        self._crowd: Crowd | None = None

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *exception: object) -> None:
        self._clear()

    def _clear(self) -> None:
        if self._crowd is not None:
            self._crowd.__exit__()
            self._crowd = None
        self.daemon.kill()

    def play(self, attack: Attack) -> Row:
        """Run an attack; restart whatever did not survive the previous one.

        Raises:
            RuntimeError: the daemon cannot be started, or the good clients cannot connect.
        """
        daemon = self.daemon
        if self._crowd is None:
            daemon.start()
            self._crowd = Crowd(daemon, self._good, self._core).__enter__()
        begun, said, cpu = time.monotonic(), len(daemon.said()), daemon.cpu()
        row = Row(attack.name, "")
        self._crowd.talk()
        time.sleep(0.5)
        memory, descriptors = daemon.memory(), daemon.descriptors()
        with _Watch(daemon) as watch:
            held, row.got = _attack(attack, Target(daemon, self._scale))
        settled(daemon, descriptors)
        row.memory = (memory, max(watch.memory, memory), daemon.memory())
        row.descriptors = (descriptors, max(watch.descriptors, descriptors), daemon.descriptors())
        row.good = self._crowd.rest()
        lines = daemon.said()[said:]
        row.tracebacks, row.logged = lines.count("Traceback (most recent"), lines.count("\n")
        row.seconds, row.cpu = time.monotonic() - begun, daemon.cpu() - cpu
        row.faults = list(_faults(attack, row, held, daemon.runs()))
        if row.faults:
            self._clear()
        return row


def _faults(attack: Attack, row: Row, held: bool, runs: bool) -> Iterator[str]:
    if not held:
        yield f"the attack succeeded: {row.got}"
    elif not attack.met(row.got):
        yield f"the attacker got {row.got}, not {attack.wants}"
    if not runs:
        yield "the daemon has ended"
    yield from amiss(row.good)
    if row.tracebacks and not attack.mayRaise:
        yield f"{row.tracebacks} tracebacks"
    if row.descriptors[2] > row.descriptors[0] + SPARE:
        yield f"{row.descriptors[2] - row.descriptors[0]} descriptors are left"
    if row.memory[1] - row.memory[0] > attack.memory:
        yield f"{(row.memory[1] - row.memory[0]) >> 20} MiB more at the peak"
