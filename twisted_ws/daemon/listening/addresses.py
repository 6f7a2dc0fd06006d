"""Where to listen: a port number with an interface, or an endpoint string; and what is wrong with it."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from twisted.internet.endpoints import AdoptedStreamServerEndpoint, TCP4ServerEndpoint, TCP6ServerEndpoint, serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamServerEndpoint

from twisted_ws.daemon.listening.adopted import Adopting
from twisted_ws.daemon.workers.sockets import HoldingReactor, InheritedEndpoint, InheritedHoldingReactor, InheritingReactor
from twisted_ws.errors import ConfigurationError
from twisted_ws.wire.door.proxyprotocol import ProxiedEndpoint

# The kinds of endpoints whose parsers in Twisted take a backlog, which is added if none is given.
_TCP = ("tcp", "tcp4", "tcp6", "ssl")
_BACKLOG = (*_TCP, "tls", "unix")
_EVERYWHERE = ("", "0.0.0.0", "::")
# The size of sun_path less its final zero byte (unix(7)).
_UNIX_PATH_BYTES = 107


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """An address to listen on.

    Attributes:
        option: the flag that it came from, without dashes, for error messages.
        where: a port number, or an endpoint string.
        interface: an IP address for a port number; "" for every address of both families.
    """

    option: str
    where: str
    interface: str = ""

    @property
    def kind(self) -> str:
        """The kind of endpoint, such as "unix"; "" for a port number."""
        return "" if self.where.isdigit() else self.where.partition(":")[0]

    @property
    def isTLS(self) -> bool:
        """Whether the endpoint itself speaks TLS."""
        return self.kind in ("ssl", "tls")

    @property
    def path(self) -> str:
        """The path of a Unix socket; "" for other kinds."""
        return self._parts()[0].removeprefix("address=") if self.kind == "unix" else ""

    @property
    def _interfaceOption(self) -> str:
        if self.kind:
            return self.option
        return "broadcast-interface" if self.option.startswith("broadcast") else "interface"

    def isLoopback(self) -> bool:
        """Return whether only this machine can reach it; unknown kinds count as reachable from elsewhere."""
        if not self.kind:
            return _isLoopbackAddress(self.interface)
        if self.kind == "unix":
            return True
        addresses = [part.partition("=")[2] for part in self._parts() if part.startswith("interface=")]
        return self.kind in _TCP and bool(addresses) and all(map(_isLoopbackAddress, addresses))

    def overlaps(self, other: ListenAddress) -> bool:
        """Return whether both have the same port number on the same address."""
        same = self.interface == other.interface or self.interface in _EVERYWHERE or other.interface in _EVERYWHERE
        return not self.kind and self.where == other.where != "0" and same

    def endpoint(self, reactor: Any, backlog: int) -> IStreamServerEndpoint:
        """Return the endpoint.

        Args:
            reactor: the reactor.
            backlog: how many connections the kernel keeps until they are accepted.

        Raises:
            ConfigurationError: `where` is not an endpoint, or `interface` not an address.
        """
        if self.kind:
            return self._parsed(reactor, backlog)
        port, interface = int(self.where), "127.0.0.1" if self.interface == "localhost" else self.interface
        if not interface:
            if isDualStack():
                return TCP6ServerEndpoint(reactor, port, backlog, "::")
            return TCP4ServerEndpoint(reactor, port, backlog, "")
        try:
            version = ip_address(interface.partition("%")[0]).version
        except ValueError:
            raise ConfigurationError(f"--{self._interfaceOption} must be an IP address, not {interface!r}.") from None
        return (TCP4ServerEndpoint if version == 4 else TCP6ServerEndpoint)(reactor, port, backlog, interface)

    def _parsed(self, reactor: Any, backlog: int) -> IStreamServerEndpoint:
        if self.kind == "haproxy":
            return ProxiedEndpoint(ListenAddress(self.option, self.where.partition(":")[2])._parsed(reactor, backlog))
        if self.kind == "systemd" and isinstance(reactor, (InheritingReactor, InheritedHoldingReactor)):
            return InheritedEndpoint(reactor)
        if self.kind == "tls":
            self._refuseEmptyDirectory()
        try:
            endpoint: IStreamServerEndpoint = serverFromString(reactor, self._complete(backlog))
        except Exception as error:  # an endpoint may be a plugin, which may raise anything
            if self.kind == "systemd" and isinstance(error, LookupError):
                raise ConfigurationError(
                    f"--{self.option} {self.where}: systemd passed no such socket; start it through its socket unit."
                ) from None
            raise ConfigurationError(
                f"--{self.option} {self.where} cannot be used as an endpoint: {type(error).__name__}: {error}."
            ) from None
        if isinstance(endpoint, AdoptedStreamServerEndpoint) and endpoint.addressFamily == socket.AF_UNIX:
            endpoint.reactor = reactor if isinstance(reactor, HoldingReactor) else Adopting(reactor)
        return endpoint

    def _parts(self) -> list[str]:
        """Return the parts between colons, after the kind; a colon after a backslash belongs to a value."""
        parts = self.where.replace("\\\\", "\1").replace("\\:", "\0").split(":")[1:]
        return [part.replace("\0", ":").replace("\1", "\\") for part in parts]

    def _complete(self, backlog: int) -> str:
        """Return the endpoint string with our backlog, and for a Unix socket a mode that lets only owner and group in."""
        names = [part.partition("=")[0] for part in self._parts()[1:] if "=" in part]
        if self.kind not in _BACKLOG or len(names) != len(self._parts()) - 1:
            return self.where  # values without names may be any of them
        more = "" if "backlog" in names else f":backlog={backlog}"
        return self.where + more + (":mode=660" if self.kind == "unix" and "mode" not in names else "")

    def _refuseEmptyDirectory(self) -> None:
        # Twisted would listen without complaint, and every handshake would fail.
        directory = self._parts()[0]
        try:
            names = os.listdir(directory)
        except OSError as error:
            raise ConfigurationError(f"--{self.option}: the directory {directory} cannot be read: {error.strerror}.") from None
        if not any(name.endswith(".pem") for name in names):
            raise ConfigurationError(f"--{self.option}: the directory {directory} contains no certificate (*.pem).")

    def examine(self) -> None:
        """Check for what would keep a Unix socket from being made, as far as that can be seen beforehand.

        Raises:
            ConfigurationError: something would.
        """
        self.examinePath()
        path = self.path
        if os.path.isabs(path) and _holder(path) is not None:
            raise ConfigurationError(self._taken(path))

    def examinePath(self) -> None:
        """Do the same, but for a server that listens there already.

        Raises:
            ConfigurationError: something would.
        """
        path = self.path
        if not os.path.isabs(path):
            return  # the runner may change to another directory before it counts
        if len(os.fsencode(path)) > _UNIX_PATH_BYTES:
            raise ConfigurationError(
                f"--{self.option}: the path of a Unix socket may have at most {_UNIX_PATH_BYTES} bytes, but {path} has more."
            )
        directory = os.path.dirname(path)
        if not os.path.isdir(directory):
            raise ConfigurationError(f"--{self.option}: there is no directory for {path}: create it, or choose another.")
        if not os.access(directory, os.W_OK | os.X_OK):
            raise ConfigurationError(f"--{self.option}: this user may not write to the directory of {path}: choose another.")

    def clear(self) -> None:
        """Remove what a killed server has left of its Unix socket.

        Twisted considers a lock held while there is a process with its number: in a restarted container, that may be our own.
        """
        path = self.path
        if path and os.path.islink(f"{path}.lock") and _holder(path) is None:
            for each in (f"{path}.lock", path):
                try:
                    os.unlink(each)
                except OSError:
                    pass  # listening will show what is wrong

    @staticmethod
    def _taken(path: str) -> str:
        holder = _holder(path)
        who = f"Process {holder}" if holder is not None else "Another process"
        return f"{who} is listening on {path}: stop it; or, if it is not a server, remove {path} and {path}.lock."

    def explain(self, error: BaseException | None) -> str:
        """Return one line for an error of listening: what is wrong and what to do."""
        if not isinstance(error, CannotListenError):
            why = error.strerror if isinstance(error, OSError) else error
            return f"--{self.option} {self.where} cannot listen: {why}."
        if not isinstance(error.port, int):
            if isinstance(error.socketError, OSError) and error.socketError.errno != errno.EADDRINUSE:
                return f"--{self.option} cannot listen on {_text(error.port)}: {error.socketError.strerror}."
            return self._taken(_text(error.port))
        number = getattr(error.socketError, "errno", None)
        address = _text(error.interface)
        where = f"port {error.port}" + (f" of {address}" if address not in _EVERYWHERE else "")
        if number == errno.EADDRINUSE:
            return f"Another process is listening on {where}: stop it, or choose another with --{self.option}."
        if number in (errno.EACCES, errno.EPERM):
            return (
                f"This user may not listen on {where}: start as root (and give twistd --uid), or choose another with "
                f"--{self.option}."
            )
        if number == errno.EADDRNOTAVAIL:
            return f"This machine has no address {address}: choose another for --{self._interfaceOption}."
        return f"Cannot listen on {where} (--{self.option}): {getattr(error.socketError, 'strerror', None) or error.socketError}."


def _text(value: Any) -> str:
    return os.fsdecode(value) if value else ""


def _holder(path: str) -> int | None:
    """Return the process that holds Twisted's lock of a Unix socket (a symbolic link to its id), None if nobody listens."""
    try:
        process = int(os.readlink(f"{path}.lock"))
        os.kill(process, 0)
    except PermissionError:
        pass  # another user's
    except (OSError, ValueError):
        return None
    # Numbers are reused, soon in a container: it may be another process, or ourselves.
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return None
        except FileNotFoundError:  # about to be made, unless the number was ours in an earlier life
            return None if process == os.getpid() else process
        except OSError:
            pass
    return process


def _isLoopbackAddress(address: str) -> bool:
    try:
        return address == "localhost" or ip_address(address).is_loopback
    except ValueError:
        return False


def isDualStack() -> bool:
    """Return whether a socket on :: takes IPv4 too: not if IPv6 is off or kept apart (sysctl bindv6only)."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::", 0))
            return not probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    except OSError:
        return False
