"""DNS rebinding, and pages that make a browser ask what they may not: for which hosts and pages each site answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock

from tests.memory import MemoryClient, upgrade
from tests.web.conftest import Response, readResponses
from twisted_ws import WebSocketServer
from twisted_ws.access.publishers.credentials import Credentials
from twisted_ws.channels.service import ChannelService
from twisted_ws.services.demo import Demo
from twisted_ws.web.api.broadcast import broadcastSite
from twisted_ws.web.pages import pagesSite

ELSEWHERE = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: script")
VISIT = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document")


class World:
    """Both ports of a server on loopback."""

    def __init__(self, key: str = "", **options: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.server = WebSocketServer(reactor=self.clock, **options)
        self.server.mount("/ws", Demo())
        self.server.mount("/channels/{channel}", ChannelService(publish=True, presence=True))
        credentials = Credentials((), key or None, self.server.limits, self.clock)
        self.ports = {
            "ws": self.server.factory(pagesSite(self.server)),
            "broadcast": broadcastSite(self.server, credentials),
        }
        self.local = "127.0.0.1"

    def send(self, port: str, data: bytes, peer: str = "127.0.0.1") -> bytes:
        """Return the response."""
        client = MemoryClient(self.ports[port], self.clock, peer)
        client.transport.getHost = lambda: IPv4Address("TCP", self.local, 8080)  # type: ignore[method-assign]
        client.send(data)
        self.clock.advance(0)
        return client.received()

    def ask(self, port: str, target: str, *lines: str, host: str = "localhost:8080", peer: str = "127.0.0.1") -> Response:
        """Return the answer to ``METHOD /path``, with a body where it is a POST."""
        method, path = target.split(" ")
        body = b'{"channel": "a", "data": 1}' if path == "/api/publish" else b"x"
        head = [f"{method} {path} HTTP/1.1", f"Host: {host}", *lines]
        if method == "POST":
            head.append(f"Content-Length: {len(body)}")
        data = "\r\n".join([*head, "", ""]).encode() + (body if method == "POST" else b"")
        (response,) = readResponses(self.send(port, data, peer), (0,) if method == "HEAD" else ())
        return response


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def key(tmp_path: Any) -> str:
    """A file with an API key."""
    path = tmp_path / "keys"
    path.write_text("0123456789abcdef\n")
    path.chmod(0o600)
    return str(path)


READS = [
    *[("broadcast", f"GET {path}") for path in ("/api/channels", "/api/channels/a/history", "/api/channels/a/presence")],
    ("broadcast", "HEAD /api/channels"),
    ("ws", "GET /channels/a"),
    ("ws", "HEAD /channels/a"),
]
WRITES = [
    ("broadcast", "POST /broadcaster/broadcast"),
    ("broadcast", "POST /channels/a"),
    ("broadcast", "POST /api/publish"),
    ("ws", "POST /channels/a"),
]
PAGES = [("ws", f"GET {path}") for path in ("/", "/demo.js", "/twisted-ws.js", "/twisted-ws.mjs")]
OTHERS = [("broadcast", "GET /nothing"), ("broadcast", "OPTIONS /api/channels"), ("ws", "GET /nothing"), ("ws", "GET /ws")]


@pytest.mark.parametrize(("port", "target"), [*READS, *WRITES, *PAGES, *OTHERS])
@pytest.mark.parametrize("host", ["rebound.example", "rebound.example:8080", "127.0.0.1.rebound.example"])
def test_reboundName(world: World, port: str, target: str, host: str, logged: list[Any]) -> None:
    """On loopback, no request for a foreign name is answered, and the log names the option that would allow it."""
    response = world.ask(port, target, host=host)
    assert response.status == 421
    if not target.startswith("HEAD"):
        assert response.json == {"error": "misdirected", "message": "This server does not answer for this host."}
    (event,) = logged
    assert event["hint"] == f"; to answer it: --allowed-host {host.removesuffix(':8080')}"
    assert event["log_format"].endswith("({method} {path}{hint})")
    assert world.ask(port, target, "X-Forwarded-For: 192.0.2.7", host=host).status == 421
    assert logged.pop()["hint"] == f"; if that is your proxy: --trusted-proxy 127.0.0.1; else {event['hint'].removeprefix('; ')}"
    assert world.ask(port, target).status < 421 or target == "GET /ws"


def test_reboundHandshake(world: World, logged: list[Any]) -> None:
    """A handshake for a foreign name is refused, though its Origin is that name, and whatever came before on the connection."""
    handshake = upgrade("/ws", "Origin: http://rebound.example:8080", host="rebound.example:8080")
    first = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for before in (b"", first):
        assert b"HTTP/1.1 421 Misdirected Request\r\n" in world.send("ws", before + handshake)
        assert logged.pop()["more"] == " (/ws; to answer it: --allowed-host rebound.example)"
        forwarded = handshake.replace(b"\r\n", b"\r\nX-Forwarded-For: 192.0.2.7\r\n", 1)
        assert b"HTTP/1.1 421 " in world.send("ws", before + forwarded)
        assert logged.pop()["more"].startswith(" (/ws; if that is your proxy: --trusted-proxy 127.0.0.1; else to answer it: ")
    assert world.send("ws", upgrade("/ws", "Origin: http://localhost")).startswith(b"HTTP/1.1 101 ")


def test_absoluteForm(world: World) -> None:
    """The name in the target counts, if it has one."""
    for target, host, status in (("http://rebound.example/", "localhost", 421), ("http://localhost/", "rebound.example", 200)):
        assert world.ask("ws", f"GET {target}", host=host).status == status


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health(world: World, path: str) -> None:
    """Health checks are answered under any name: a load balancer may use any."""
    assert world.ask("broadcast", f"GET {path}", host="rebound.example").status == 200
    assert world.ask("broadcast", f"GET {path}/x", host="rebound.example").status == 421


@pytest.mark.parametrize(("port", "target"), [*READS, *WRITES, *PAGES])
def test_otherAddress(world: World, port: str, target: str) -> None:
    """On an address that is not loopback, such as a container's, any host name is answered."""
    world.local = "172.17.0.2"
    assert world.ask(port, target, host="chat.example").status == 200


@pytest.mark.parametrize("options", [{"allowedHosts": ["chat.example"]}, {"allowedOrigins": ["https://chat.example"]}])
@pytest.mark.parametrize(("port", "target"), [*READS, *WRITES, *PAGES])
def test_allowedHosts(options: Any, port: str, target: str) -> None:
    """Requests for the names in the options are answered, with any port."""
    world = World(**options)
    assert world.ask(port, target, host="chat.example:9999").status == 200
    assert world.ask(port, target, host="rebound.example").status == 421


@pytest.mark.parametrize(("port", "target"), [*READS, *WRITES, *PAGES])
def test_trustedProxy(port: str, target: str) -> None:
    """A trusted proxy may use any name if it says for whom it asks; its address alone is not enough."""
    world = World(trustedProxies=["127.0.0.9"])
    asked: Any = {"host": "chat.example", "peer": "127.0.0.9"}
    assert world.ask(port, target, "X-Forwarded-For: 192.0.2.7", **asked).status == 200
    assert world.ask(port, target, **asked).status == 421
    assert world.ask(port, target, "X-Forwarded-For: 192.0.2.7", host="chat.example").status == 421


def test_credentials(key: str) -> None:
    """With keys, the broadcast site answers under any name, as a page has no key; the WebSocket port still checks names."""
    world = World(key)
    bearer = "Authorization: Bearer 0123456789abcdef"
    assert world.ask("broadcast", "GET /api/channels", bearer, host="chat.example").status == 200
    assert world.ask("broadcast", "GET /api/channels", host="chat.example").status == 401
    assert world.ask("ws", "GET /", host="chat.example").status == 421


@pytest.mark.parametrize(("port", "target"), [*READS, *WRITES])
@pytest.mark.parametrize("local", ["127.0.0.1", "192.168.1.5"])
def test_otherSite(world: World, port: str, target: str, local: str) -> None:
    """A request that a page of another site makes a browser send without an Origin is refused, on any address."""
    world.local = local
    assert world.ask(port, target, *ELSEWHERE).status == 403
    assert world.ask(port, target, *[line.replace("cross-site", "same-origin") for line in ELSEWHERE]).status == 200


@pytest.mark.parametrize(("port", "target"), READS)
def test_visit(world: World, port: str, target: str) -> None:
    """A visitor who follows a link from another site to ours is not a page of that site."""
    assert world.ask(port, target, *VISIT).status == 200


@pytest.mark.parametrize(("port", "target"), WRITES)
def test_formOfAnotherSite(world: World, port: str, target: str) -> None:
    """A form that another site's page sends is refused, also where the answer would be the new page."""
    assert world.ask(port, target, *VISIT).status == 403


@pytest.mark.parametrize(("port", "target"), PAGES)
def test_pagesForOtherSites(world: World, port: str, target: str) -> None:
    """Pages and the client's files are for everybody."""
    for lines in (ELSEWHERE, VISIT):
        assert world.ask(port, target, *lines).status == 200


def test_keyOfAPage(key: str) -> None:
    """A page that adds a key of its own is let in, wherever it comes from."""
    world = World(key)
    bearer = "Authorization: Bearer 0123456789abcdef"
    assert world.ask("broadcast", "POST /broadcaster/broadcast", bearer, *ELSEWHERE).status == 200
    assert world.ask("broadcast", "POST /broadcaster/broadcast", "Authorization: Basic eDp5", *ELSEWHERE).status == 403


@pytest.mark.parametrize(
    ("allowed", "origin", "status"),
    [
        (["https://app.example"], "https://app.example", 200),
        (["https://app.example"], None, 403),
        (["https://app.example"], "https://other.example", 403),
        (["*"], None, 200),
        (["*"], "https://other.example", 200),
        (["null"], None, 200),
    ],
)
@pytest.mark.parametrize("target", ["GET /channels/a", "POST /channels/a"])
def test_allowedOrigins(allowed: list[str], origin: str | None, status: int, target: str) -> None:
    """An allowed page of another site uses channels; where any page may, so may a request that names none."""
    world = World(allowedOrigins=allowed)
    lines = [*ELSEWHERE, *([f"Origin: {origin}"] if origin else [])]
    assert world.ask("ws", target, *lines).status == status


def test_originHint(world: World, logged: list[Any]) -> None:
    """The log line for a page that is refused over HTTP names the option that would admit it, as for a handshake."""
    assert world.ask("ws", "GET /channels/a", "Origin: https://app.example").status == 403
    assert logged.pop()["hint"] == "; to allow it: --allowed-origin https://app.example"
    assert world.ask("ws", "GET /channels/a", "Origin: garbage").status == 403
    assert logged.pop()["hint"] == ""


CHANNEL = "POST /channels/a"
BROADCAST = "POST /broadcaster/broadcast"


@pytest.mark.parametrize(
    ("port", "hasKey", "target", "lines", "status"),
    [
        ("broadcast", True, BROADCAST, (), 401),
        ("broadcast", True, CHANNEL, ("Authorization: Bearer wrong",), 401),
        ("broadcast", True, "POST /api/batch", (), 401),
        ("broadcast", False, BROADCAST, ("Origin: https://evil.example",), 403),
        ("broadcast", False, "POST /nothing", (), 404),
        ("broadcast", False, "PUT /broadcaster/broadcast", (), 405),
        ("broadcast", False, BROADCAST, ("Content-Length: 2000000",), 413),
        ("broadcast", False, BROADCAST, ("Content-Type: multipart/form-data",), 415),
        ("broadcast", False, CHANNEL, ("Content-Encoding: gzip",), 415),
        ("broadcast", False, "POST /api/publish", ("Content-Type: image/png",), 415),
        ("broadcast", False, BROADCAST, ("Host: evil.example",), 421),
        ("ws", False, CHANNEL, ("Origin: https://evil.example",), 403),
        ("ws", False, "POST /channels/a/b", (), 404),
        ("ws", False, "POST /nothing", (), 404),
        ("ws", False, "PUT /channels/a", (), 405),
        ("ws", False, CHANNEL, ("Content-Length: 2000000",), 413),
        ("ws", False, CHANNEL, ("Content-Type: text/plain; charset=latin-1",), 415),
        ("ws", False, CHANNEL, ("Host: evil.example",), 421),
        ("ws", False, "POST /channels/a.*", (), 400),
        ("ws", False, CHANNEL, ("Idempotency-Key: a b",), 400),
    ],
)
def test_refusedByTheHead(port: str, hasKey: bool, target: str, lines: tuple[str, ...], status: int, tmp_path: Path) -> None:
    """An unwanted body is refused by its head, without a 100, and the connection is closed."""
    keys = tmp_path / "keys"
    keys.touch(0o600)
    keys.write_text("0123456789abcdef\n")
    lines = ("Host: localhost", "Content-Length: 50", *lines)
    fields = dict(line.split(": ") for line in lines)  # of two with one name, the last
    head = [f"{target} HTTP/1.1", *[f"{name}: {value}" for name, value in fields.items()], "Expect: 100-continue", "", ""]
    (response,) = readResponses(World(str(keys) if hasKey else "").send(port, "\r\n".join(head).encode()))
    assert (response.status, response.header("connection")) == (status, "close")


@pytest.mark.parametrize(
    ("peer", "forwarded", "name"),
    [
        ("127.0.0.9", "[2001:DB8::0007]:99", "2001:db8::7"),
        ("::ffff:127.0.0.9", "::ffff:192.0.2.7", "192.0.2.7"),
        ("127.0.0.1", "192.0.2.7", "127.0.0.1"),
        ("::ffff:192.0.2.8", "192.0.2.7", "192.0.2.8"),
    ],
)
@pytest.mark.parametrize("port", ["broadcast", "ws"])
def test_nameOfTheClient(port: str, peer: str, forwarded: str, name: str, logged: list[Any]) -> None:
    """The log of a refused request names the client as a trusted proxy gives it, in one spelling, on both ports."""
    world = World(trustedProxies=["127.0.0.9"])
    assert world.ask(port, "GET /nothing", f"X-Forwarded-For: {forwarded}", peer=peer).status == 404
    assert logged.pop()["peer"] == name


def test_guessesOfOne(key: str) -> None:
    """Behind a trusted proxy, the wrong keys of one client lock out no other."""
    world = World(key, trustedProxies=["127.0.0.9"])

    def guess(client: str) -> int:
        who = f"X-Forwarded-For: {client}"
        return world.ask("broadcast", "GET /api/channels", who, "Authorization: Bearer wrong", peer="127.0.0.9").status

    while guess("192.0.2.7") != 429:
        pass
    assert guess("192.0.2.8") == 401
