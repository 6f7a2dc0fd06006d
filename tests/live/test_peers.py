"""Clients that people have: each does with a real server all that it can, plain and with TLS, with compression."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx_ws
import pytest
import tornado.httpclient
import tornado.ioloop
import tornado.websocket
import websocket

from tests.live.support import PATIENCE, Running, running, writeService

SERVICE = """
from twisted_ws import WebSocketService

class Echo(WebSocketService):
    subProtocols = ["json"]

    async def onTextMessage(self, caller, text):
        if text == "leave":
            caller.close(4001, "as you wish")
            return None
        if text == "ping":
            await caller.ping(b"are you there?")
            caller.attributes["waits"] = True
            return None
        return text

    def onBinaryMessage(self, caller, data):
        return data

    def onPong(self, caller, data):
        if caller.attributes.pop("waits", False):
            caller.writeTextMessage("pong: " + bytes(data).decode())
"""
TEXTS = ("hello", "", "grüße \N{GRINNING FACE}", "".join(random.Random(7).choices("abcdefgh \n", k=500_000)))
DATA = random.Random(8).randbytes(500_000)
BROADCAST = "to everybody"
PONG = "pong: are you there?"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the server's home."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[Running]:
    """Yield a server with both ports, that compresses."""
    writeService(directory, SERVICE)
    with running(directory, "--tls-port", "0", "--compression", "on", "--service", "/echo=rooms:Echo") as server:
        yield server


def _broadcast(server: Running) -> None:
    assert server.curl("-d", BROADCAST) == "OK"


def _websocketClient(server: Running, url: str, authority: str) -> None:
    tls = {"sslopt": {"ca_certs": authority}} if authority else {}
    client = websocket.create_connection(url, timeout=PATIENCE, subprotocols=["mqtt", "json"], http_no_proxy=["*"], **tls)
    assert client.subprotocol == "json"
    for text in TEXTS:
        client.send(text)
        assert client.recv() == text
    client.send_binary(DATA)
    assert client.recv() == DATA
    client.send_frame(websocket.ABNF.create_frame("in two ", websocket.ABNF.OPCODE_TEXT, 0))
    client.ping("in between")
    client.send_frame(websocket.ABNF.create_frame("pieces", websocket.ABNF.OPCODE_CONT, 1))
    assert client.recv_data(control_frame=True) == (websocket.ABNF.OPCODE_PONG, b"in between")
    assert client.recv() == "in two pieces"
    client.send("ping")
    assert client.recv() == PONG
    _broadcast(server)
    assert client.recv() == BROADCAST
    client.send("leave")
    assert client.recv_data() == (websocket.ABNF.OPCODE_CLOSE, (4001).to_bytes(2, "big") + b"as you wish")
    client.shutdown()


def _tornado(server: Running, url: str, authority: str) -> None:
    async def talk() -> None:
        request = tornado.httpclient.HTTPRequest(url, ca_certs=authority or None)
        client = await tornado.websocket.websocket_connect(
            request, subprotocols=["mqtt", "json"], compression_options={}, max_message_size=1 << 20
        )
        assert client.selected_subprotocol == "json"
        for text in TEXTS:
            await client.write_message(text)
            assert await client.read_message() == text
        await client.write_message(DATA, binary=True)
        assert await client.read_message() == DATA
        client.ping(b"in between")
        await client.write_message("ping")
        assert await client.read_message() == PONG
        await asyncio.to_thread(_broadcast, server)
        assert await client.read_message() == BROADCAST
        await client.write_message("leave")
        assert await client.read_message() is None
        assert (client.close_code, client.close_reason) == (4001, "as you wish")
        client.close()  # or it warns that nobody did

    loop = tornado.ioloop.IOLoop(make_current=False)
    loop.run_sync(talk, PATIENCE)
    loop.close()


def _httpx(server: Running, url: str, authority: str) -> None:
    verify: Any = ssl.create_default_context(cafile=authority) if authority else True
    with (
        httpx.Client(verify=verify, trust_env=False) as session,
        httpx_ws.connect_ws(url, session, subprotocols=["mqtt", "json"], max_message_size_bytes=1 << 20) as client,
    ):
        assert client.subprotocol == "json"
        for text in TEXTS:
            client.send_text(text)
            assert client.receive_text(PATIENCE) == text
        client.send_bytes(DATA)
        assert client.receive_bytes(PATIENCE) == DATA
        assert client.ping(b"in between").wait(PATIENCE)
        client.send_text("ping")
        assert client.receive_text(PATIENCE) == PONG
        _broadcast(server)
        assert client.receive_text(PATIENCE) == BROADCAST
        client.send_text("leave")
        with pytest.raises(httpx_ws.WebSocketDisconnect) as closed:
            client.receive_text(PATIENCE)
        assert (closed.value.code, closed.value.reason) == (4001, "as you wish")


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("talk", [_websocketClient, _tornado, _httpx])
def test_talk(server: Running, directory: Path, talk: Callable[[Running, str, str], None], scheme: str) -> None:
    """Subprotocol, messages of each kind, fragments, pings both ways, a broadcast, and a close with its reason."""
    authority = next((directory / "state").rglob("*.pem")) if scheme == "wss" else ""
    talk(server, f"{scheme}://localhost:{server.port(scheme)}/echo", str(authority))
