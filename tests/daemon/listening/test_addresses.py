from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import trustme
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock

from twisted_ws.daemon.listening import addresses
from twisted_ws.daemon.listening.addresses import ListenAddress
from twisted_ws.errors import ConfigurationError


def _refused(place: ListenAddress) -> str:
    def use() -> None:
        place.examine()
        place.endpoint(MemoryReactorClock(), 7)  # type: ignore[no-untyped-call]

    with pytest.raises(ConfigurationError) as caught:
        use()
    line = str(caught.value)
    assert "\n" not in line
    return line


def _listening(place: ListenAddress) -> MemoryReactorClock:
    reactor = MemoryReactorClock()  # type: ignore[no-untyped-call]
    place.endpoint(reactor, 1024).listen(Factory())
    return reactor


# Who can reach it.


@pytest.mark.parametrize(
    ("where", "interface", "loopback"),
    [
        ("8080", "127.0.0.1", True),
        ("8080", "127.1.2.3", True),
        ("8080", "::1", True),
        ("8080", "localhost", True),
        ("8080", "", False),
        ("8080", "0.0.0.0", False),
        ("8080", "10.0.0.1", False),
        ("8080", "nonsense", False),
        ("unix:/run/ws.sock", "", True),
        ("tcp:8080:interface=127.0.0.1", "", True),
        (r"tcp6:8080:interface=\:\:1", "", True),
        (r"tcp:8080:interface=\:\:", "", False),
        ("tcp:8080:interface=10.0.0.1", "127.0.0.1", False),
        ("tcp:8080", "127.0.0.1", False),
        ("tcp:8080:127.0.0.1", "", False),
        ("ssl:8443:interface=localhost:privateKey=k.pem", "", True),
        ("systemd:domain=INET:name=ws", "", False),
        ("haproxy:tcp:8080:interface=127.0.0.1", "", False),
        ("tls:/etc/tls:port=8443:interface=127.0.0.1", "", False),
    ],
)
def test_isLoopback(where: str, interface: str, loopback: bool) -> None:
    """Only an address that is known to be local counts as unreachable from elsewhere."""
    assert ListenAddress("broadcast-port", where, interface).isLoopback() is loopback


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        (("80", ""), ("80", ""), True),
        (("80", ""), ("80", "127.0.0.1"), True),
        (("80", "10.0.0.1"), ("80", "::"), True),
        (("80", "10.0.0.1"), ("80", "10.0.0.1"), True),
        (("80", "10.0.0.1"), ("80", "127.0.0.1"), False),
        (("80", ""), ("81", ""), False),
        (("0", ""), ("0", ""), False),
        (("tcp:80", ""), ("80", ""), False),
        (("80", ""), ("tcp:80", ""), False),
    ],
)
def test_overlaps(one: tuple[str, str], other: tuple[str, str], overlap: bool) -> None:
    """The same port number twice is only valid on two different addresses, or if the system chooses it."""
    assert ListenAddress("port", *one).overlaps(ListenAddress("tls-port", *other)) is overlap


# The endpoint.


class _Socket:
    """A socket of a system that has no IPv6 (`fails`), or keeps it apart (`only`)."""

    def __init__(self, fails: bool, only: int) -> None:
        self.fails, self.only = fails, only

    def __enter__(self) -> _Socket:
        return self

    def __exit__(self, *error: object) -> None:
        """End the with statement."""

    def bind(self, address: object) -> None:
        if self.fails:
            raise OSError(errno.EADDRNOTAVAIL, "no IPv6")

    def getsockopt(self, level: int, option: int) -> int:
        assert (level, option) == (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        return self.only


@pytest.mark.parametrize(("fails", "only", "interface"), [(False, 0, "::"), (False, 1, ""), (True, 0, "")])
def test_everyAddress(monkeypatch: pytest.MonkeyPatch, fails: bool, only: int, interface: str) -> None:
    """Without an interface, a port takes IPv6 and IPv4 if one socket can take both, and else IPv4."""
    monkeypatch.setattr(addresses.socket, "socket", lambda family: _Socket(fails, only))
    port, _, backlog, where = _listening(ListenAddress("port", "8080")).tcpServers[0]
    assert (port, backlog, where) == (8080, 1024, interface)


@pytest.mark.parametrize(
    ("interface", "kind", "address"),
    [
        ("127.0.0.1", TCP4ServerEndpoint, "127.0.0.1"),
        ("localhost", TCP4ServerEndpoint, "127.0.0.1"),
        ("::1", TCP6ServerEndpoint, "::1"),
        ("fe80::1%eth0", TCP6ServerEndpoint, "fe80::1%eth0"),
    ],
)
def test_oneAddress(interface: str, kind: type, address: str) -> None:
    """An interface is an address of one family."""
    place = ListenAddress("port", "8080", interface)
    assert isinstance(place.endpoint(MemoryReactorClock(), 5), kind)  # type: ignore[no-untyped-call]
    assert _listening(place).tcpServers[0][3] == address


@pytest.mark.parametrize(
    ("where", "backlog"),
    [
        ("tcp:8080:interface=127.0.0.1", 1024),
        ("tcp:port=8080:interface=127.0.0.1", 1024),
        ("tcp:8080:backlog=5", 5),
        ("tcp:8080:127.0.0.1", 50),  # what is not named may be anything: Twisted's own
    ],
)
def test_backlogOfAString(where: str, backlog: int) -> None:
    """An endpoint string without a backlog has ours, and not Twisted's 50."""
    assert _listening(ListenAddress("listen", where)).tcpServers[0][2] == backlog


def test_backslashes() -> None:
    """A colon or backslash after a backslash is part of a value."""
    place = ListenAddress("listen", r"unix:/run/a\:b\\c:mode=600")
    path, _, _, mode, _ = _listening(place).unixServers[0]
    assert (path, mode) == (place.path, 0o600) == ("/run/a:b\\c", 0o600)


@pytest.mark.parametrize(("more", "mode"), [("", 0o660), (":mode=600", 0o600), (":lockfile=0", 0o660)])
def test_modeOfAUnixSocket(more: str, mode: int) -> None:
    """A Unix socket lets its owner and group in, if nothing else is asked for."""
    assert _listening(ListenAddress("listen", "unix:/run/ws.sock" + more)).unixServers[0][3] == mode


@pytest.mark.parametrize(
    ("place", "part"),
    [
        (ListenAddress("interface", "8080", "nowhere"), "must be an IP address, not 'nowhere'"),
        (ListenAddress("listen", "carrier:pigeon"), "--listen carrier:pigeon cannot be used as an endpoint: ValueError"),
        (ListenAddress("listen", "tcp:eighty"), "--listen tcp:eighty cannot be used as an endpoint: ValueError"),
        (ListenAddress("listen", "systemd:domain=INET:name=ws"), "systemd passed no such socket"),
        (ListenAddress("listen", "ssl:8443:privateKey=/nowhere/key.pem"), "No such file"),
        (ListenAddress("listen", "tls:/nowhere:port=8443"), "the directory /nowhere cannot be read: No such file"),
    ],
)
def test_noEndpoint(place: ListenAddress, part: str) -> None:
    """An invalid endpoint is reported in one line that names the option."""
    assert part in _refused(place)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pyOpenSSL's, of what Twisted's endpoint calls
def test_aDirectoryWithoutCertificates(tmp_path: Path) -> None:
    """A tls: endpoint without a certificate is refused; Twisted would listen and fail every handshake."""
    place = ListenAddress("listen", f"tls:{tmp_path}:port=8443")
    assert _refused(place) == f"--listen: the directory {tmp_path} contains no certificate (*.pem)."
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "a.pem")
    assert _listening(place).tcpServers[0][0] == 8443


def test_isTLS() -> None:
    """Twisted's own TLS endpoints are known as such."""
    assert [ListenAddress("listen", where).isTLS for where in ("ssl:1", "tls:/x", "tcp:1", "1")] == [True, True, False, False]


# A Unix socket, looked at beforehand.


def test_unixPaths(tmp_path: Path) -> None:
    """What prevents a Unix socket is reported with its path; relative paths, which the runner may change, are not checked."""
    assert "no directory for /nowhere/ws.sock" in _refused(ListenAddress("listen", "unix:/nowhere/ws.sock"))
    assert "no directory for /nowhere/ws.sock" in _refused(ListenAddress("listen", "unix:address=/nowhere/ws.sock"))
    assert "at most 107 bytes" in _refused(ListenAddress("listen", f"unix:/{'x' * 107}"))
    for where in (f"unix:{tmp_path}/s", "unix:nowhere/s", "tcp:8080", "8080"):
        ListenAddress("listen", where).examine()


def test_aDirectoryOfOthers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that is not writable is reported."""
    monkeypatch.setattr(addresses.os, "access", lambda path, mode: False)
    assert "may not write" in _refused(ListenAddress("listen", f"unix:{tmp_path}/s"))


def test_aTakenUnixSocket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Unix socket held by a living process is reported with that process; one left by a dead process is no obstacle."""
    path = tmp_path / "s"
    place = ListenAddress("listen", f"unix:{path}")
    (tmp_path / "s.lock").symlink_to(str(os.getppid()))
    taken = f"Process {os.getppid()} is listening on {path}: stop it; or, if it is not a server, remove {path} and {path}.lock."
    assert _refused(place) == taken
    assert place.explain(CannotListenError(None, os.fsencode(path), "Cannot acquire lock")) == taken

    def kill(error: type[OSError]) -> None:
        def raising(process: int, number: int) -> None:
            raise error

        monkeypatch.setattr(addresses.os, "kill", raising)

    kill(PermissionError)  # it lives, as another user
    assert _refused(place) == taken
    kill(ProcessLookupError)
    place.examine()
    assert place.explain(CannotListenError(None, str(path), OSError(errno.EADDRINUSE, "in use"))).startswith("Another process")


# What is wrong when it cannot listen.


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            CannotListenError("", 80, OSError(errno.EADDRINUSE, "in use")),
            "Another process is listening on port 80: stop it, or choose another with --port.",
        ),
        (
            CannotListenError("127.0.0.1", 80, OSError(errno.EADDRINUSE, "in use")),
            "Another process is listening on port 80 of 127.0.0.1: stop it, or choose another with --port.",
        ),
        (
            CannotListenError("::", 80, OSError(errno.EACCES, "no")),
            "This user may not listen on port 80: start as root (and give twistd --uid), or choose another with --port.",
        ),
        (
            CannotListenError("192.0.2.1", 80, OSError(errno.EADDRNOTAVAIL, "no")),
            "This machine has no address 192.0.2.1: choose another for --interface.",
        ),
        (
            CannotListenError("127.0.0.1", 80, OSError(errno.ENOBUFS, "No buffer space")),
            "Cannot listen on port 80 of 127.0.0.1 (--port): No buffer space.",
        ),
        (CannotListenError("127.0.0.1", 80, "odd"), "Cannot listen on port 80 of 127.0.0.1 (--port): odd."),  # type: ignore[arg-type]
        (CannotListenError(None, b"/s", OSError(errno.EROFS, "Read-only")), "--port cannot listen on /s: Read-only."),  # type: ignore[arg-type]
        (FileNotFoundError(errno.ENOENT, "No such file"), "--port 80 cannot listen: No such file."),
        (RuntimeError("odd"), "--port 80 cannot listen: odd."),
    ],
)
def test_explain(error: Any, line: str) -> None:
    """Each way in which listening fails has its own line that says what is wrong and what to do."""
    assert ListenAddress("port", "80").explain(error) == line
