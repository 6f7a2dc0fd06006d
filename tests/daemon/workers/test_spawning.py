from __future__ import annotations

import errno
import os
from typing import Any

import msgspec
import pytest
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure

from twisted_ws.daemon.workers.crew import Worker
from twisted_ws.daemon.workers.pipe import Certificates
from twisted_ws.daemon.workers.policy import Pulse
from twisted_ws.daemon.workers.spawning import LINES, LINGER, LOG, AdoptedProcess, WorkerProcess, howEnded
from twisted_ws.telemetry.records import Record


@pytest.mark.parametrize(
    ("error", "how"),
    [
        (ProcessDone(0), "has ended"),
        (ProcessTerminated(3), "has ended with exit code 3"),
        (ProcessTerminated(signal=9), "was ended by SIGKILL"),
        (ProcessTerminated(signal=63), "was ended by signal 63"),
    ],
)
def test_howEnded(error: Exception, how: str) -> None:
    """The log says how a process has ended."""
    assert howEnded(error) == how


class Ended:
    """A process whose end is the test's."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.told: list[str] = []
        self.process = WorkerProcess(Worker(0, Pulse(3)), lambda worker, how: self.told.append(how), self.clock)
        self.process.pid = 2**22 + 5  # there is none

    def exit(self) -> Failure:
        reason = Failure(ProcessTerminated(1))
        self.process.processExited(reason)
        return reason


def test_whatItSaidLast() -> None:
    """Of a process that could not start, the last line of its standard error is the reason; nothing else of that is logged."""
    ended = Ended()
    with capturedLogs() as events:
        ended.process.childDataReceived(2, b"Traceback\n  File x\nModuleNotF")
        ended.process.childDataReceived(2, b"oundError: No module named 'y'\n")
        ended.process.processEnded(ended.exit())
    assert ended.told == ["has ended with exit code 1: ModuleNotFoundError: No module named 'y'"]
    assert not events


def test_whatItPrints() -> None:
    """What a worker writes to its standard streams is in the log, from the beginning on, once it works."""
    ended = Ended()
    with capturedLogs() as events:
        ended.process.childDataReceived(1, b"early\n")
        ended.process.show()
        ended.process.childDataReceived(1, b"late\n\n")
        record = Record("2026-11-20T09:30:00.000+00:00", "warn", "a", "it.happened", "an event")
        ended.process.childDataReceived(LOG, msgspec.json.encode(record) + b"\n")
        ended.process.processEnded(ended.exit())
    assert [formatEvent(event) for event in events] == ["worker 1: early", "worker 1: late", "worker 1: an event"]
    assert ended.told == ["has ended with exit code 1"]


def test_printsVeryMuch() -> None:
    """However many lines a worker prints at once, all are in the log, as few events."""
    lines = [f"line {number}" for number in range(10 * LINES)]
    with capturedLogs() as logs:
        ended = Ended()
        ended.process.show()
        ended.process.childDataReceived(1, "\n".join(lines).encode())
    assert len(logs) == LINES + 1
    assert "\n".join(str(event["text"]) for event in logs).splitlines() == lines


def test_childrenThatStay() -> None:
    """The end of a process is told even if processes that it has started keep its streams open; and once only."""
    ended = Ended()
    reason = ended.exit()
    assert ended.told == []
    ended.clock.advance(LINGER)
    assert ended.told == ["has ended with exit code 1"]
    ended.process.processEnded(reason)
    assert ended.told == ["has ended with exit code 1"]
    assert not ended.clock.getDelayedCalls()


def test_killOfOneThatIsGone() -> None:
    """To kill a process that is gone does nothing, so another that has its number by now is safe."""
    ended = Ended()
    ended.process.kill()
    ended.exit()
    assert ended.process.pid is None
    ended.process.kill()


def test_pid() -> None:
    """The number of a process is known when it has started."""
    ended = Ended()
    transport: Any = type("Transport", (), {"pid": 77})()
    ended.process.makeConnection(transport)
    assert ended.process.pid == 77


def test_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that another supervisor has started and that is gone has ended; where descriptors are short, nobody knows."""
    clock, told = Clock(), []

    def adopt(pid: int) -> AdoptedProcess:
        ended = lambda worker, how: told.append(how)  # noqa: E731
        return AdoptedProcess(Worker(0, Pulse(3)), pid, {}, None, b"", ended, clock, Certificates())

    adopt(2**22 + 5).begin()  # there is none
    clock.advance(0)
    assert told == ["has ended"]

    def refuse(pid: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("os.pidfd_open", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        adopt(os.getpid())
