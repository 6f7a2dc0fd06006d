"""picows on uvloop, with its core API and the calls that it recommends for speed.

python picows_peer.py WSPORT TLSPORT HTTPPORT CERTIFICATE KEY
"""

from __future__ import annotations

import asyncio
import ssl
import sys

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server
from publishing import Publishing

# The space that picows needs before a message for the frame header.
HEAD = 14
clients: set[WSTransport] = set()


class Echo(WSListener):
    """Send every message back; stay in the set while open."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Join."""
        clients.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Leave."""
        clients.discard(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Echo."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview(), frame.fin)


def listener(request: WSUpgradeRequest) -> WSListener:
    """Accept every path."""
    return Echo()


def publish(body: bytes) -> None:
    """Send a text to every client, without a copy for each client."""
    message = bytearray(HEAD) + body
    for client in clients:
        client.send_reuse_external_bytearray(WSMsgType.TEXT, message, HEAD)


async def main() -> None:
    """Listen."""
    ws, tls, http = map(int, sys.argv[1:4])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*sys.argv[4:6])
    await ws_create_server(listener, "127.0.0.1", ws, backlog=4096)
    await ws_create_server(listener, "127.0.0.1", tls, backlog=4096, ssl=context)
    await asyncio.get_running_loop().create_server(lambda: Publishing(publish), "127.0.0.1", http)
    await asyncio.Event().wait()


uvloop.run(main())
