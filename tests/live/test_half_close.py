from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.live.support import PATIENCE, running

POST = b"POST /broadcaster/broadcast HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
CLOSE = b"Connection: close\r\n"


@pytest.mark.parametrize("lane", ["1", "0"])
def test_halfClose(tmp_path: Path, lane: str) -> None:
    """Who has asked all and ends its side (as nc -N does) gets every answer, on both ports, with and without the fast lane."""
    chunks = b"POST /broadcaster/broadcast HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks += b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n"
    with running(tmp_path, more={"TWISTED_WS_LANE": lane}) as server:
        webSocket, broadcast = server.port("ws"), server.port("http")
        for port, request, statuses in (
            (broadcast, POST, [b"200"]),
            (broadcast, POST * 20, [b"200"] * 20),
            (broadcast, POST.replace(b"Content", CLOSE + b"Content"), [b"200"]),
            (broadcast, chunks, [b"200"]),
            (broadcast, b"\x00", [b"400"]),
            (broadcast, b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n", [b"200"]),
            (broadcast, POST[:-1], []),
            (webSocket, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3, [b"200"] * 3),
            (webSocket, b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n", [b"404"]),
            (webSocket, b"\x00", [b"400"]),
            (webSocket, b"", []),
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
                client.sendall(request)
                client.shutdown(socket.SHUT_WR)
                answer = b"".join(iter(lambda: client.recv(65536), b""))
            heads = answer.split(b"HTTP/1.1 ")[1:]
            assert [head[:3] for head in heads] == statuses, (request[:60], answer[:300])
