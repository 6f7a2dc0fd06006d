"""Very many connections, ending in every possible state, while good clients do their work: what is left behind."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from ssl import SSLSocket
from typing import Any

from hostile.attack import PLAIN
from hostile.crowd import Crowd, amiss
from hostile.daemon import Daemon
from hostile.peer import HANDSHAKE, Peer, close, frame, upgrade
from hostile.processes import endWithParent
from hostile.stage import fork, settled

__all__ = ["STATES", "Soak", "State", "soak"]

# The number of connections open at a time.
BATCH = 48
# How much more memory than after the first tenth may be in use at the end.
GROWTH = 1.05
_GET = b"GET /%s HTTP/1.1\r\nHost: localhost\r\n%s\r\n"
_V1 = "Sec-WebSocket-Protocol: twisted-ws.v1"


@dataclass(frozen=True)
class State:
    """A state in which connections end.

    Attributes:
        name: a few words.
        sent: what the client sends.
        answer: what it waits for; b"" for nothing.
        last: what it sends after that.
        reset: whether it ends with a reset.
    """

    name: str
    sent: bytes = b""
    answer: bytes = b""
    last: bytes = b""
    reset: bool = True


STATES: tuple[State, ...] = (
    State("nothing sent"),
    State("half a head", HANDSHAKE[:60]),
    State("a page, answered", _GET % (b"", b"Connection: close\r\n"), b"</html>", reset=False),
    State("a request refused", _GET % (b"nothing", b""), b"}", reset=False),
    State("half a body", b"POST /channels/soak HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n" + bytes(500)),
    State("a WebSocket, undecided", upgrade("/hesitant")),
    State("a WebSocket, closed", HANDSHAKE, b"\r\n\r\n", close(1000), reset=False),
    State("a WebSocket, cut", HANDSHAKE + frame(1, b"hi"), b"Echo: hi"),
    State("a WebSocket, cut inside a frame", HANDSHAKE, b"\r\n\r\n", frame(2, bytes(100_000))[:5000]),
    State("a violation", HANDSHAKE, b"\r\n\r\n", frame(3, b"x"), reset=False),
    State("a subscription, cut", upgrade("/channels/good", _V1), b'"subscribed"'),
    State("an event stream, cut", _GET % (b"channels/good", b"Accept: text/event-stream\r\n"), b"event: subscribed"),
    State("a poll, cut", _GET % (b"channels/good?wait=60", b"")),
)
# The beginning of a 512-byte hello.
HELLO = State("half a TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100))


@dataclass
class Soak:
    """The result of a soak test.

    Attributes:
        connects: the number of connections, by state.
        samples: connects so far, resident bytes, descriptors, seconds.
        good: the counts of the good clients.
        seconds: how long it took.
        cpu: seconds of processor time that the daemon used.
        faults: everything wrong.
    """

    connects: dict[str, int] = field(default_factory=dict)
    samples: list[tuple[int, int, int, float]] = field(default_factory=list)
    good: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    cpu: float = 0.0
    faults: list[str] = field(default_factory=list)

    def asData(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return asdict(self)


def _ways(daemon: Daemon) -> list[tuple[str, Callable[[], Peer], State]]:
    """Return every way to reach every state."""
    ways: list[tuple[str, Callable[[], Peer], State]] = []
    for state in STATES:
        ways.append((state.name, lambda: Peer(daemon.ws), state))
        ways.append((f"{state.name}, TLS", lambda: Peer(daemon.tls, secure=True, begun=True), state))
    ways.append((HELLO.name, lambda: Peer(daemon.tls), HELLO))
    return ways


def _connect(daemon: Daemon, total: int, done: Synchronized[int]) -> None:
    """Make all connections, some at a time."""
    endWithParent()
    ways = _ways(daemon)
    while done.value < total:
        batch: list[tuple[Peer, State]] = []
        for number in range(done.value, min(done.value + BATCH, total)):
            _, connect, state = ways[number % len(ways)]
            batch.append((connect(), state))
        for peer, _ in batch:
            if isinstance(peer.socket, SSLSocket):
                peer.shake()
        for peer, state in batch:
            if state.sent:
                peer.send(state.sent)
        for peer, state in batch:
            if state.answer and not peer.read(state.answer).endswith(state.answer):
                sys.exit(f"no answer: {state.name}")
            if state.last:
                peer.send(state.last)
            peer.cut(state.reset)
        done.value += len(batch)


def soak(
    directory: Path,
    total: int,
    good: int = 25,
    cores: tuple[int, int] | None = None,
    say: Callable[[Sequence[float]], None] | None = None,
) -> Soak:
    """Make this many connections, and keep watching what the daemon holds.

    Args:
        directory: the daemon's directory.
        total: the number of connections.
        good: the number of good clients of each of the four kinds.
        cores: the cores for the daemon and for the others; None for any.
        say: called with each sample.
    """
    found = Soak()
    core, others = cores or (None, None)
    begun = time.monotonic()
    done: Synchronized[int] = fork.Value("q", 0)
    with Daemon(PLAIN, directory, core) as daemon, Crowd(daemon, good, others) as crowd:
        crowd.talk()
        time.sleep(1)
        before = daemon.descriptors()

        def sample() -> None:
            found.samples.append((done.value, daemon.memory(), daemon.descriptors(), time.monotonic() - begun))
            if say is not None:
                say(found.samples[-1])

        sample()
        process = fork.Process(target=_connect, args=(daemon, total, done))
        process.start()
        step = max(total // 200, 1)
        while process.is_alive():
            process.join(0.1)
            if done.value >= found.samples[-1][0] + step:
                sample()
        settled(daemon, before)
        sample()
        found.good = crowd.rest()
        found.cpu = daemon.cpu()
        runs = daemon.runs()
    names = [name for name, _, _ in _ways(daemon)]
    for index, name in enumerate(names):
        found.connects[name] = len(range(index, done.value, len(names)))
    found.seconds = time.monotonic() - begun
    found.faults = list(_faults(found, total, before, runs))
    return found


def _faults(found: Soak, total: int, before: int, runs: bool) -> Iterator[str]:
    if not runs:
        yield "the daemon has ended"
    if found.samples[-1][0] < total:
        yield f"only {found.samples[-1][0]:,} of {total:,} connections were served"
    tenth = next((memory for count, memory, _, _ in found.samples if count >= total / 10), 0)
    if found.samples[-1][1] > tenth * GROWTH:
        yield f"{found.samples[-1][1] / tenth:.2f} times the memory after the first tenth"
    if found.samples[-1][2] > before + 4:
        yield f"{found.samples[-1][2] - before} descriptors are left"
    yield from amiss(found.good)
