from __future__ import annotations

import socket
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.protocols.haproxy import proxyEndpoint

from tests.memory import upgrade
from twisted_ws.limits import Limits
from twisted_ws.wire.door import hosts
from twisted_ws.wire.door.head import parseHead
from twisted_ws.wire.door.hosts import isMisdirected, machineNames
from twisted_ws.wire.door.origins import AllowedHosts
from twisted_ws.wire.door.proxies import TrustedProxies


class Transport(StringTransport):
    """A connection from `peer` to `host`, which must be asked for its addresses only where they matter."""

    def __init__(self, host: Any, peer: Any, asked: bool = True) -> None:
        super().__init__()
        self.addresses = host, peer
        self.mayBeAsked = asked

    def getHost(self) -> Any:
        assert self.mayBeAsked
        return self.addresses[0]

    def getPeer(self) -> Any:
        assert self.mayBeAsked
        return self.addresses[1]


def address(text: str) -> Any:
    if text == "unix":
        return UNIXAddress(b"x")
    return (IPv6Address if ":" in text else IPv4Address)("TCP", text, 1)


@pytest.mark.parametrize(
    ("host", "peer", "forwarded", "misdirected"),
    [
        ("127.0.0.1", "127.0.0.1", False, True),
        ("127.9.9.9", "127.0.0.1", False, True),
        ("::1", "::1", False, True),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", False, True),
        ("127.0.0.1", "192.168.1.7", False, True),
        # A proxy's address is not enough, and neither is the header.
        ("127.0.0.1", "127.0.0.9", False, True),
        ("127.0.0.1", "127.0.0.1", True, True),
        ("127.0.0.1", "127.0.0.9", True, False),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.9", True, False),
        # What is reached by other ways, others reach, too.
        ("172.17.0.2", "172.17.0.1", False, False),
        ("192.168.1.5", "192.168.1.5", False, False),
        ("2001:db8::1", "2001:db8::2", False, False),
        ("unix", "unix", False, False),
    ],
)
def test_isMisdirected(host: str, peer: str, forwarded: bool, misdirected: bool) -> None:
    """A foreign name is refused on a loopback address, but for a trusted proxy that says for whom it asks."""
    lines = ["X-Forwarded-For: 192.0.2.1"] if forwarded else []
    head = parseHead(upgrade("/ws", *lines, host="rebound.example"), Limits())
    transport = Transport(address(host), address(peer))
    proxies = TrustedProxies(["127.0.0.9"])
    assert isMisdirected(head, transport, AllowedHosts(), proxies) is misdirected
    assert not isMisdirected(head, Transport(None, None, asked=False), AllowedHosts(["rebound.example"]), proxies)


def test_proxyProtocol() -> None:
    """Nor is it refused on a port for the PROXY protocol, whatever that says, before and after it has said it."""
    made: list[Any] = []

    class Endpoint:
        def listen(self, factory: Any) -> None:
            made.append(factory.buildProtocol(None))

    proxyEndpoint(Endpoint()).listen(Factory.forProtocol(Protocol))  # type: ignore[arg-type]
    (wrapper,) = made
    wrapper.makeConnection(Transport(address("127.0.0.1"), address("127.0.0.1")))
    head = parseHead(upgrade("/ws", host="rebound.example"), Limits())
    assert not isMisdirected(head, wrapper, AllowedHosts(), TrustedProxies())
    wrapper.dataReceived(b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n")
    assert not isMisdirected(head, wrapper, AllowedHosts(), TrustedProxies())


def test_machineNames(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's names are its own, and those that its table has beside it or for its loopback addresses."""
    monkeypatch.setattr(socket, "gethostname", lambda: "box")
    table = tmp_path / "hosts"
    table.write_text(
        "# 127.0.0.1 comment.example\n127.0.0.1 localhost dev.test # more.example\n::1\tip6-localhost\n\n"
        "192.168.1.5 box.corp.example box\n192.168.1.6 other.corp.example\nnonsense 127.0.0.1\n127.0.1.1\n"
    )
    names = machineNames.__wrapped__(str(table))
    assert names == {"box", "localhost", "dev.test", "ip6-localhost", "box.corp.example"}
    assert machineNames.__wrapped__(str(tmp_path / "none")) == {"box"}


def test_ownNames() -> None:
    """The server's own names are answered without an option."""
    assert socket.gethostname() in hosts.machineNames()
