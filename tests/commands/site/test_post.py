from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet import error as neterror
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from twisted_ws.client.errors import BadHandshake, ConnectError, ConnectFailed, HandshakeTimeout, InvalidURL, ProxyRefused
from twisted_ws.client.http import dialing
from twisted_ws.commands import broadcast
from twisted_ws.commands.broadcast import BroadcastOptions, tell
from twisted_ws.commands.exits import explained, inHTTP
from twisted_ws.commands.site.post import BODY, Answer, post
from twisted_ws.errors import ConfigurationError


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment has no variables of ours and no proxy."""
    for name in ("TWISTED_WS_API_KEY", "TWISTED_WS_USER", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def options(*arguments: str, url: str = "http://localhost:8081/channels/a?key=k") -> BroadcastOptions:
    """Return the options of a command line."""
    parsed = BroadcastOptions()
    parsed.parseOptions([url, *arguments])
    return parsed


class Wire:
    """An endpoint in memory, and what comes of a message that is posted over it."""

    def __init__(self, *arguments: str, error: Exception | None = None) -> None:
        self.clock = Clock()
        self.transport: Any = StringTransport()
        self.transport.abortConnection = self.transport.loseConnection
        self.results: list[Any] = []
        self._error = error
        self.work = post(self.clock, options(*arguments), b"Hello!", endpoint=self)  # type: ignore[arg-type]
        self.work.addBoth(self.results.append)

    def connect(self, factory: Any) -> Deferred[Any]:
        if self._error is not None:
            return fail(self._error)
        self.protocol = factory.buildProtocol(None)
        self.protocol.makeConnection(self.transport)
        made: Deferred[Any] = Deferred()
        made.callback(self.protocol)
        return made

    def lose(self, error: Exception | None = None) -> None:
        self.protocol.connectionLost(Failure(error or ConnectionDone()))

    @property
    def answer(self) -> Answer:
        (result,) = self.results
        assert isinstance(result, Answer), result
        return result

    def failure(self, kind: type[Exception]) -> str:
        (result,) = self.results
        return str(result.check(kind) and result.value)


def test_request() -> None:
    """The message goes out unchanged, with its type and the credentials."""
    wire = Wire()
    head, _, body = wire.transport.value().partition(b"\r\n\r\n")
    assert body == b"Hello!"
    assert head.split(b"\r\n") == [
        b"POST /channels/a?key=k HTTP/1.1",
        b"Host: localhost:8081",
        b"Content-Type: text/plain; charset=utf-8",
        b"Content-Length: 6",
        b"Connection: close",
    ]
    assert b"Content-Type: application/octet-stream\r\n" in Wire("--binary").transport.value()
    assert b"Content-Type: application/json\r\n" in Wire("--json").transport.value()


def test_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key takes precedence over a password, and a file over the environment; files of both kinds are a mistake."""
    monkeypatch.setenv("TWISTED_WS_USER", "ada:x")
    assert b"Authorization: Basic " in Wire().transport.value()
    monkeypatch.setenv("TWISTED_WS_API_KEY", "k1")
    assert b"Authorization: Bearer k1\r\n" in Wire().transport.value()
    (tmp_path / "file").write_text("nocolon\n")
    file = str(tmp_path / "file")
    assert b"Authorization: Bearer nocolon\r\n" in Wire("--key-file", file).transport.value()
    for arguments, text in (
        (("--user-file", file), "has no colon"),
        (("--user-file", file, "--key-file", file), "use one"),
    ):
        with pytest.raises(ConfigurationError, match=text):
            Wire(*arguments)


@pytest.mark.parametrize("url", ["localhost:8081", "ftp://localhost", "http://u:p@localhost", "http://"])
def test_wrongURL(url: str) -> None:
    """A URL that cannot be a site's is refused; the error shows nothing that may be secret."""
    with pytest.raises(InvalidURL) as raised:
        post(Clock(), options(url=url), b"x")
    assert "u:p" not in str(raised.value)
    assert "ws://" not in str(raised.value)


def test_answer() -> None:
    """The answer may come in any pieces, after interim ones."""
    wire = Wire()
    for byte in b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK":
        wire.protocol.dataReceived(bytes([byte]))
    assert wire.answer == Answer(200, "", b"OK")
    assert wire.transport.disconnecting
    wire.lose()
    assert len(wire.results) == 1


def test_answerUntilTheEnd() -> None:
    """An answer without a length ends with its connection; a long one is cut."""
    wire = Wire()
    wire.protocol.dataReceived(b"HTTP/1.1 503 No\r\nRetry-After: 5\r\n\r\nlater")
    assert not wire.results
    wire.lose()
    assert wire.answer == Answer(503, "5", b"later")
    wire = Wire()
    wire.protocol.dataReceived(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (BODY + 1))
    assert len(wire.answer.body) == BODY


def test_nestedAnswer() -> None:
    """A response that is nested too deeply counts as not being JSON."""
    assert Answer(200, "", b"[" * BODY).fields == {}
    assert Answer(200, "", b"[]").fields == Answer(200, "", b"{").fields == {}


def test_noAnswer() -> None:
    """An invalid response, or none in time, is an error that says so, and the connection is dropped."""
    wire = Wire()
    wire.protocol.dataReceived(b"SSH-2.0\r\n\r\n")
    assert "does not speak HTTP" in wire.failure(BadHandshake)
    wire = Wire()
    wire.protocol.dataReceived(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000)
    assert "larger than 16384 bytes" in wire.failure(BadHandshake)
    wire = Wire()
    wire.protocol.dataReceived(b"HTTP/1.1 200 O")
    wire.lose()
    assert "closed the connection without an answer" in wire.failure(ConnectFailed)
    wire = Wire()
    wire.clock.advance(20)
    assert "did not answer in 20 seconds" in wire.failure(HandshakeTimeout)
    assert wire.transport.disconnecting
    assert "nothing listens" in Wire(error=neterror.ConnectionRefusedError()).failure(ConnectFailed)
    assert Wire(error=ProxyRefused("no", 403)).failure(ProxyRefused) == "no"
    wire = Wire()
    wire.lose(ProxyRefused("broken off"))
    assert wire.failure(ProxyRefused) == "broken off"
    wire = Wire()
    wire.lose(BadHandshake("x"))
    wire.protocol.dataReceived(b"SSH\r\n\r\n")
    assert len(wire.results) == 1


def test_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment is asked, unless it is not for this host."""
    for exempt, host, port in (("", "proxy", 3128), ("localhost", "localhost", 8081)):
        reactor = MemoryReactorClock()  # type: ignore[no-untyped-call]
        monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
        monkeypatch.setenv("NO_PROXY", exempt)
        asked: list[tuple[str, int]] = []

        class Endpoint:
            def __init__(self, reactor: Any, host: str, port: int, asked: list[tuple[str, int]] = asked) -> None:
                asked.append((host, port))

            def connect(self, factory: Any) -> Deferred[Any]:
                return fail(neterror.ConnectionRefusedError())

        monkeypatch.setattr(dialing, "HostnameEndpoint", Endpoint)
        post(reactor, options(), b"x").addErrback(lambda failure: failure.trap(ConnectError))
        assert asked == [(host, port)]


def test_secure() -> None:
    """TLS options need TLS."""
    with pytest.raises(ValueError, match="no TLS") as raised:
        post(Clock(), options("--insecure"), b"x")
    assert inHTTP(explained(raised.value)) == (
        "--trust-store, --client-certificate and --insecure are for https:// URLs: a http:// connection has no TLS"
    )


@pytest.mark.parametrize(
    ("answer", "code", "out", "err"),
    [
        (Answer(200, "", b"OK\n\x1b"), 0, "OK\n", ""),
        (Answer(200, "", b'{"recipients": 1, "id": "a:1"}'), 0, "1 recipient, id a:1\n", ""),
        (Answer(200, "", b'{"recipients": 2, "id": "\\u001b"}'), 0, "2 recipients, id \\x1b\n", ""),
        (Answer(200, "", b"[1]"), 0, "[1]\n", ""),
        (Answer(503, "5", b""), 6, "", "the site refused the message with 503: try again in 5 seconds"),
        (Answer(429, "1", b""), 6, "", "the site refused the message with 429: try again in 1 second"),
        (Answer(500, "", b"a\x1b"), 6, "", "the site refused the message with 500 (a\\x1b): try again later"),
        (Answer(302, "", b""), 5, "", "the site refused the message with 302: redirects are not followed"),
        (Answer(400, "", b'{"message": "x"}'), 5, "", "the site refused the message with 400 (x): correct it and send it again"),
        (
            Answer(400, "", b"This port speaks TLS: use https:// or wss://"),
            5,
            "",
            "the site refused the message with 400 (This port speaks TLS: use https:// or wss://): use https://",
        ),
        (Answer(403, "", b""), 5, "", "the site refused the message with 403: publish on the broadcast port (by default 8081)"),
        (
            Answer(403, "", b'{"message": "no scope."}'),
            5,
            "",
            "the site refused the message with 403 (no scope): use another key, or give this one the scope in the server's file",
        ),
        (
            Answer(421, "", b""),
            5,
            "",
            "the site refused the message with 421: check the host in the URL; the server's log names --allowed-host",
        ),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Answer) else "",
)
def test_tell(answer: Answer, code: int, out: str, err: str, capfd: pytest.CaptureFixture[str]) -> None:
    """What became of the message is one line, safe for a terminal, and the exit code."""
    assert tell(answer) == code
    assert capfd.readouterr() == (out, f"twisted-ws: {err}\n" if err else "")


def test_largeMessage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that no server accepts is not even read as a whole."""
    monkeypatch.setattr(broadcast, "MOST", 10)
    (tmp_path / "file").write_bytes(b"x" * 11)
    results: list[Any] = []
    work = broadcast.messageOf(Clock(), options("--file", str(tmp_path / "file")))
    Deferred.fromCoroutine(work).addErrback(lambda failure: results.append(str(failure.value)))
    assert results == ["The message has more than 10 bytes, which no server accepts: send it in parts."]
