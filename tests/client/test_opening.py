from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import error as neterror
from wsproto.utilities import generate_accept_token

from tests.client.support import Setup, failed, opened, pending, result
from twisted_ws.client import (
    BadHandshake,
    Basic,
    Bearer,
    ConnectError,
    ConnectFailed,
    HandshakeRefused,
    HandshakeTimeout,
    Redirected,
    connect,
)
from twisted_ws.client.http.address import parseURL
from twisted_ws.client.http.exchange import Exchange
from twisted_ws.client.options import Options
from twisted_ws.errors import InternalError
from twisted_ws.frames import frame

PIECES = [
    b"HTTP/1.1 101 Switching Protocols\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Retry-After: 1\r\n",
    b"Sec-WebSocket-Extensions: permessage-deflate\r\n",
    b"\r\n",
    b"3\r\nabc\r\n0\r\n",
]


def refused(data: bytes, step: int | None = None, **options):
    """Return the error that an answer leads to, with the setup; no more may be kept, and the transport must be closed."""
    setup = Setup(**options).start()
    setup.peer.request()
    setup.peer.send(data, step)
    error = setup.error()
    assert setup.peer.transport.closed
    assert not setup.clock.getDelayedCalls()
    return error


def test_request():
    """The request is the one of RFC 6455, with what the user asked for."""
    setup = Setup(
        "ws://server.example:8080/rooms/a%20b?x=1&y=é",
        subProtocols=["mqtt", "json"],
        headers={"Origin": "https://app.example"},
        cookies={"session": "abc", "theme": "dark"},
        credentials=Basic("alice", "secret"),
        compression=True,
    ).start()
    line, headers = setup.peer.request()
    assert line == "GET /rooms/a%20b?x=1&y=%C3%A9 HTTP/1.1"
    key = headers.pop("sec-websocket-key")
    assert len(key) == 24
    assert headers == {
        "host": "server.example:8080",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-version": "13",
        "sec-websocket-protocol": "mqtt, json",
        "sec-websocket-extensions": "permessage-deflate; client_no_context_takeover; client_max_window_bits",
        "origin": "https://app.example",
        "cookie": "session=abc; theme=dark",
        "authorization": "Basic YWxpY2U6c2VjcmV0",
    }
    setup.connecting.cancel()
    failed(setup.connecting)


def test_keys():
    """Each attempt has a key of its own."""
    keys = {Setup().start().peer.request()[1]["sec-websocket-key"] for _ in range(3)}
    assert len(keys) == 3


def test_open():
    """A 101 opens the client with the server's choices, in however many pieces it comes."""
    for step in (None, 1, 7):
        setup = Setup(subProtocols=["a", "b"], credentials=Bearer("t0k")).start()
        head = setup.peer
        _, headers = head.request()
        accept = generate_accept_token(headers["sec-websocket-key"].encode()).decode()
        answer = (
            "HTTP/1.1 101 Switching\r\nUPGRADE: WebSocket\r\nconnection: keep-alive, UPGRADE\r\nX-Served-By: 7\r\n"
            f"Sec-WebSocket-Protocol: b\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        )
        head.send(answer.encode(), step)
        client = result(setup.connecting)
        assert client.isOpen()
        assert not client.isSecure()
        assert client.negotiatedSubProtocol == "b"
        assert client.response.status == 101
        assert client.response.headers["x-served-by"] == "7"
        assert repr(client) == "<WebSocketClient ws://server.example/ws open>"


def test_interim():
    """Interim responses (100, 103) are skipped."""
    setup = Setup().start()
    setup.peer.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    assert pending(setup.connecting)
    setup.peer.accept()
    assert result(setup.connecting).isOpen()


def test_interimWithoutEnd():
    """Endless interim responses count against the size of the head."""
    error = refused(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, 100)
    assert isinstance(error, BadHandshake)


def test_endlessHead():
    """A head without an end fails at 16 KiB, and no more of it is kept."""
    setup = Setup().start()
    setup.peer.send(b"HTTP/1.1 101 Switching Protocols\r\n")
    sent = 0
    while pending(setup.connecting):
        setup.peer.send(b"X-Filler: " + b"x" * 500 + b"\r\n")
        sent += 512
        assert sent < 20_000
    error = setup.error()
    assert isinstance(error, BadHandshake)
    assert "16384 bytes" in str(error)
    assert setup.peer.transport.aborted


def test_largeHead():
    """A head larger than 16 KiB fails even if it comes at once."""
    assert "16384 bytes" in str(refused(b"HTTP/1.1 101 OK\r\nX: " + b"x" * 20_000 + b"\r\n\r\n"))


def test_manyHeaders():
    """A head with more than 100 headers fails."""
    assert "100 headers" in str(refused(b"HTTP/1.1 101 OK\r\n" + b"X: y\r\n" * 101 + b"\r\n"))


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "does not speak HTTP/1.1"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 'begins with "SSH-2.0-OpenSSH_9.2"'),  # and then it waits
        (b"\x00", "does not speak HTTP/1.1"),
        (b"HTTP/2 101 Switching\r\n\r\n", "does not speak HTTP/1.1"),
        (b"HTTP/1.1 1010 Switching\r\n\r\n", "does not speak HTTP/1.1"),
        (b"HTTP/1.1 101 a\x00b\r\n\r\n", "does not speak HTTP/1.1"),
        (b"HTTP/1.1 101 OK\r\nno colon\r\n\r\n", "malformed header"),
        (b"HTTP/1.1 101 OK\r\nname : value\r\n\r\n", "malformed header"),
        (b"HTTP/1.1 101 OK\r\n folded: value\r\n\r\n", "malformed header"),
        (b"HTTP/1.1 101 OK\r\nX: a\x1b[31mb\r\n\r\n", "malformed header"),
        (b"HTTP/1.1 101 OK\r\nUpgrade: h2c\r\n\r\n", "Upgrade"),
    ],
)
def test_noHTTP(answer, hint):
    """A response that is not valid HTTP is refused; the error shows none of it unescaped."""
    error = refused(answer)
    assert isinstance(error, BadHandshake)
    assert hint in str(error)
    assert str(error).isprintable()


@pytest.mark.parametrize(
    ("lines", "replaced", "hint"),
    [
        ((), {"Sec_WebSocket_Accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="}, "Sec-WebSocket-Accept"),
        ((), {"Sec_WebSocket_Accept": None}, "Sec-WebSocket-Accept"),
        (("Sec-WebSocket-Accept: x",), {}, "Sec-WebSocket-Accept"),
        ((), {"Upgrade": None}, "Upgrade"),
        ((), {"Connection": "close"}, "Connection"),
        (("Sec-WebSocket-Protocol: mqtt",), {}, 'subprotocol "mqtt"'),
        (("Sec-WebSocket-Protocol: json", "Sec-WebSocket-Protocol: json"), {}, 'subprotocol "json, json"'),
        (("Sec-WebSocket-Extensions: permessage-deflate",), {}, "not offered"),
        (("Sec-WebSocket-Extensions: ,;",), {}, "malformed"),
    ],
)
def test_wrongAnswers(lines, replaced, hint):
    """A 101 that does not answer the request is refused."""
    setup = Setup(subProtocols=["json"]).start()
    setup.peer.accept(*lines, **replaced)
    error = setup.error()
    assert isinstance(error, BadHandshake)
    assert hint in str(error)
    assert setup.peer.transport.aborted


@pytest.mark.parametrize(
    "extension",
    [
        "permessage-deflate; foo=1",
        "permessage-deflate; client_max_window_bits=010",
        "permessage-deflate; server_max_window_bits=+15",
        "x-other",
        "permessage-deflate, permessage-deflate",
    ],
)
def test_wrongExtensions(extension):
    """An extension that was not offered, or has unknown parameters, is refused."""
    setup = Setup(compression=True).start()
    setup.peer.accept(f"Sec-WebSocket-Extensions: {extension}")
    assert isinstance(setup.error(), BadHandshake)


def test_refused():
    """For any other status, the error has the status, the headers and the body."""
    error = refused(b"HTTP/1.1 403 Forbidden\r\nX-Why: 7\r\nContent-Length: 10\r\n\r\nno\x1b access")
    assert type(error) is HandshakeRefused
    assert (error.status, error.headers["x-why"], error.body, error.retryAfter) == (403, "7", b"no\x1b access", None)
    assert (
        str(error) == r"the server refused the handshake with 403 (no\x1b access): it does not allow this client, or its Origin"
    )


@pytest.mark.parametrize(
    ("status", "said", "mend"),
    [
        (400, b"This port speaks TLS: use https:// or wss://", "use wss://"),
        (400, b"The plain HTTP request was sent to HTTPS port", "use wss://"),
        (400, b"no", "check that the URL is a WebSocket's"),
        (404, b"no", "check the path of the URL and the port"),
        (421, b"no", "check the host in the URL; the log of a twisted_ws server names the option that allows it"),
    ],
)
def test_refusedMend(status, said, mend):
    """What is likely wrong with the URL is named."""
    error = refused(b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n%s" % (status, len(said), said))
    assert str(error) == f"the server refused the handshake with {status} ({said.decode()}): {mend}"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error":"not-found","message":"There is nothing here."}', "There is nothing here"),
        (b'{"message":4}', '{"message":4}'),
        pytest.param(b"[" * 5000, "[" * 90, id="deep"),
    ],
)
def test_refusedInJSON(body, said):
    """The message of a JSON error is shown; other JSON is shown as it came."""
    error = refused(b"HTTP/1.1 404 No\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    assert f"with 404 ({said}" in str(error)


@pytest.mark.parametrize("status", [200, 400, 401, 404, 409, 426, 429, 500, 503])
def test_refusedSays(status):
    """The message of each refusal has its status and says what to do."""
    error = refused(b"HTTP/1.1 %d Something\r\nContent-Length: 0\r\n\r\n" % status)
    assert error.status == status
    assert str(error).startswith(f"the server refused the handshake with {status}: ")


def test_redirect():
    """A redirect is not followed, and the error names its target."""
    error = refused(b"HTTP/1.1 302 Found\r\nLocation: wss://other.example/\x85\r\nContent-Length: 0\r\n\r\n")
    assert isinstance(error, Redirected)
    assert error.location == "wss://other.example/\x85"
    assert r'"wss://other.example/\x85"' in str(error)
    assert "without saying where" in str(refused(b"HTTP/1.1 301 Moved\r\nContent-Length: 0\r\n\r\n"))


def test_retryAfter():
    """The wait that the server asks for is in the error, as seconds or as a date."""
    head = b"HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\nRetry-After: %s\r\n\r\n"
    assert refused(head % b"7").retryAfter == 7
    assert refused(head % b"Wed, 21 Oct 2015 07:28:00 GMT").retryAfter == 0
    assert refused(head % b"Wed, 21 Oct 2099 07:28:00 -0000").retryAfter > 1e9
    assert refused(head % b"soon").retryAfter is None
    for value in (
        b"",
        b"Wed, 21 Oct 99999999999999999999 07:28:00 GMT",
        b"1 Jan 9999 00:00:00 -9959",
        b"Wed, , ,",
    ):
        refused(head % value)
    for value in (b"-1", b"1e308", b"inf", b"nan"):
        assert refused(head % value).retryAfter is None
    for value in (b"99999999999", b"9" * 5000):  # to forget it would be to come back at once
        assert refused(head % value).retryAfter == 1e9
    assert refused(head % b"00000000000007").retryAfter == 7


def test_chunkedBody():
    """A chunked body is read as one."""
    head = b"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert refused(head + b"3\r\nbad\r\n5;x=y\r\n luck\r\n0\r\n\r\n").body == b"bad luck"
    setup = Setup().start()
    setup.peer.send(head + b"3\r\nbad\r\nnonsense")
    setup.peer.hangUp()
    assert setup.error().body == b"bad"


def test_endlessBody():
    """Of a body without an end, 16 KiB are kept."""
    setup = Setup().start()
    setup.peer.send(b"HTTP/1.1 500 Error\r\n\r\n")
    for _ in range(100):
        setup.peer.send(b"x" * 1000)
    error = setup.error()
    assert len(error.body) == Exchange.maxBody
    assert setup.peer.transport.aborted


def test_slowBody():
    """A body that does not come is not waited for longer than two seconds."""
    setup = Setup().start()
    setup.peer.send(b"HTTP/1.1 500 Error\r\nContent-Length: 100\r\n\r\nhalf")
    setup.advance(1.75)
    assert pending(setup.connecting)
    setup.advance(0.25)
    assert setup.error().body == b"half"
    assert not setup.clock.getDelayedCalls()


def test_bodyless():
    """A status that has no body does not wait for one."""
    assert refused(b"HTTP/1.1 304 Not Modified\r\n\r\n").body == b""


def test_hungUp():
    """A server that closes instead of answering, or whose connection breaks, is a connection that failed."""
    for error, hint in (
        (None, "closed the connection without an answer"),
        (neterror.ConnectionLost(), "broke before it was open"),
    ):
        setup = Setup().start()
        setup.peer.hangUp(error)
        found = setup.error()
        assert isinstance(found, ConnectFailed)
        assert hint in str(found)


def test_silent():
    """A server that never completes its response is given up at the handshake's timeout, whatever it sends meanwhile."""
    for data in (b"", b"H"):
        setup = Setup(handshakeTimeout=3).start()
        setup.peer.send(data)
        setup.advance(2.75)
        assert pending(setup.connecting)
        setup.advance(0.5)
        error = setup.error()
        assert isinstance(error, HandshakeTimeout)
        assert isinstance(error, TimeoutError)
        assert "accepted the connection but did not answer" in str(error)
        assert setup.peer.transport.aborted
        assert not setup.clock.getDelayedCalls()


def test_unreachable():
    """The handshake's timeout also covers connecting."""
    setup = Setup(handshakeTimeout=3)
    setup.endpoint.hangs = True
    setup.start().advance(3)
    assert "could not be reached in 3 seconds" in str(setup.error())


@pytest.mark.parametrize(
    ("failure", "hint"),
    [
        (neterror.DNSLookupError("x"), "there is no address for server.example:80"),
        (neterror.ConnectionRefusedError(), "nothing listens at"),
        (neterror.NoRouteError(), "there is no route to"),
        (neterror.TimeoutError(), "did not answer"),
        (neterror.TCPTimedOutError(), "did not answer"),
        (neterror.UnknownHostError(), "could not be reached"),
        (OSError("what\never"), r"what\never"),
    ],
)
def test_noConnection(failure, hint):
    """Twisted's errors about a failed connection become one error that says what to check."""
    setup = Setup()
    setup.endpoint.failure = failure
    error = setup.start().error()
    assert isinstance(error, ConnectFailed)
    assert hint in str(error)


def test_cancel():
    """A cancelled attempt leaves nothing behind, at whatever stage."""
    setup = Setup()
    setup.endpoint.hangs = True
    setup.start().connecting.cancel()
    setup.error()
    assert not setup.clock.getDelayedCalls()
    setup = Setup().start()
    setup.connecting.cancel()
    setup.error()
    assert setup.peer.transport.aborted
    assert not setup.clock.getDelayedCalls()
    setup.peer.send(b"late")


def test_compression():
    """With compression negotiated, messages are compressed in both directions."""
    client, peer, _ = opened("Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover", compression=True)
    client.writeTextMessage("x" * 1000)
    client.writeTextMessage("short")
    data = peer.received()
    assert len(data) < 100
    assert data[0] == 0xC1
    deflate = zlib.compressobj(wbits=-15)
    payload = deflate.compress(b"y" * 1000) + deflate.flush(zlib.Z_SYNC_FLUSH)
    peer.send(frame(1, payload[:-4], 0xC0))
    assert result(client.readTextMessage()) == "y" * 1000


def test_badArguments():
    """Arguments are checked before anything is connected."""
    for options in (
        {"handshakeTimeout": 0},
        {"readTimeout": -1},
        {"maxMessageSize": 0},
        {"pingTimeout": float("inf")},
        {"readBuffer": 0},
        {"writeBuffer": float("nan")},
        {"subProtocols": ["a", "a"]},
        {"subProtocols": ["a b"]},
        {"headers": {"Upgrade": "x"}},
        {"headers": {"Sec-WebSocket-Key": "x"}},
        {"headers": {"X": "a\r\nb"}},
        {"headers": [("Host", "a"), ("Host", "b")]},
        {"cookies": {"a": "b;c"}},
        {"cookies": {"a": "b"}, "headers": {"Cookie": "c=d"}},
        {"credentials": Bearer("x"), "headers": {"Authorization": "y"}},
        {"trustStore": "/x"},
        {"verify": False},
    ):
        with pytest.raises(ValueError, match=r"."):
            connect("ws://server.example/", reactor=object(), **options)
    for options in ({"subProtocols": "json"}, {"retry": 3}, {"credentials": "alice"}, {"readTimeout": "1"}):
        with pytest.raises(TypeError):
            connect("ws://server.example/", reactor=object(), **options)


def test_host():
    """A Host header given by the user replaces the one from the URL."""
    assert Setup(headers=[("host", "other.example")]).start().peer.request()[1]["host"] == "other.example"


def test_secrets():
    """Credentials, cookies and the query of the URL are in no repr."""
    assert repr(Basic("alice", "secret")) == "Basic(...)"
    assert repr(Bearer("secret")) == "Bearer(...)"
    client, _, _ = opened(url="ws://server.example/ws?token=secret", cookies={"a": "secret"}, credentials=Bearer("secret"))
    assert "secret" not in repr(client)
    options = Options(address=parseURL("ws://server.example/ws?token=secret"), headers=(("Cookie", "a=secret"),))
    assert "secret" not in repr(options)


def test_credentialsChecked():
    """Credentials that cannot be sent are refused, and are not in the error."""
    for make in (
        lambda: Basic("a:b", "secret"),
        lambda: Basic("a", "secret\n"),
        lambda: Bearer(""),
        lambda: Bearer("secret token"),
        lambda: Bearer("secr\u00e9t"),
    ):
        with pytest.raises(ValueError, match=r".") as caught:
            make()
        assert "secr" not in str(caught.value)


@pytest.mark.parametrize("make", [lambda: Basic("a", None), lambda: Basic(b"a", "b"), lambda: Bearer(None)])
def test_credentialsMissing(make):
    """An unset environment variable is refused by its name."""
    with pytest.raises(TypeError, match=r"^the (user|password|token) must be a str, not (NoneType|bytes)$"):
        make()


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from(PIECES)), max_size=8))
def test_anything(pieces):
    """Whatever a server answers leads to an open client, to a `ConnectError`, or to waiting; never to anything else."""
    setup = Setup().start()
    setup.peer.request()
    for piece in pieces:
        setup.peer.send(piece)
    outcome = []
    setup.connecting.addErrback(lambda failure: outcome.append(failure.value))
    setup.advance(25)
    assert isinstance(outcome[0], ConnectError)
    assert not setup.clock.getDelayedCalls()


@given(st.lists(st.one_of(st.binary(max_size=30), st.builds(frame, st.integers(0, 15), st.binary(max_size=20))), max_size=12))
def test_anyFrames(pieces):
    """Whatever a server sends after the 101 is read, or ends the connection by the rules; it never causes an internal error."""
    client, peer, setup = opened(maxMessageSize=1000)
    for piece in pieces:
        peer.send(piece)
    client.close(timeout=0)
    setup.advance(6)
    error = None
    while error is None:
        reading = client.readMessage()
        reading.addErrback(lambda failure: failure.value)
        found = []
        reading.addCallback(found.append)
        error = found[0] if isinstance(found[0], Exception) else None
    assert not isinstance(error, InternalError)
    assert not setup.clock.getDelayedCalls()
