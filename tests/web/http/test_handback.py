"""A connection that has carried plain requests and becomes a WebSocket: what proxies and browsers make of theirs."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.memory import MemoryClient, SteadyClock, clientFrame, upgrade
from tests.web.conftest import Response, readResponses
from twisted_ws import Limits, Reject, WebSocketServer, WebSocketService
from twisted_ws.access.publishers.credentials import Credentials
from twisted_ws.channels.service import ChannelService
from twisted_ws.services.demo import Demo
from twisted_ws.web.api.broadcast import broadcastSite
from twisted_ws.web.http import connection as connectionModule
from twisted_ws.web.pages import pagesSite
from twisted_ws.wire import frontdoor

TEXT = 1

BEFORE = {
    "page": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200),
    "asked to keep": (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", 200),
    "not found": (b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    "needs an upgrade": (b"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n", 426),
    "star": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 204),
    "body": (b"POST /channels/a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 200),
    "chunks": (b"POST /channels/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 200),
    "no body": (b"POST /channels/a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 400),
    "two types": (
        b"POST /channels/a HTTP/1.1\r\nHost: a\r\nContent-Type: a/b\r\nContent-Type: a/b\r\nContent-Length: 0\r\n\r\n",
        400,
    ),
    "later version": (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 200),
    "absolute": (b"GET http://a/ HTTP/1.1\r\nHost: a\r\nCookie: a=\xc5\x81\x85\r\n\r\n", 200),
    "wrong method": (b"DELETE /channels/a HTTP/1.1\r\nHost: a\r\n\r\n", 405),
}


class Slow(WebSocketService):
    """Decides when the test says so."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.decisions: list[Deferred[Any]] = []
        self.cancelled = 0

    def onUpgrade(self, request: Any) -> Deferred[Any]:
        self.requests.append(request)
        self.decisions.append(Deferred(self._cancel))
        return self.decisions[-1]

    def _cancel(self, deferred: Deferred[Any]) -> None:
        self.cancelled += 1


class World:
    """A server with its pages, on a clock."""

    def __init__(self, **limits: Any) -> None:
        self.clock = SteadyClock()
        self.clock.advance(1000)
        self.server = WebSocketServer(limits=Limits(**limits), reactor=self.clock)
        self.slow = Slow()
        self.server.mount("/ws", Demo())
        self.server.mount("/slow", self.slow)
        self.server.mount("/channels/{channel}", ChannelService(publish=True))
        self.factory = self.server.factory(pagesSite(self.server))

    def client(self, address: str = "192.0.2.7") -> MemoryClient:
        return MemoryClient(self.factory, self.clock, address)

    def asked(self) -> MemoryClient:
        """Return a client that has had one answer."""
        client = self.client()
        assert [each.status for each in self.answers(client, BEFORE["page"][0])] == [200]
        return client

    def answers(self, client: MemoryClient, data: bytes, step: int | None = None) -> list[Response]:
        client.send(data, step)
        self.clock.advance(0)
        return readResponses(client.received())


@pytest.fixture
def world() -> World:
    return World()


def isOpen(client: MemoryClient) -> bool:
    """Read the rest of a 101, and say whether a message is echoed."""
    client.send(clientFrame(TEXT, b"x"))
    return client.messages() == ["Echo: x"]


def switched(client: MemoryClient) -> list[Response]:
    """Read all answers up to a 101 and leave what follows it."""
    data = client.received()
    before, mark, rest = data.partition(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert mark, data
    client.putBack(rest.partition(b"\r\n\r\n")[2])
    return readResponses(before)


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("times", [1, 3])
def test_afterAnAnswer(world: World, before: str, times: int) -> None:
    """A handshake is accepted on a connection after any answers, and is then like any other."""
    client = world.client()
    request, status = BEFORE[before]
    for _ in range(times):
        assert [each.status for each in world.answers(client, request)] == [status]
    client.send(upgrade())
    assert switched(client) == []
    assert isOpen(client)
    assert world.server.gate.open == 1
    client.hangUp()
    assert world.server.gate.open == 0
    assert len(world.server.callers) == 0


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("step", [None, 1, 7])
def test_pipelined(world: World, before: str, step: int | None) -> None:
    """A handshake right behind requests waits for their answers, and frames right behind it are handled."""
    client = world.client()
    request, status = BEFORE[before]
    client.send(request * 2 + upgrade() + clientFrame(TEXT, b"early"), step)
    world.clock.advance(0)
    assert [each.status for each in switched(client)] == [status] * 2
    assert client.messages() == ["Echo: early"]
    assert isOpen(client)


def test_behindAnAnswerThatTakesItsTime(world: World) -> None:
    """A handshake behind a poll that waits is answered after the poll."""
    client = world.client()
    client.send(b"GET /channels/a?wait=5 HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n\r\n" + upgrade())
    assert client.received() == b""
    client.advance(6)
    assert [each.status for each in switched(client)] == [200]
    assert isOpen(client)


def test_parsedOnce(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each head is parsed once, whoever reads it and whoever answers."""
    heads: list[bytes] = []
    for module in (frontdoor, connectionModule):
        parse = module.parseHead
        monkeypatch.setattr(module, "parseHead", lambda data, limits, parse=parse: heads.append(data) or parse(data, limits))
    client = world.client()
    client.send(BEFORE["page"][0] + BEFORE["body"][0] + upgrade())
    world.clock.advance(0)
    assert [each.status for each in switched(client)] == [200, 200]
    assert [head.split(b" ")[1] for head in heads] == [b"/", b"/channels/a", b"/ws"]


def test_whoItIs(world: World) -> None:
    """The service is told the same about the client as in a first request: its address, certificate and request."""
    world.factory.peerCertificate = lambda transport: ("certificate of", transport)
    client = world.asked()
    client.send(upgrade("/slow?a=b", "X-A: c"))
    (request,) = world.slow.requests
    assert (request.target, request.headers["x-a"]) == ("/slow?a=b", "c")
    assert (request.peerAddress, request.peerPort, request.isSecure) == ("192.0.2.7", 40000, False)
    assert request.clientCertificate == ("certificate of", client.transport)


def test_decidedLater(world: World) -> None:
    """A service may take its time, and what the client sends meanwhile waits."""
    client = world.asked()
    client.send(upgrade("/slow") + clientFrame(TEXT, b"early"))
    client.send(clientFrame(TEXT, b"more"))
    assert client.received() == b""
    client.advance(9)
    world.slow.decisions[0].callback(Demo())
    assert switched(client) == []
    assert client.messages() == ["Echo: early", "Echo: more"]


def test_deadline(world: World) -> None:
    """The deadline for the decision counts from the handshake, however old the connection is."""
    client = world.asked()
    client.advance(50)
    client.send(upgrade("/slow"))
    client.advance(9.75)
    assert client.received() == b""
    client.advance(0.5)
    assert client.received().startswith(b"HTTP/1.1 503 ")
    assert world.slow.cancelled == 1
    client.advance(10)
    assert client.transport.closed
    assert world.server.gate.open == 0


@pytest.mark.parametrize(
    "before", [b"", b"GET /channels/a?wait=5 HTTP/1.1\r\nHost: a\r\n\r\n"], ids=["at once", "behind an answer"]
)
def test_earlyBytesCount(before: bytes) -> None:
    """Input behind such a handshake counts towards the total of all peers until the service has decided."""
    world = World(maxReceiveBufferTotal=30_000)
    early = clientFrame(TEXT, b"x" * 10_000)
    for _ in range(2):
        world.asked().send(before + upgrade("/slow") + early)
    world.clock.pump([5, 0.5, 0.5])
    assert world.server.runtime.intake.total == 2 * len(early)
    world.asked().send(before + upgrade("/slow") + early)
    world.clock.pump([5, 0.5, 0.5])
    assert world.server.runtime.intake.total <= 30_000
    for decision in world.slow.decisions:
        if not decision.called:
            decision.callback(world.slow)
    assert world.server.runtime.intake.total == 0


def test_tooMuchMeanwhile(world: World) -> None:
    """Input before the decision is bounded as in a first request."""
    client = world.asked()
    client.send(upgrade("/slow"))
    client.send(b"x" * (64 * 1024 + 1))
    assert client.received().startswith(b"HTTP/1.1 400 ")
    client = world.asked()
    client.send(upgrade("/slow") + b"x" * (64 * 1024 + 1))
    assert client.received().startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (upgrade("/none"), 404),
        (upgrade("/ws", "Origin: http://evil.example"), 403),
        (upgrade(Sec_WebSocket_Version="8"), 426),
        (upgrade(Sec_WebSocket_Key="x"), 400),
        (upgrade("/ws", "Content-Length: 5"), 400),
        (upgrade().replace(b"GET", b"POST"), 405),
        (upgrade("//ws"), 400),
    ],
)
def test_refused(world: World, head: bytes, status: int) -> None:
    """A refused handshake gets the same status as in a first request."""
    fresh, used = world.client(), world.asked()
    for client in (fresh, used):
        client.send(head)
        assert client.received().startswith(b"HTTP/1.1 %d " % status)
        client.hangUp()
    assert world.server.gate.open == 0


def test_rejected(world: World) -> None:
    """A handshake that the service refuses gets the same status, too."""
    client = world.asked()
    client.send(upgrade("/slow"))
    world.slow.decisions[0].errback(Reject(401, "no"))
    assert client.received().startswith(b"HTTP/1.1 401 ")


def test_peerLeaves(world: World) -> None:
    """A client that leaves before the decision is uncounted, and the service's decision is called off."""
    client = world.asked()
    client.send(upgrade("/slow"))
    client.hangUp()
    assert world.slow.cancelled == 1
    assert world.server.gate.open == 0
    assert world.clock.getDelayedCalls() == []


def test_stop(world: World) -> None:
    """A server that stops refuses an undecided handshake and closes a decided one, whatever came before."""
    deciding, decided = world.asked(), world.asked()
    deciding.send(upgrade("/slow"))
    decided.send(upgrade())
    switched(decided)
    world.server.stop()
    assert deciding.received().startswith(b"HTTP/1.1 503 ")
    assert decided.closeFrame() == (1001, "server stops")


def test_aBugWhileItOpens(world: World, monkeypatch: pytest.MonkeyPatch, logged: Any) -> None:
    """When our own code fails at a handshake after plain requests, the connection is dropped, logged once, and uncounted."""
    client = world.asked()

    def decide(*arguments: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(frontdoor, "decide", decide)
    client.send(upgrade())
    assert client.transport.closed
    assert [event["log_failure"].type for event in logged if "log_failure" in event] == [RuntimeError]
    assert world.server.gate.open == 0


@pytest.mark.parametrize("before", [b"", b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"])
@pytest.mark.parametrize(("path", "status"), [("/ws", 404), ("/healthz", 200), ("/broadcaster/broadcast", 405)])
def test_broadcastPort(world: World, before: bytes, path: str, status: int) -> None:
    """The broadcast port has no WebSocket; it answers a handshake as any request (RFC 9110 section 7.8), and stays open."""
    site = broadcastSite(world.server, Credentials((), None, world.server.limits, world.clock))
    client = MemoryClient(site, world.clock)
    client.send(before + upgrade(path))
    assert [each.status for each in readResponses(client.received())][-1] == status
    assert not client.transport.writeClosed
    assert not client.transport.closed
