"""The control socket: in the state directory, for ``twisted-ws reload`` to speak to a running supervisor."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from twisted_ws.daemon.listening.adopted import inheritUnixPort
from twisted_ws.errors import ConfigurationError
from twisted_ws.wire.tls.selfsigned import stateDirectory

# The name of the file, before the number of the process.
PREFIX = "control."
# Bytes of one request, at most.
REQUEST = 1024
# Seconds for a server to let a connection in: one that is stopped does not once 50 wait.
PROBE = 1.0
# The size of sun_path less its final zero byte (unix(7)).
_PATH_BYTES = 107


class ControlSocket:
    """Takes requests from those who may write to the socket: its owner, and root.

    A request is one line of JSON, ``{"reload": "services"}``, ``{"reload": "certificates"}`` or ``{"upgrade": true}``. The answer
    is another, ``{"wrong": [...]}``, when it is done.

    Args:
        directory: where; None: the user's state directory.
        reactor: the reactor.
        reload: does it, and returns what is wrong; its argument is whether services are meant.
        upgrade: gives the server to a new supervisor, which tells the asker how it went; returns what is wrong if that fails. Its
            argument is a descriptor of the connection to the asker, which is open until this returns.

    Attributes:
        port: what listens; None while nothing does.
    """

    _log = Logger()

    def __init__(
        self,
        directory: str | None,
        reactor: Any,
        reload: Callable[[bool], Awaitable[list[str]]],
        upgrade: Callable[[int], Awaitable[list[str]]],
    ) -> None:
        self._directory = directory
        self._reactor = reactor
        self.reload = reload
        self.upgrade = upgrade
        self.port: Any = None

    def listen(self, uid: int = -1, gid: int = -1) -> None:
        """Listen; say in the log if that cannot be.

        Args:
            uid: the user that the socket is for; -1: this one.
            gid: the same for the group.
        """
        if self.port is not None:
            return
        path = ""
        try:
            directory = self._directory or stateDirectory()
            os.makedirs(directory, mode=0o700, exist_ok=True)
            for _ in controlSockets(directory):
                pass  # which removes those of servers that were killed
            path = os.path.join(directory, f"{PREFIX}{os.getpid()}")
            if len(os.fsencode(path)) > _PATH_BYTES:
                raise OSError(0, "its path would be too long")
            factory = self._factory()
            self.port = self._reactor.listenUNIX(path, factory, mode=0o600)
            os.chown(path, uid, gid, follow_symlinks=False)  # the directory may be that user's, and this one root
        except Exception as error:
            why = getattr(error, "strerror", None) or getattr(getattr(error, "socketError", None), "strerror", None) or error
            self._log.warn(
                "There is no control socket {file} ({reason}): twisted-ws reload will not find this server. "
                "Give --state-directory.",
                file=path,
                reason=str(why),
                event="control.missing",
            )

    def _factory(self) -> _ControlFactory:
        factory = _ControlFactory()
        factory.protocol = _Control
        factory.control = self
        return factory

    def inherit(self, descriptor: int) -> None:
        """Listen on the socket of the supervisor before this one, under its number."""
        self.port = inheritUnixPort(self._reactor, descriptor, self._factory())

    def stop(self) -> Deferred[None]:
        """Stop listening."""
        port, self.port = self.port, None
        if port is None:
            return succeed(None)
        stopped: Deferred[None] = maybeDeferred(port.stopListening)
        # This user may not be allowed to remove it; the next one who looks for sockets does.
        return stopped.addErrback(lambda failure: None)


class _ControlFactory(Factory):
    """Makes the connections to it."""

    noisy = False
    control: ControlSocket

    def logPrefix(self) -> str:
        """Name it in the line in which Twisted logs that a Unix socket is open."""
        return "Control socket"


class _Control(LineOnlyReceiver):
    """One connection to it."""

    delimiter = b"\n"
    MAX_LENGTH = REQUEST
    factory: Any
    transport: Any

    def lineReceived(self, line: bytes) -> None:
        """Do what is asked for."""
        try:
            wanted = msgspec.json.decode(line)
        except ValueError:
            wanted = None
        control = self.factory.control
        if wanted == {"upgrade": True}:
            asked = self._upgrade()
        elif wanted in ({"reload": "services"}, {"reload": "certificates"}):
            asked = control.reload(wanted["reload"] == "services")
        else:
            self._answer(["The request is from another version."])
            return
        Deferred.fromCoroutine(asked).addCallbacks(self._answer, self._failed)

    async def _upgrade(self) -> list[str]:
        # Whoever has asked may hang up while this runs, and our descriptor's number be that of another connection then.
        asker = os.dup(self.transport.fileno())
        try:
            found: list[str] = await self.factory.control.upgrade(asker)
            return found
        finally:
            os.close(asker)

    def _failed(self, failure: Failure) -> None:
        ControlSocket._log.failure("a reload failed inside the server", failure, event="reload.failed")
        self._answer(["The server has failed; its log says why."])

    def _answer(self, wrong: list[str]) -> None:
        self.transport.write(msgspec.json.encode({"wrong": wrong}) + b"\n")
        self.transport.loseConnection()


def controlSockets(directory: str) -> Iterator[int]:
    """Yield the numbers of the processes that listen in a directory, and remove the sockets of those that are gone."""
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return
    for name in names:
        number = name.removeprefix(PREFIX)
        if name == number or not (number.isascii() and number.isdigit()):
            continue
        path = os.path.join(directory, name)
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(PROBE)
                probe.connect(path)
        except ConnectionRefusedError:
            try:
                os.unlink(path)
            except OSError:
                pass
        except OSError:
            pass
        else:
            yield int(number)


def ask(directory: str, process: int, request: Mapping[str, Any]) -> list[str]:
    """Ask a supervisor to do something (see `ControlSocket`), wait until it has, and return what is wrong.

    Raises:
        ConfigurationError: it does not answer.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(os.path.join(directory, f"{PREFIX}{process}"))
            connection.sendall(msgspec.json.encode(request) + b"\n")
            with connection.makefile("rb") as answer:
                wrong: list[str] = msgspec.json.decode(answer.readline())["wrong"]
        except (OSError, ValueError) as error:
            if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
                raise ConfigurationError(f"Process {process} is not a server with workers that uses {directory}.") from None
            why = error.strerror if isinstance(error, OSError) else "it ended first"
            raise ConfigurationError(f"The server, process {process}, does not answer: {why}.") from None
    return wrong
