from __future__ import annotations

import json
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import TestCase

from twisted_ws.commands.main import main
from twisted_ws.daemon.workers import control
from twisted_ws.daemon.workers.control import ControlSocket, ask, controlSockets
from twisted_ws.errors import ConfigurationError

SERVICES = {"reload": "services"}
CERTIFICATES = {"reload": "certificates"}


class ControlTests(TestCase):
    def setUp(self) -> None:
        self.directory = self.enterContext(tempfile.TemporaryDirectory(prefix="ws-"))
        self.asked: list[bool] = []
        self.askers: list[str] = []
        self.wrong: list[str] = []
        self.control = ControlSocket(self.directory, reactor, self.reload, self.upgrade)
        self.addCleanup(self.control.stop)

    async def upgrade(self, asker: int) -> list[str]:
        with socket.socket(fileno=os.dup(asker)) as connection:
            self.askers.append(os.fsdecode(connection.getsockname()))
        return self.wrong

    async def reload(self, services: bool) -> list[str]:
        self.asked.append(services)
        if self.wrong == ["a bug"]:
            raise RuntimeError("a bug")
        return self.wrong

    async def test_asks(self) -> None:
        """Whoever may write to the socket can have certificates read again or services replaced, and hears what is wrong."""
        self.control.listen()
        process = os.getpid()
        path = f"{self.directory}/control.{process}"
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert list(controlSockets(self.directory)) == [process]
        assert await deferToThread(ask, self.directory, process, CERTIFICATES) == []
        self.wrong = ["The certificate is gone."]
        assert await deferToThread(ask, self.directory, process, SERVICES) == self.wrong
        assert self.asked == [False, True]
        await self.control.stop()
        assert list(controlSockets(self.directory)) == []

    async def test_anAskerThatHangsUp(self) -> None:
        """Whoever asks for an upgrade may hang up while it runs: the descriptor by which they are answered stays theirs."""
        began, hungUp, over = Deferred[None](), Deferred[None](), Deferred[str]()

        async def upgrade(asker: int) -> list[str]:
            began.callback(None)
            await hungUp
            with socket.socket(fileno=os.dup(asker)) as connection:
                over.callback(os.fsdecode(connection.getsockname()))
            return []

        self.control.upgrade = upgrade
        self.patch(control._Control, "connectionLost", lambda protocol, reason: hungUp.callback(None))
        self.control.listen()
        path = f"{self.directory}/control.{os.getpid()}"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.sendall(b'{"upgrade": true}\n')
            await began
        assert await over == path

    async def test_saysWhich(self) -> None:
        """Whoever runs twisted-ws reload is told which process has done what."""
        self.control.listen()
        for more, what in (
            (["--services"], "all workers have been replaced"),
            ([], "certificates, keys, authenticators and rules have been read again"),
        ):
            with redirect_stdout(StringIO()) as said:
                code = await deferToThread(main, ["reload", "--state-directory", self.directory, *more])
            assert code == 0
            assert said.getvalue() == f"process {os.getpid()}: {what}\n"

    async def test_aBug(self) -> None:
        """A reload that fails inside the server is in its log, and whoever asked is told that it is there."""
        self.control.listen()
        self.wrong = ["a bug"]
        said = await deferToThread(ask, self.directory, os.getpid(), CERTIFICATES)
        assert said == ["The server has failed; its log says why."]
        assert len(self.flushLoggedErrors(RuntimeError)) == 1

    async def test_nonsense(self) -> None:
        """A request that is none is answered, and does nothing."""
        self.control.listen()

        def send(line: bytes) -> Any:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(f"{self.directory}/control.{os.getpid()}")
                client.sendall(line)
                with client.makefile("rb") as answer:
                    return json.loads(answer.readline())

        for line in (b"reload\n", b'{"reload": "all"}\n', b"[]\n"):
            assert await deferToThread(send, line) == {"wrong": ["The request is from another version."]}
        assert self.asked == []


def test_whereItCannotBe(tmp_path: Path) -> None:
    """Where the directory cannot be used, one line says so and what to do, and the server goes on without."""
    (tmp_path / "file").write_text("")
    long = tmp_path / ("x" * 120)
    for directory, why in ((tmp_path / "file", "File exists"), (long, "its path would be too long")):
        with capturedLogs() as events:
            ControlSocket(str(directory), reactor, None, None).listen()  # type: ignore[arg-type]
        (said,) = map(formatEvent, events)
        assert said.startswith("There is no control socket ")
        assert why in said
        assert "Give --state-directory." in said


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ws-") as directory:
        yield Path(directory)


def _left(place: Path, process: int) -> None:
    """Leave what a server leaves that was killed."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(place / f"control.{process}"))


def test_thoseOfTheDead(place: Path) -> None:
    """Sockets of servers that were killed are removed, and other files are not."""
    _left(place, 5)
    (place / "control.txt").write_text("")
    (place / "self-signed.pem").write_text("")
    assert list(controlSockets(str(place))) == []
    assert sorted(os.listdir(place)) == ["control.txt", "self-signed.pem"]
    assert list(controlSockets(str(place / "nowhere"))) == []


def test_aServerThatIsStopped(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that lets nobody in any more does not keep others from starting, and keeps its socket; odd names do no harm."""
    monkeypatch.setattr(control, "PROBE", 0.01)
    with ExitStack() as stack:
        for name in ("control.5", "control.²"):
            listening = stack.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(str(place / name))
            listening.listen(0)
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
        waiting.connect(str(place / "control.5"))
        assert list(controlSockets(str(place))) == []
        assert sorted(os.listdir(place)) == ["control.5", "control.²"]


def test_noAnswer(place: Path) -> None:
    """A server that is not there, or that ends before it answers, is an error that names it."""
    with pytest.raises(ConfigurationError, match=rf"Process 5 is not a server with workers that uses {place}\."):
        ask(str(place), 5, SERVICES)


# The command.


def test_noServer(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a server, twisted-ws reload says where it has looked, and its exit code is 3."""
    assert main(["reload", "--state-directory", str(place)]) == 3
    assert str(place) in capsys.readouterr().err
    assert main(["reload", "--state-directory", str(place), "--process", "5"]) == 3


def test_severalServers(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With several servers one has to be named, and its exit code is 2 until then."""
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        for process, each in ((5, one), (17, two)):
            each.bind(str(place / f"control.{process}"))
            each.listen()
        assert main(["reload", "--state-directory", str(place)]) == 2
    assert "several servers are running: choose one with --process: 17, 5" in capsys.readouterr().err


def test_wrongNumber(capsys: pytest.CaptureFixture[str]) -> None:
    """A process that is no number is a mistake of usage."""
    assert main(["reload", "--process", "x"]) == 2
    assert "--process must be a number, not 'x'" in capsys.readouterr().err
