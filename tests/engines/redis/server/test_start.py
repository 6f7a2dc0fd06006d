from __future__ import annotations

from contextlib import ExitStack

import pytest
import trustme
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol

from tests.engines.redis.harness import RedisHarness
from tests.engines.redis.servers import Server
from tests.engines.redis.ways import Way
from tests.ports import freePort
from twisted_ws.engines.contract import EngineSettings, EngineState
from twisted_ws.engines.redis.several import SeveralEngine, makeEngine
from twisted_ws.errors import ConfigurationError
from twisted_ws.limits import Limits
from twisted_ws.message import Message
from twisted_ws.testing.engines import RecordingNode
from twisted_ws.wire.loop.wheel import Wheel
from twisted_ws.wire.tls.server import ServerTLS, TLSSettings

harness = RedisHarness()
QUICK = harness.times
WAIT = 77.0  # seconds; longer than a test takes


@pytest.fixture(scope="module")
def server():
    with Server() as started:
        yield started


@pytest.fixture
def stack():
    with ExitStack() as opened:
        yield opened
    harness.advance(0.02)


def start(url, password=None, reactor=reactor):
    """Start an engine, and return it with its node."""
    node = RecordingNode()
    node.engine = makeEngine(EngineSettings(url, password, Limits(), Wheel(reactor), reactor), QUICK)
    harness.wait(node.engine.start(node))
    return node


def works(node):
    """Say whether an engine can publish; stop it."""
    feed = node.watch("a")
    harness.until(lambda: feed.isLive)
    published = harness.wait(node.engine.publish("a", Message.of("text")))
    harness.until(lambda: feed.heard)
    harness.wait(node.engine.stop())
    return feed.texts == ["text"] and published.channel == "a" and EngineState.UP in node.states


def refusal(url, password=None, reactor=reactor):
    """Return why an engine does not start."""
    with pytest.raises(ConfigurationError) as caught:
        start(url, password, reactor)
    text = str(caught.value)
    assert text.startswith("The engine")
    assert text.endswith(".")
    assert "\n" not in text
    assert "geheim" not in text
    return text


def test_database(server):
    """The URL may name a database and a prefix; engines with others have nothing to do with each other."""
    first, other, third = [start(f"redis://127.0.0.1:{server.port}{rest}") for rest in ("", "/3", "?prefix=other")]
    feeds = [node.watch("a") for node in (first, other, third)]
    harness.until(lambda: all(feed.isLive for feed in feeds))
    for node in (first, other, third):
        harness.wait(node.engine.publish("a", Message.of(node.id)))
    harness.until(lambda: all(feed.heard for feed in feeds))
    harness.settle()
    assert [feed.texts for feed in feeds] == [[first.id], [other.id], [third.id]]
    for node in (first, other, third):
        harness.wait(node.engine.stop())


def test_unix(stack):
    """A server may be reached by its Unix socket."""
    path = f"/tmp/engine-{freePort()}.sock"
    server = stack.enter_context(Server(unixsocket=path))
    assert works(start(f"redis+unix://{path}"))
    server.kill()
    assert "cannot be reached" in refusal(f"redis+unix://{path}?wait=1")


def test_password(stack):
    """A password comes from a file; without it, or with a wrong one, the engine says what to do."""
    server = stack.enter_context(Server(requirepass="geheim"))
    server.ask("ACL", "SETUSER", "ann", "on", ">geheim", "~*", "&*", "+@all")
    url = f"127.0.0.1:{server.port}"
    assert works(start(f"redis://{url}", b"geheim"))
    assert works(start(f"redis://ann@{url}", b"geheim"))
    assert "--engine-password-file" in refusal(f"redis://{url}")
    assert "refuses" in refusal(f"redis://{url}", b"geheim2")
    assert "refuses" in refusal(f"redis://bob@{url}", b"geheim")


def test_needlessPassword(server):
    """A password for a server that has none is a mistake."""
    assert "has no password" in refusal(f"redis://127.0.0.1:{server.port}", b"geheim")


def test_noDatabase(server):
    """A database that does not exist is refused."""
    assert "database" in refusal(f"redis://127.0.0.1:{server.port}/99")


def test_refused():
    """A server that does not listen is waited for, then refused."""
    assert "Connection refused" in refusal(f"redis://127.0.0.1:{freePort()}?wait=1")


def test_waits(stack):
    """A server that starts while it is waited for is found."""
    server = stack.enter_context(Server())
    server.kill()
    node = RecordingNode()
    url = f"redis://127.0.0.1:{server.port}?wait=60"
    node.engine = makeEngine(EngineSettings(url, None, Limits(), Wheel(reactor), reactor))
    started = node.engine.start(node)
    harness.advance(0.2)
    assert not started.called
    server.start()
    harness.wait(started)
    assert works(node)


@pytest.mark.parametrize(
    ("command", "word"), [(("SET", "foreign:tw1:gate", "x"), "prefix"), (("HSET", "foreign:tw1:gate", "a", "b"), "prefix")]
)
def test_foreign(server, command, word):
    """Keys of another application are not touched."""
    server.ask("DEL", "foreign:tw1:gate")
    server.ask(*command)
    assert word in refusal(f"redis://127.0.0.1:{server.port}?prefix=foreign")
    assert server.ask("TYPE", "foreign:tw1:gate") in ("+string", "+hash")


def test_version(server):
    """Data of another version are not touched."""
    server.ask("HSET", "later:tw1:gate", "v", "99")
    assert "version 99" in refusal(f"redis://127.0.0.1:{server.port}?prefix=later")


def test_full(stack):
    """A server without memory says so."""
    server = stack.enter_context(Server(maxmemory="1"))
    assert "is full" in refusal(f"redis://127.0.0.1:{server.port}")


def test_withoutScripts(stack):
    """A server that does not permit scripts is of no use."""
    server = stack.enter_context(Server())
    server.ask("ACL", "SETUSER", "default", "-eval", "-evalsha", "-script")
    assert "does not permit" in refusal(f"redis://127.0.0.1:{server.port}")


@pytest.mark.parametrize("rights", ["~a:* &b:*", "~b:* &a:*"])
def test_anothersKeys(stack, rights):
    """A user that may not use the keys or the pub/sub channels behind our prefix is refused at once, with the reason."""
    server = stack.enter_context(Server())
    server.ask("ACL", "SETUSER", "ann", "on", ">geheim", *rights.split(), "+@all")
    said = refusal(f"redis://ann@127.0.0.1:{server.port}?prefix=a&wait={WAIT:g}", b"geheim")
    assert "does not permit what is needed: NOPERM" in said


def test_withoutACommandInScripts(stack):
    """A user that lacks a command which only scripts use is refused at once, too."""
    server = stack.enter_context(Server())
    server.ask("ACL", "SETUSER", "ann", "on", ">geheim", "~*", "&*", "+@all", "-zadd")
    assert "does not permit what is needed" in refusal(f"redis://ann@127.0.0.1:{server.port}", b"geheim")


def test_replica(stack, server):
    """A replica cannot be written to."""
    replica = stack.enter_context(Server(replicaof=f"127.0.0.1 {server.port}"))
    assert f"is a replica of 127.0.0.1:{server.port}" in refusal(f"redis://127.0.0.1:{replica.port}")


class Fake(Protocol):
    def connectionMade(self):
        self.factory.came()

    def dataReceived(self, data):
        self.transport.write(self.factory.reply)


@pytest.fixture
def fake():
    ports = []

    def listen(reply, came=lambda: None):
        factory = Factory.forProtocol(Fake)
        factory.noisy, factory.reply, factory.came = False, reply, came
        ports.append(reactor.listenTCP(0, factory, interface="127.0.0.1"))
        return f"redis://127.0.0.1:{ports[-1].getHost().port}?wait={WAIT}"

    yield listen
    for port in ports:
        harness.wait(port.stopListening())


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak the protocol of Redis, but HTTP: check the port."),
        (b"<!DOCTYPE HTML>\r\n<html>", "but HTTP"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "but TLS: check the port; with TLS, the URL begins with rediss:"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "but answers 'SSH-2.0-OpenSSH_9.2"),
        (b"+OK\r\n$21\r\nredis_version:5.0.7\r\n\r\n", "too old"),
        (b"+OK\r\n$-1\r\n", "too old"),
        (
            b"-ERR unknown command 'CLIENT', with args beginning with: 'SETNAME' \r\n" * 3,
            "is needed: ERR unknown command 'CLIENT'.",
        ),
        (b"-DENIED Redis is running in protected mode\r\n", "protected mode"),
    ],
)
def test_notAServer(fake, reply, word):
    """What is no server, or not one that can be used, is said in one line."""
    assert word in refusal(fake(reply))


class Impatient:
    """The reactor; the second time that somebody comes, the wait of the URL is over."""

    def __init__(self):
        self.visits = 0

    def __getattr__(self, name):
        return getattr(reactor, name)

    def callLater(self, seconds, *call):
        later = reactor.callLater(seconds, *call)
        if seconds == WAIT:
            self.wait = later
        return later

    def came(self):
        self.visits += 1
        if self.visits == 2:
            self.wait.reset(0)


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        (b"-ERR max number of clients reached\r\n" * 3, "max number of clients"),
        (b"+OK\r\n$999999999\r\n" + bytes(16 << 20), "at once"),
    ],
)
def test_mayPass(fake, reply, word):
    """What may be better in a moment is tried again, and said when the wait of the URL is over."""
    impatient = Impatient()
    assert word in refusal(fake(reply, impatient.came), reactor=impatient)


class Noting:
    """The reactor; it notes for how many seconds somebody waits."""

    def __init__(self):
        self.waits = []

    def __getattr__(self, name):
        return getattr(reactor, name)

    def callLater(self, seconds, *call):
        self.waits.append(seconds)
        return reactor.callLater(seconds, *call)


def test_slowStart():
    """What a process does before its reactor turns, such as a trial of its workers, does not count as waiting for the server."""
    noting, node = Noting(), RecordingNode()
    settings = EngineSettings(f"redis://127.0.0.1:{freePort()}?wait={WAIT}", None, Limits(), Wheel(noting), noting)
    engine = makeEngine(settings, QUICK)
    started = engine.start(node).addErrback(lambda failure: None)
    assert WAIT not in noting.waits
    harness.advance(0.02)
    assert noting.waits.count(WAIT) == 1
    harness.wait(engine.stop())
    started.cancel()


class Waiting(Protocol):
    """A web server: it answers when a request has ended."""

    def connectionMade(self):
        self.came = b""

    def dataReceived(self, data):
        self.came += data
        if b"\r\n\r\n" in self.came:
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_http(monkeypatch):
    """A web server that waits for the end of a request is told from a server that does not answer."""
    monkeypatch.setattr("twisted_ws.engines.redis.server.link.PATIENCE", 0.1)
    factory = Factory.forProtocol(Waiting)
    factory.noisy = False
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    assert "not speak the protocol of Redis, but HTTP" in refusal(f"redis://127.0.0.1:{port.getHost().port}?wait={WAIT}")
    harness.wait(port.stopListening())


def test_silent(stack, server):
    """A server that accepts and does not answer is noticed."""
    stopped = stack.enter_context(Server())
    stopped.stop()
    assert "does not answer" in refusal(f"redis://127.0.0.1:{stopped.port}?wait=3.5")


@pytest.fixture
def tlsPort(tmp_path, server):
    """A port that speaks TLS before the server."""
    authority = trustme.CA()
    certificate, path = authority.issue_cert("127.0.0.1"), str(tmp_path / "server.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(path)
    tls = ServerTLS(TLSSettings(certificate=path), limits=Limits())
    way = Way(lambda reactor: TCP4ClientEndpoint(reactor, "127.0.0.1", server.port), tls)
    yield way, authority
    way.cut()


def test_tls(tmp_path, tlsPort):
    """With rediss:, the server has to prove who it is."""
    way, authority = tlsPort
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    url = f"rediss://127.0.0.1:{way.port}?wait=30"
    assert works(start(f"{url}&ca={tmp_path}/ca.pem"))
    assert "not trusted" in refusal(f"{url}&ca={tmp_path}/other.pem")


def test_noTLS(fake):
    """A server that does not speak TLS is said to be one."""
    assert "does not speak TLS" in refusal(fake(b"-ERR Protocol error\r\n").replace("redis:", "rediss:"))


def test_missingFile(server):
    """A file of the URL that cannot be read is a mistake."""
    with pytest.raises(ConfigurationError, match="The engine CA /nowhere cannot be read"):
        start(f"rediss://127.0.0.1:{server.port}?ca=/nowhere")


def test_several(stack):
    """Channels are spread over several servers, and listed together; a pattern hears of all."""
    servers = [stack.enter_context(Server()) for _ in range(3)]
    places = [f"127.0.0.1:{each.port}" for each in servers]
    first, second = [start(f"redis://{','.join(order)}") for order in (places, places[::-1])]
    assert isinstance(first.engine, SeveralEngine)
    channels = [f"c{number:02}" for number in range(30)]
    second.watch("*")
    harness.settle()
    for channel in channels:
        harness.wait(first.engine.publish(channel, Message.of(channel)))
    harness.until(lambda: len(second.publications) >= 30)
    assert sorted(each.channel for each in second.publications) == channels
    assert [each.channel for each in harness.wait(second.engine.list("", "", 20))] == channels[:20]
    counts = [int(each.ask("ZCARD", "tw1:names")[1:]) for each in servers]
    assert sum(counts) == 30
    assert min(counts) > 0
    assert len(harness.wait(first.engine.nodes())) == 2
    servers[0].kill()
    harness.until(lambda: first.engine.state is EngineState.DOWN)
    servers[0].start()
    harness.until(lambda: first.engine.state is EngineState.UP)
    assert harness.wait(second.engine.broadcast(Message.of("all"))) == 0
    for node in (first, second):
        harness.wait(node.engine.stop())


def test_oneOfSeveralIsBack(stack):
    """When one of several servers is back and another is not, the node is told, and asks the first again."""
    servers = [stack.enter_context(Server()) for _ in range(2)]
    node = start(f"redis://{','.join(f'127.0.0.1:{each.port}' for each in servers)}")
    for each in servers:
        each.kill()
    assert harness.until(lambda: node.engine.state is EngineState.DOWN)
    told = len(node.states)
    servers[0].start()
    assert harness.until(lambda: len(node.states) > told)
    assert node.states[told - 1 :] == [EngineState.DOWN, EngineState.DOWN]
    servers[1].start()
    assert harness.until(lambda: node.states[-1] is EngineState.UP)
    harness.wait(node.engine.stop())


def test_severalRefused(server):
    """If one of several servers cannot be reached, the engine does not start."""
    assert "cannot be reached" in refusal(f"redis://127.0.0.1:{server.port},127.0.0.1:{freePort()}?wait=1")
