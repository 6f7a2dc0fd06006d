from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from twisted_ws import __version__
from twisted_ws.daemon.workers.crew import Crew, RollFailed, Worker
from twisted_ws.errors import ConfigurationError
from twisted_ws.limits import Limits

LIMITS = Limits(drainTimeout=30, workerSilence=3, workerStart=60)


class FakeLine:
    """A link whose other side is the test."""

    def __init__(self) -> None:
        self.heard = 0.0
        self.whyDropped: str | None = None
        self.handlers: dict[str, Callable[..., Any]] = {}
        self.sent: list[tuple[Any, ...]] = []
        self.asked: list[tuple[str, Deferred[Any]]] = []
        self.lost: Callable[[], object] = lambda: None

    def handle(self, kind: str, handler: Callable[..., Any]) -> None:
        self.handlers[kind] = handler

    answer = handle

    def send(self, *frame: Any) -> None:
        self.sent.append(frame)

    def request(self, kind: str, *fields: Any) -> Deferred[Any]:
        self.asked.append((kind, Deferred()))
        return self.asked[-1][1]

    def onLost(self, call: Callable[[], object]) -> None:
        self.lost = call

    def drop(self, why: str) -> None:
        self.whyDropped = why
        self.lost()


class FakeProcess:
    def __init__(self, end: Callable[[str], None]) -> None:
        self.pid: int | None = 1
        self.shown = False
        self._end = end

    def kill(self) -> None:
        if self.pid is not None:
            self.exit("was ended by SIGKILL")

    def exit(self, how: str = "has ended") -> None:
        self.pid = None
        self._end(how)

    def show(self) -> None:
        self.shown = True


class Stage:
    """A crew on a clock of its own, whose processes are played by the test."""

    def __init__(self, count: int, limits: Limits = LIMITS) -> None:
        self.clock = Clock()
        self.launched: list[Any] = []
        self.orders = b"orders"
        self.refused: OSError | None = None
        self.crew = Crew(count, limits, self.clock, self._launch, lambda: self.orders)
        self.first: list[Any] = []

    def _launch(self, worker: Any) -> None:
        if self.refused is not None:
            raise self.refused
        worker.line = FakeLine()
        worker.process = FakeProcess(lambda how: self.crew.processEnded(worker, how))
        self.launched.append(worker)

    def start(self, ready: bool = True) -> None:
        """Start it, and let all workers listen."""
        self.crew.start().addBoth(self.first.append)
        if ready:
            for worker in tuple(self.launched):
                self.ready(worker)

    def ready(self, worker: Any) -> None:
        assert worker.line.handlers["worker.hello"](__version__) == self.orders
        worker.line.handlers["worker.ready"]()

    def pass_(self, seconds: int) -> None:
        """Let seconds pass, in which all that live answer."""
        for _ in range(seconds):
            self.clock.advance(1)
            for worker in self.crew.workers:
                for kind, later in worker.line.asked:  # type: ignore[attr-defined]
                    if kind == "worker.ping" and not later.called:
                        later.callback("")

    @property
    def last(self) -> Any:
        return self.launched[-1]


@pytest.fixture
def logged() -> Iterator[Callable[[], list[str]]]:
    """What the log says."""
    with capturedLogs() as events:
        yield lambda: [formatEvent(event) for event in events]


def test_start(logged: Callable[[], list[str]]) -> None:
    """Each slot gets a worker, each of them the orders, and one line says how many listen when the last one does."""
    stage = Stage(3)
    stage.start(ready=False)
    assert [worker.slot for worker in stage.launched] == [0, 1, 2]
    for n, worker in enumerate(stage.launched):
        assert (stage.first, logged()) == ([], []), n
        stage.ready(worker)
        assert worker.process.shown
    assert (stage.first, logged()) == ([None], ["3 workers listen"])


def test_nobodyCanStart(logged: Callable[[], list[str]]) -> None:
    """If no worker can start, the start fails with the reason of the first, once all have failed."""
    stage = Stage(2)
    stage.start(ready=False)
    stage.launched[0].line.handlers["worker.failed"]("The service is broken.")
    stage.launched[0].process.exit("has ended with exit code 1")
    assert stage.first == []
    stage.launched[1].process.exit("has ended with exit code 1: MemoryError")
    assert [str(failure.value) for failure in stage.first] == ["The service is broken."]
    assert isinstance(stage.first[0].value, ConfigurationError)
    assert logged() == []  # that is for whoever has asked


def test_noProcesses() -> None:
    """If the system starts no processes, the start fails with its reason."""
    stage = Stage(2)
    stage.refused = PermissionError(13, "Permission denied")
    stage.start(ready=False)
    assert [str(failure.value) for failure in stage.first] == ["Workers cannot be started: Permission denied."]


def test_someCannotStart(logged: Callable[[], list[str]]) -> None:
    """If only some start, the others are said, tried again after a while, and their slots are covered meanwhile."""
    stage = Stage(2)
    stage.start(ready=False)
    stage.ready(stage.launched[0])
    stage.launched[1].process.exit("was ended by SIGKILL")
    assert stage.first == [None]
    assert logged() == ["A worker cannot start: it was ended by SIGKILL. It is tried again.", "1 of 2 workers listen"]
    assert stage.launched[0].line.sent == [("worker.cover", 1)]
    stage.pass_(1)
    stage.ready(stage.last)
    assert stage.launched[0].line.sent == [("worker.cover", 1), ("worker.uncover", 1)]


def test_aReasonIsSaidOnce(logged: Callable[[], list[str]]) -> None:
    """A worker that still cannot start for the same reason is tried ever more rarely, and says nothing new."""
    stage = Stage(2)
    stage.start()
    stage.launched[1].process.exit("was ended by SIGSEGV")
    begun = len(logged())
    for _ in range(100):
        if stage.last.process.pid is not None and stage.last.slot == 1:
            stage.last.line.handlers["worker.failed"]("The service is broken.")
            stage.last.process.exit("has ended with exit code 1")
        stage.pass_(1)
    assert logged()[begun:] == ["The service is broken. It is tried again."]
    assert len(stage.launched) < 12


def test_aDeath(logged: Callable[[], list[str]]) -> None:
    """A worker that dies is said, and replaced at once in its slot; the others do nothing."""
    stage = Stage(2)
    stage.start()
    stage.launched[0].line.lost()
    stage.launched[0].process.exit("was ended by SIGKILL")
    stage.clock.advance(0)
    assert [worker.slot for worker in stage.launched] == [0, 1, 0]
    assert stage.launched[1].line.sent == []
    stage.ready(stage.last)
    assert logged()[1:] == [
        "worker 1 was ended by SIGKILL: its connections are lost, and a new one starts now",
        "worker 1 listens again",
    ]


def test_oneThatKeepsDying(logged: Callable[[], list[str]]) -> None:
    """At the third death within ten seconds the slot waits, and another worker accepts for it until it is filled."""
    stage = Stage(3)
    stage.start()
    for _ in range(3):
        victim = next(worker for worker in reversed(stage.launched) if worker.slot == 1)
        victim.process.exit("was ended by SIGSEGV")
        stage.clock.advance(0)
        if stage.last.process.pid is not None and stage.last is not victim:
            stage.ready(stage.last)
    assert logged()[-1] == "worker 2 was ended by SIGSEGV: its connections are lost, and a new one starts in 1 s"
    assert stage.launched[0].line.sent == [("worker.cover", 1)]
    count = len(stage.launched)
    stage.pass_(1)
    assert len(stage.launched) == count + 1
    assert stage.launched[0].line.sent == [("worker.cover", 1)]
    stage.ready(stage.last)
    assert stage.launched[0].line.sent[1:] == [("worker.uncover", 1)]


def test_whoCoversDies() -> None:
    """When the worker that accepts for another slot dies, a third one does."""
    stage = Stage(3)
    stage.start(ready=False)
    for worker in stage.launched[:2]:
        stage.ready(worker)
    stage.launched[2].process.exit()
    assert stage.launched[0].line.sent == [("worker.cover", 2)]
    stage.launched[0].process.exit("was ended by SIGKILL")
    assert stage.launched[1].line.sent == [("worker.cover", 2)]


def test_silence(logged: Callable[[], list[str]]) -> None:
    """A worker that answers none of three pings is killed and replaced; one whose frames keep coming is not."""
    stage = Stage(2)
    stage.start()
    busy, stuck = stage.launched
    for second in range(20):
        busy.line.heard = float(second + 1)
        stage.clock.advance(1)
        if stuck.process.pid is None:
            break
    assert second == 3
    assert busy.process.pid is not None
    assert "worker 2 has not answered for 3 s: it is killed" in logged()
    stage.clock.advance(0)
    assert stage.last.slot == 1


def test_aSupervisorThatStoodStill() -> None:
    """When the supervisor itself stood still for minutes, its workers get time to answer."""
    stage = Stage(1)
    stage.start()
    stage.clock.advance(600)
    assert stage.launched[0].process.pid is not None


def test_oneThatStartsForTooLong(logged: Callable[[], list[str]]) -> None:
    """A worker that does not listen within `workerStart` is killed, and that is said."""
    stage = Stage(2)
    stage.start(ready=False)
    stage.ready(stage.launched[0])
    stage.pass_(60)
    assert "A worker was not ready after 60 s, and was killed. It is tried again." in logged()


def test_anotherVersion() -> None:
    """A worker of another version of the package is refused: what is installed was changed under a running server."""
    stage = Stage(1)
    stage.start(ready=False)
    stage.launched[0].line.handlers["worker.hello"]("0.0.1")
    (failure,) = stage.first
    assert str(failure.value) == f"twisted_ws 0.0.1 is installed now, and {__version__} runs: restart the server."


def test_aLinkThatWasDropped() -> None:
    """A worker whose link was dropped, because it does not read, is killed at once; one whose link has ended gets 5 s."""
    stage = Stage(2)
    stage.start()
    first, second = stage.launched
    first.line.drop("it leaves 70000000 bytes unread")
    assert first.process.pid is None
    second.line.lost()
    stage.clock.pump([0] + [1] * 4)
    assert second.process.pid is not None
    stage.clock.advance(1)
    assert second.process.pid is None


def test_stop() -> None:
    """At a stop all workers are asked to leave, one that starts is killed, and nobody is replaced; it ends with the last one."""
    stage = Stage(3)
    stage.start(ready=False)
    for worker in stage.launched[:2]:
        stage.ready(worker)
    ended: list[Any] = []
    stage.crew.stop().addCallback(ended.append)
    assert stage.launched[2].process.pid is None
    assert [worker.line.sent for worker in stage.launched[:2]] == [[("worker.drain",)]] * 2
    stage.launched[0].process.exit()
    assert ended == []
    stage.launched[1].process.exit()
    assert len(ended) == 1
    stage.clock.advance(100)
    assert len(stage.launched) == 3
    assert not stage.clock.getDelayedCalls()


def test_stopOfOneThatDoesNotEnd() -> None:
    """A worker that has not ended 10 s after `drainTimeout` is killed."""
    stage = Stage(1)
    stage.start()
    ended: list[Any] = []
    stage.crew.stop().addCallback(ended.append)
    stage.pass_(39)
    assert ended == []
    stage.pass_(1)
    assert len(ended) == 1


def test_killAll() -> None:
    """A second signal ends all workers, in whatever state they are."""
    stage = Stage(2)
    stage.start(ready=False)
    stage.ready(stage.launched[0])
    stage.crew.stop()
    stage.crew.killAll()
    assert [worker.process.pid for worker in stage.launched] == [None, None]


def test_roll() -> None:
    """Workers are replaced one by one: each is asked to leave when the next of its slot listens, and waited for."""
    stage = Stage(2)
    stage.start()
    done: list[Any] = []
    stage.orders = b"new orders"
    Deferred.fromCoroutine(stage.crew.roll()).addBoth(done.append)
    assert [worker.slot for worker in stage.launched] == [0, 1, 0]
    assert stage.launched[0].line.sent == []
    stage.ready(stage.last)
    assert stage.launched[0].line.sent == [("worker.drain",)]
    stage.pass_(20)
    assert len(stage.launched) == 3
    stage.launched[0].process.exit()
    assert [worker.slot for worker in stage.launched] == [0, 1, 0, 1]
    stage.ready(stage.last)
    stage.launched[1].process.exit()
    assert done == [None]
    assert [worker.slot for worker in stage.crew.ready] == [0, 1]
    assert len(stage.launched) == 4


def test_rollThatFails(logged: Callable[[], list[str]]) -> None:
    """If the first new worker cannot start, all old ones stay, and whoever has asked is told why."""
    stage = Stage(2)
    stage.start()
    done: list[Any] = []
    Deferred.fromCoroutine(stage.crew.roll()).addBoth(done.append)
    stage.last.line.handlers["worker.failed"]("The module rooms has no Room.")
    stage.last.process.exit("has ended with exit code 1")
    (failure,) = done
    assert (failure.type, str(failure.value), failure.value.replaced) == (RollFailed, "The module rooms has no Room.", 0)
    assert stage.crew.ready == stage.launched[:2]
    assert [worker.line.sent for worker in stage.launched[:2]] == [[], []]
    stage.pass_(100)
    assert len(stage.launched) == 3
    assert logged() == ["2 workers listen"]


def test_rollThatFailsInTheMiddle() -> None:
    """If a later one cannot start, it is said how many were replaced."""
    stage = Stage(2)
    stage.start()
    done: list[Any] = []
    Deferred.fromCoroutine(stage.crew.roll()).addBoth(done.append)
    stage.ready(stage.last)
    stage.launched[0].process.exit()
    stage.last.process.exit("was ended by SIGKILL")
    assert str(done[0].value) == "A worker cannot start: it was ended by SIGKILL. 1 of 2 workers were replaced."
    assert done[0].value.replaced == 1


def test_rollOfAnEmptySlot() -> None:
    """A slot whose worker waits to be started again gets the new one at once."""
    stage = Stage(2)
    stage.start(ready=False)
    stage.ready(stage.launched[0])
    stage.launched[1].process.exit()
    done: list[Any] = []
    Deferred.fromCoroutine(stage.crew.roll()).addBoth(done.append)
    stage.ready(stage.last)
    stage.launched[0].process.exit()
    stage.ready(stage.last)
    assert done == [None]
    stage.pass_(100)
    assert len(stage.launched) == 4
    # The substitute was replaced too, and the new one was told what it stands in for.
    assert stage.launched[2].line.sent == [("worker.cover", 1), ("worker.uncover", 1)]


def test_oneRollAtATime() -> None:
    """A second roll during a first one is refused."""
    stage = Stage(1)
    stage.start()
    done: list[Any] = []
    Deferred.fromCoroutine(stage.crew.roll())
    Deferred.fromCoroutine(stage.crew.roll()).addErrback(lambda failure: done.append(str(failure.value)))
    assert done == ["Workers are being replaced already: wait until that has ended."]


def test_rollDuringAStop() -> None:
    """A stop ends a roll: nobody waits for a worker that does not start any more."""
    stage = Stage(2)
    stage.start()
    done: list[Any] = []
    Deferred.fromCoroutine(stage.crew.roll()).addErrback(lambda failure: done.append(failure.type))
    stage.crew.stop()
    assert done == [RollFailed]


def test_reload() -> None:
    """All workers that have had orders are asked to reload, and what is wrong is told once though all have found it."""
    stage = Stage(4)
    stage.start(ready=False)
    for worker in stage.launched[:2]:
        stage.ready(worker)
    stage.launched[2].line.handlers["worker.hello"](__version__)
    found: list[Any] = []
    stage.crew.reload({}).addCallback(found.append)
    asked = [worker.line.asked[-1] for worker in stage.launched[:3]]
    assert [kind for kind, _ in asked] == ["worker.reload"] * 3
    asked[2][1].callback([])
    asked[0][1].callback(["The certificate is gone."])
    asked[1][1].callback(["The certificate is gone.", "And more."])
    assert found == [["The certificate is gone.", "And more."]]
    assert stage.launched[3].line.asked == []


def test_reloadOfOneThatEnds() -> None:
    """A worker that ends meanwhile has nothing to say: the next one reads all anew."""
    stage = Stage(2)
    stage.start()
    found: list[Any] = []
    stage.crew.reload({}).addCallback(found.append)
    stage.launched[0].line.asked[-1][1].errback(ConfigurationError("the link ended"))
    stage.launched[1].line.asked[-1][1].callback([])
    assert found == [[]]


def test_readiness() -> None:
    """New traffic is welcome while one worker takes it; otherwise the reason is that of the workers."""
    stage = Stage(2)
    assert stage.crew.readiness() == "starting"
    stage.start(ready=False)
    assert stage.crew.readiness() == "starting"
    stage.ready(stage.launched[0])
    assert stage.crew.readiness() is None
    stage.ready(stage.launched[1])
    for n, worker in enumerate(stage.launched):
        stage.clock.advance(1)
        worker.line.asked[-1][1].callback("full")
        assert stage.crew.readiness() == (None if n == 0 else "full")


def test_names() -> None:
    """People count workers from 1."""
    assert Worker(0, None).name == "worker 1"  # type: ignore[arg-type]
