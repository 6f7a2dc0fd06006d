"""Faults between a publisher and its subscribers, and what becomes of the messages."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hostile import processes
from hostile.attack import HASTY, PLAIN
from hostile.daemon import Daemon, Variant
from hostile.places import ROOT
from hostile.proxies import HAProxy, Nginx, Proxy
from hostile.publisher import Publisher
from hostile.subscribers import KINDS, Raw

__all__ = ["FAULTS", "Fault", "FaultRow", "Scene", "suffer"]

CHANNELS = ("f0", "f1", "f2", "f3")
# Those that see ids, and so what a policy has dropped.
SEEING = [name for name, kind in KINDS.items() if kind is not Raw]
KEPT = 100
SHORT = Variant("short history", limits={"historyMessages": KEPT})


class Clients:
    """Run the subscribers' process while the context lasts."""

    def __init__(self, words: dict[str, Any], core: int | None) -> None:
        self._command = processes.pinned(core, [sys.executable, "-m", "hostile.subscribers", json.dumps(words)])

    def __enter__(self) -> Clients:
        self.process = processes.start(self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.communicate()

    def tell(self, *words: str) -> dict[str, Any]:
        """Send it a command, and return its answer.

        Raises:
            RuntimeError: it has ended.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\t".join(words) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the subscribers have ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


@dataclass
class Scene:
    """What a fault is applied to.

    Attributes:
        daemon: the server.
        clients: the subscribers.
        publisher: the publisher.
        proxy: the proxy in between, or None.
        scale: the share of a fault's duration and repetitions to run: 1 for all of it.
    """

    daemon: Daemon
    clients: Clients
    publisher: Publisher
    proxy: Proxy | None
    scale: float = 1.0

    def wait(self, seconds: float) -> None:
        """Let everything go on for a while."""
        time.sleep(seconds * self.scale)

    def publish(self, count: int) -> None:
        """Wait until this many more messages are published to each channel."""
        wanted = {name: published + count for name, published in self.publisher.published.items()}
        while any(self.publisher.published[name] < number for name, number in wanted.items()):
            time.sleep(0.05)

    def times(self, count: int) -> range:
        """Return a range of this many times, at this scale."""
        return range(max(1, round(count * self.scale)))

    def restart(self) -> None:
        """Start the daemon again after it has ended."""
        self.publisher.generation += 1
        self.daemon.start()


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        name: its name, a few words.
        sentence: what happens.
        run: makes it happen.
        variant: the settings of the daemon.
        mount: the mount of the subscribers: "/channels", "/drop" or "/latest".
        proxy: the proxy in between.
        size: the size of each message in bytes.
        rate: messages per second.
        tells: whether losses may be reported to subscribers.
    """

    name: str
    sentence: str
    run: Callable[[Scene], None]
    variant: Variant = PLAIN
    mount: str = "/channels"
    proxy: type[Proxy] | None = None
    size: int = 100
    rate: float = 300
    tells: bool = False


FAULTS: list[Fault] = []


def fault(name: str, **more: Any) -> Callable[[Callable[[Scene], None]], Callable[[Scene], None]]:
    """Register a function as a fault; its docstring is the sentence."""

    def register(run: Callable[[Scene], None]) -> Callable[[Scene], None]:
        FAULTS.append(Fault(name, " ".join((run.__doc__ or "").split()), run, **more))
        return run

    return register


@fault("nothing")
def nothing(scene: Scene) -> None:
    """Nothing fails."""
    scene.wait(4)


@fault("clients cut")
def cut(scene: Scene) -> None:
    """All connections are reset, ten times."""
    for _ in scene.times(10):
        scene.clients.tell("cut")
        scene.wait(0.5)


@fault("clients leave")
def leave(scene: Scene) -> None:
    """All connections are closed properly, ten times, with messages still in flight."""
    for _ in scene.times(10):
        scene.clients.tell("leave")
        scene.wait(0.5)


@fault("half-open connections")
def halfOpen(scene: Scene) -> None:
    """The network silently drops everything sent to the clients; they notice after 3 s and reconnect."""
    for _ in scene.times(2):
        scene.clients.tell("vanish")
        scene.wait(5)


@fault("clients stopped for a while")
def stoppedShort(scene: Scene) -> None:
    """The clients' process is stopped for 5 s, less than a ping may take."""
    _stop(scene, 5)


@fault("clients stopped for long", variant=HASTY, rate=150)
def stoppedLong(scene: Scene) -> None:
    """The clients' process is stopped for 15 s, much longer than a ping may take."""
    _stop(scene, 15)


def _stop(scene: Scene, seconds: float) -> None:
    scene.clients.process.send_signal(signal.SIGSTOP)
    scene.wait(seconds)
    scene.clients.process.send_signal(signal.SIGCONT)
    scene.wait(1)


@fault("a history shorter than the outage", variant=SHORT, tells=True)
def shortHistory(scene: Scene) -> None:
    """The clients are away, twice, until three times as much has been published as is kept."""
    for _ in range(2):
        scene.clients.tell("away")
        scene.publish(3 * KEPT)
        scene.clients.tell("back")
        scene.wait(1)


@fault("slow readers: close", size=20_000, tells=True)
def slowClose(scene: Scene) -> None:
    """The clients read nothing for 6 s, and the policy closes them; not everything that they missed is kept."""
    _slow(scene)


@fault("slow readers: drop-oldest", size=20_000, mount="/drop", tells=True)
def slowDrop(scene: Scene) -> None:
    """The same with a policy that drops the oldest messages."""
    _slow(scene)


@fault("slow readers: latest", size=20_000, mount="/latest", tells=True)
def slowLatest(scene: Scene) -> None:
    """The same with a policy that keeps only the newest message."""
    _slow(scene)


def _slow(scene: Scene) -> None:
    scene.clients.tell("pause")
    scene.wait(6)
    scene.clients.tell("read")
    scene.wait(1)


@fault("publishers cut")
def publisherCut(scene: Scene) -> None:
    """The publisher's connection is reset a hundred times, at any point; it republishes the message with the same key."""
    for _ in scene.times(100):
        scene.publisher.cut()
        scene.wait(0.05)


@fault("server drained", tells=True)
def drained(scene: Scene) -> None:
    """The server is stopped (SIGTERM) and restarted, twice; its history was in memory and is gone."""
    for _ in scene.times(2):
        scene.daemon.stop()
        scene.restart()
        scene.wait(2)


@fault("server killed", tells=True)
def killed(scene: Scene) -> None:
    """The server is killed (SIGKILL) and restarted, twice."""
    for _ in scene.times(2):
        scene.daemon.kill()
        scene.restart()
        scene.wait(2)


@fault("server stopped")
def serverStopped(scene: Scene) -> None:
    """The server's process is stopped for 5 s (SIGSTOP), then goes on."""
    scene.daemon.signal(signal.SIGSTOP)
    scene.wait(5)
    scene.daemon.signal(signal.SIGCONT)
    scene.wait(1)


@fault("server reloaded")
def reloaded(scene: Scene) -> None:
    """The server reloads certificates and keys (SIGHUP), thirty times."""
    for _ in scene.times(30):
        scene.daemon.signal(signal.SIGHUP)
        scene.wait(0.1)


def _restartProxy(scene: Scene, number: int) -> None:
    assert scene.proxy is not None
    for _ in scene.times(3):
        scene.proxy.stop(number)
        scene.wait(0.3)
        scene.proxy.start()
        scene.wait(1)


@fault("nginx restarted", proxy=Nginx)
def nginxRestarted(scene: Scene) -> None:
    """nginx, between all clients and the server, is stopped and restarted, three times."""
    _restartProxy(scene, signal.SIGTERM)


@fault("nginx reloaded", proxy=Nginx)
def nginxReloaded(scene: Scene) -> None:
    """Nginx reloads its configuration, five times; old workers go on with old connections."""
    assert scene.proxy is not None
    for _ in scene.times(5):
        scene.proxy.signal(signal.SIGHUP)
        scene.wait(0.6)


@fault("HAProxy killed", proxy=HAProxy)
def haproxyKilled(scene: Scene) -> None:
    """HAProxy, between all clients and the server, is killed and restarted, three times."""
    _restartProxy(scene, signal.SIGKILL)


@fault("server killed behind HAProxy", proxy=HAProxy, tells=True)
def killedBehind(scene: Scene) -> None:
    """The server behind HAProxy is killed and restarted."""
    killed(scene)


@fault("everything at once")
def everything(scene: Scene) -> None:
    """Clients and publisher are cut, leave and vanish, while the server is stopped and reloaded again and again."""
    for _ in scene.times(3):
        for word in ("cut", "leave", "vanish"):
            scene.publisher.cut()
            scene.clients.tell(word)
            scene.daemon.signal(signal.SIGHUP)
            scene.wait(0.7)
        scene.daemon.signal(signal.SIGSTOP)
        scene.wait(1)
        scene.daemon.signal(signal.SIGCONT)


@dataclass
class FaultRow:
    """The result of a fault.

    Attributes:
        name: the name of the fault.
        published: the number of messages.
        kinds: the counts for each kind of subscriber: delivered, lost silently, reported lost, doubled, out of order.
        subscribers: how many there were; 0 for unknown.
        connects: how often subscribers connected.
        tries: how often the publisher had to publish again.
        seconds: how long it took.
        whole: seconds from the end of the fault to the last message that was late.
        faults: everything wrong.
    """

    name: str
    published: int = 0
    kinds: dict[str, dict[str, int]] = field(default_factory=dict)
    subscribers: int = 0
    connects: int = 0
    tries: int = 0
    seconds: float = 0.0
    whole: float = 0.0
    faults: list[str] = field(default_factory=list)

    def judge(self, account: dict[str, Any], publisher: Publisher, tells: bool) -> None:
        """Take the counts of the subscribers and of the publisher, and note everything wrong.

        Args:
            account: what the subscribers have counted.
            publisher: the publisher.
            tells: whether losses may be reported.
        """
        self.published = sum(publisher.published.values()) - sum(map(len, publisher.unsure.values()))
        self.kinds, self.connects, self.tries = account["kinds"], account["connects"], publisher.tries
        wrong = {
            "silent": "lost silently",
            "doubled": "doubled",
            "disordered": "out of order",
            "jumps": "ids that do not follow the one before",
        }
        if not tells:
            wrong |= {"told": "lost, and told so, where none need be", "alarms": "false alarms"}
        for name, what in wrong.items():
            if found := sum(kind[name] for kind in self.kinds.values()):
                which = f" ({', '.join(account['missing'])})" if name == "silent" else ""
                self.faults.append(f"{found} {what}{which}")
        for strange in (*account["strange"][:1], publisher.wrong):
            if strange:
                self.faults.append(f"an answer that nobody expects: {strange}")

    def asData(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return asdict(self)


def suffer(each: Fault, directory: Path, count: int = 3, scale: float = 1.0, cores: tuple[int, int] | None = None) -> FaultRow:
    """Apply a fault, and count messages.

    Args:
        each: the fault.
        directory: the daemon's directory.
        count: the number of subscribers of each kind, with and without TLS.
        scale: the share of its duration and repetitions to run.
        cores: the cores for the daemon and for the others; None for any.
    """
    core, others = cores or (None, None)
    begun, row = time.monotonic(), FaultRow(each.name)
    with ExitStack() as stack:
        daemon = stack.enter_context(Daemon(each.variant, directory, core))
        proxy = stack.enter_context(each.proxy(daemon, others)) if each.proxy else None
        ports = {"ws": proxy.ws if proxy else daemon.ws, "tls": daemon.tls}
        words = {
            "places": [ports],
            "kinds": SEEING,
            "mount": each.mount,
            "channels": CHANNELS,
            "count": count,
            "secure": proxy is None,
        }
        clients = stack.enter_context(Clients(words, others))
        clients.tell("begin")
        publisher = Publisher([daemon.http], CHANNELS, each.rate, each.size)
        scene = Scene(daemon, clients, publisher, proxy, scale)
        with publisher:
            scene.wait(1)
            each.run(scene)
            scene.wait(1)
        account = clients.tell("rest", json.dumps(publisher.published), json.dumps(publisher.unsure))
    row.judge(account, publisher, each.tells)
    row.seconds = time.monotonic() - begun
    return row
