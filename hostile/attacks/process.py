"""Attacks on the process: signals, clocks, descriptors, the disk."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from hostile.attack import HASTY, Succeeded, Target, Variant, attack
from hostile.attacks.readers import get
from hostile.peer import Peer, ends, frame, upgrade

FEW = Variant("few descriptors", descriptors=400)
FULL = Variant("full disk", log=Path("/dev/full"))
RATED = Variant("rated", ("--message-rate", "50"))
_FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
# The time of the clock is in .faketimerc in the daemon's home directory, which is read every second.
CLOCK = Variant(
    "clock",
    limits=HASTY.limits,
    environment={"LD_PRELOAD": _FAKETIME, "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_CACHE_DURATION": "1"},
)


@attack("stopped for 20 s", "goes on")
def stopped(target: Target) -> str:
    """The process is stopped for 20 s (SIGSTOP), longer than any ping may take, and then goes on."""
    target.daemon.signal(signal.SIGSTOP)
    time.sleep(20 * max(target.scale, 0.6))
    target.daemon.signal(signal.SIGCONT)
    time.sleep(2)
    return _alive(target)


@attack("clocks that jump", "deadlines hold", variant=CLOCK)
def clock(target: Target) -> str:
    """The wall clock jumps a month ahead, two years back, and ahead again; deadlines must hold."""
    shown = target.daemon.directory / ".faketimerc"
    for offset in ("+30d", "-730d", "+0"):
        shown.write_text(f"{offset}\n")
        time.sleep(2)
        _alive(target)
        poll, silent = target.ws(), target.ws()
        poll.send(get("/channels/clock?wait=1", "Connection: close"))
        found = {"a poll of a second": poll.end(), "a silent connection": silent.end()}
        for what, end in found.items():
            if end == "open":
                raise Succeeded(f"after a jump of {offset}, {what} is no longer ended")
    return "deadlines hold"


@attack("reloads", "goes on")
def reloads(target: Target) -> str:
    """The process gets 200 SIGHUPs in a second."""
    for _ in range(target.times(200)):
        target.daemon.signal(signal.SIGHUP)
        time.sleep(0.005)
    return _alive(target)


@attack("unused signals", "goes on")
def signals(target: Target) -> str:
    """The process gets SIGUSR1, SIGUSR2, SIGPIPE and SIGWINCH, without a log file to rotate."""
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE, signal.SIGWINCH):
        target.daemon.signal(number)
        time.sleep(0.3)
    return _alive(target)


def _alive(target: Target) -> str:
    try:
        peer = target.ws().upgrade()
    except OSError as error:
        raise Succeeded(f"connections are refused: {error}") from None
    peer.send(frame(1, b"alive"))
    answer = peer.read(b"Echo: alive")
    peer.cut()
    if not answer.endswith(b"Echo: alive"):
        raise Succeeded("there are no more answers")
    return "goes on"


@attack("no descriptors left", r"[\d,]+ connections, \d+ operator requests answered", variant=FEW)
def descriptors(target: Target) -> str:
    """Somebody opens 2,000 connections when 400 descriptors are allowed; then an operator checks the health five times."""
    peers: list[Peer] = []
    for _ in range(target.times(2000)):
        try:
            peers.append(Peer(target.daemon.ws, patience=1))
        except OSError:
            break
    time.sleep(1)
    answered = 0
    for _ in range(5):
        try:
            asker = target.http(patience=3)
        except OSError:
            continue
        asker.send(get("/healthz"))
        answered += asker.status() == 200
        asker.cut()
    if answered < 5:
        raise Succeeded(f"{5 - answered} of 5 operator requests were not answered")
    return f"{len(peers):,} connections, {answered} operator requests answered"


@attack("full disk under the log", "[0-9]+ x HTTP 403|HTTP 403", variant=FULL)
def fullDisk(target: Target) -> str:
    """1,000 handshakes are refused, each with a log line that cannot be written."""
    peers = []
    for _ in range(target.times(1000)):
        peer = target.ws()
        peer.send(upgrade("/ws", "Origin: https://elsewhere.example"))
        peers.append(peer)
    return ends(peers)


@attack("over the message rate", "close 1008", variant=RATED)
def rated(target: Target) -> str:
    """20 callers send 10,000 texts each when 50 per second are allowed."""
    peers = [connect().upgrade() for connect in (target.ws, target.wss) for _ in range(target.times(10))]
    for peer in peers:
        peer.send(frame(1, b"x") * 10_000)
    return ends(peers)
