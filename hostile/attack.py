"""Attacks, and the table of all of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from hostile.daemon import Daemon, Variant
from hostile.peer import Peer

__all__ = ["ATTACKS", "HASTY", "PLAIN", "Attack", "Succeeded", "Target", "attack"]

PLAIN = Variant("plain")
# Short deadlines, which pass while a test waits; everything else is the default.
HASTY = Variant(
    "hasty",
    limits={
        "headDeadline": 3,
        "bodyDeadline": 4,
        "keepAlive": 10,
        "writeDeadline": 5,
        "closeDeadline": 2,
        "lingerDeadline": 2,
        "pingInterval": 4,
        "pingTimeout": 4,
        "presenceDelay": 1,
    },
)


class Succeeded(Exception):
    """The attack succeeded; the message says at what."""


@dataclass(frozen=True)
class Target:
    """The target of an attack.

    Attributes:
        daemon: the process.
        scale: the share of an attack to run: 1 for all of it.
    """

    daemon: Daemon
    scale: float = 1.0

    def times(self, count: int) -> int:
        """Return a number of times, at this scale."""
        return max(1, round(count * self.scale))

    def ws(self, buffer: int = 0, patience: float = 20.0) -> Peer:
        """Connect to the WebSocket port."""
        return Peer(self.daemon.ws, buffer=buffer, patience=patience)

    def wss(self, buffer: int = 0, patience: float = 20.0) -> Peer:
        """Connect to the WebSocket port with TLS."""
        return Peer(self.daemon.tls, secure=True, buffer=buffer, patience=patience)

    def tls(self) -> Peer:
        """Connect to the TLS port without speaking TLS."""
        return Peer(self.daemon.tls)

    def http(self, buffer: int = 0, patience: float = 20.0) -> Peer:
        """Connect to the broadcast port."""
        return Peer(self.daemon.http, buffer=buffer, patience=patience)


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        name: its name, a few words.
        group: its kind, which orders the table.
        sentence: what the attacker does.
        run: runs it, and returns what the attacker got. Raises `Succeeded`.
        wants: a pattern for everything that it may get; "" for anything.
        variant: the settings of the daemon to attack.
        mayRaise: whether tracebacks are expected in the log.
        memory: the bytes by which the daemon may grow, at its peak.
    """

    name: str
    group: str
    sentence: str
    run: Callable[[Target], str]
    wants: str = ""
    variant: Variant = PLAIN
    mayRaise: bool = False
    memory: int = 96 << 20

    def met(self, got: str) -> bool:
        """Return whether the attacker got what it should."""
        return re.fullmatch(self.wants, got) is not None if self.wants else True


ATTACKS: list[Attack] = []
_Run = TypeVar("_Run", bound=Callable[[Target], str])


def attack(
    name: str,
    wants: str = "",
    *,
    variant: Variant = PLAIN,
    mayRaise: bool = False,
    memory: int = 96 << 20,
) -> Callable[[_Run], _Run]:
    """Register a function as an attack; its docstring is the sentence, its module the kind."""

    def register(run: _Run) -> _Run:
        sentence = " ".join((run.__doc__ or "").split())
        group = run.__module__.rpartition(".")[2]
        ATTACKS.append(Attack(name, group, sentence, run, wants, variant, mayRaise, memory))
        return run

    return register
