from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.live.proxies import nginx
from tests.live.support import PATIENCE, Running, curl, running, unverified

REBOUND = "rebound.example"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A daemon as it is started by default, with a message in a channel."""
    with running(tmp_path_factory.mktemp("server"), "--tls-port", "0", "--allowed-host", "*.dev.example") as started:
        assert json.loads(started.curl("-d", "the secret", path="/channels/orders"))["recipients"] == 0
        yield started


def ask(server: Running, scheme: str, path: str, host: str, *arguments: str) -> tuple[int, str]:
    """Return status and body of what curl gets for a Host header."""
    url = f"{'https' if scheme in ('wss', 'https') else 'http'}://127.0.0.1:{server.port(scheme)}{path}"
    said = curl("-k", "-H", f"Host: {host}", "-w", "\n%{http_code}", *arguments, url)
    body, _, status = said.rpartition("\n")
    return int(status), body


def handshake(server: Running, host: str, scheme: str = "ws", address: str = "127.0.0.1", **options: Any) -> str:
    """Connect as a page of `host` would, and return the echo."""
    port = server.port(scheme)
    if scheme == "wss":
        options["ssl"] = unverified()
    origin = f"{'https' if scheme == 'wss' else 'http'}://{host}:{port}"
    uri = f"{scheme}://{host}:{port}/ws"
    sock = socket.create_connection((address, port), PATIENCE)
    with connect(uri, sock=sock, origin=origin, open_timeout=PATIENCE, compression=None, **options) as client:
        client.send("hello")
        return str(client.recv())


@pytest.mark.parametrize("path", ["/api/channels", "/api/channels/orders/history", "/api/channels/orders/presence"])
def test_reads(server: Running, path: str) -> None:
    """A page with a rebound name reads no channels, no history and no presence."""
    port = server.port("http")
    for host in (REBOUND, f"{REBOUND}:{port}"):
        status, body = ask(server, "http", path, host)
        assert (status, json.loads(body)["error"]) == (421, "misdirected")
    status, body = ask(server, "http", path, f"localhost:{port}")
    assert status == 200
    server.waitFor(f"to answer it: --allowed-host {REBOUND}")


@pytest.mark.parametrize("path", ["/broadcaster/broadcast", "/channels/orders", "/api/publish"])
def test_writes(server: Running, path: str) -> None:
    """It publishes nothing, with no Origin and with what its browser says of it; and no page of another site does by any name."""
    with server.client("/ws") as listener:
        assert ask(server, "http", path, REBOUND, "-d", "spam")[0] == 421
        assert ask(server, "http", path, REBOUND, "-d", "spam", "-H", "Sec-Fetch-Site: same-origin")[0] == 421
        assert ask(server, "http", path, "localhost", "-d", "spam", "-H", "Sec-Fetch-Site: cross-site")[0] == 403
        assert server.curl("-d", "the next") == "OK"
        assert listener.recv(PATIENCE) == "the next"


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_opens(server: Running, scheme: str) -> None:
    """It opens no WebSocket, though its Origin is the Host, reads no channel, and gets no page."""
    with pytest.raises(InvalidStatus) as refused:
        handshake(server, REBOUND, scheme)
    assert refused.value.response.status_code == 421
    server.waitFor(f"to answer it: --allowed-host {REBOUND}")
    for path in ("/channels/orders", "/", "/twisted-ws.js"):
        assert ask(server, scheme, path, REBOUND)[0] == 421


NAMES = ["localhost", "localhost:9000", "127.0.0.1", "[::1]", "192.168.1.5", "app.localhost", socket.gethostname()]


@pytest.mark.parametrize("host", [*NAMES, "a.dev.example"])
def test_names(server: Running, host: str) -> None:
    """What a user of this machine says is answered: its names and addresses, a published port's, and those of the option."""
    assert ask(server, "http", "/api/channels", host)[0] == 200
    assert ask(server, "http", "/broadcaster/broadcast", host, "-d", "x") == (200, "OK")
    for scheme in ("ws", "wss"):
        assert ask(server, scheme, "/", host)[0] == 200


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize(("host", "address"), [("localhost", "127.0.0.1"), ("[::1]", "::1"), ("x.dev.example", "::1")])
def test_handshakes(server: Running, host: str, address: str, scheme: str) -> None:
    """And so are its handshakes, by IPv4 and IPv6."""
    assert handshake(server, host, scheme, address) == "Echo: hello"


def test_health(server: Running) -> None:
    """Health is told by any name."""
    assert ask(server, "http", "/healthz", REBOUND)[0] == ask(server, "http", "/readyz", REBOUND)[0] == 200


def test_nginx(tmp_path: Path) -> None:
    """Behind nginx that says for whom it asks, and is trusted, any name is answered; directly it is not, nor untrusted."""
    trusted = ("--trusted-proxy", "127.0.0.1")
    for options, status in ((trusted, 200), ((), 421), (("--allowed-origin", "https://chat.example"), 200)):
        with running(tmp_path, *options) as server, nginx(tmp_path, server.port("ws")) as port:
            said = curl("-H", "Host: chat.example", "-o", "/dev/null", "-w", "%{http_code}", f"http://127.0.0.1:{port}/")
            assert said == str(status)
            if options == trusted:
                assert ask(server, "ws", "/", "chat.example")[0] == 421
                sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
                with connect("ws://chat.example/ws", sock=sock, open_timeout=PATIENCE) as client:
                    client.send("hello")
                    assert client.recv() == "Echo: hello"


def test_file(tmp_path: Path) -> None:
    """The configuration file has the same option, a Unix socket needs none, and a wrong value is one line at the start."""
    (tmp_path / "ws.toml").write_text('allowed-host = ["chat.example", "*.dev.example"]\n')
    with running(tmp_path, "--config", "ws.toml", "--listen", "unix:ws.sock") as server:
        assert ask(server, "ws", "/", "chat.example")[0] == ask(server, "http", "/api/channels", "a.dev.example")[0] == 200
        assert ask(server, "ws", "/", REBOUND)[0] == 421
        path = str(tmp_path / "ws.sock")
        assert curl("--unix-socket", path, "-o", "/dev/null", "-w", "%{http_code}", f"http://{REBOUND}/") == "200"


def test_keys(tmp_path: Path) -> None:
    """With keys the broadcast site is asked by any name."""
    keys = tmp_path / "keys"
    keys.write_text("0123456789abcdef\n")
    keys.chmod(0o600)
    with running(tmp_path, "--api-key-file", str(keys)) as server:
        assert ask(server, "http", "/api/channels", "chat.example")[0] == 401
        bearer = ("-H", "Authorization: Bearer 0123456789abcdef")
        assert ask(server, "http", "/api/channels", "chat.example", *bearer)[0] == 200
        assert ask(server, "ws", "/", "chat.example")[0] == 421
