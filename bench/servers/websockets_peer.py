"""websockets on uvloop, with its asyncio server and its broadcast().

python websockets_peer.py WSPORT TLSPORT HTTPPORT CERTIFICATE KEY
"""

from __future__ import annotations

import asyncio
import ssl
import sys

import uvloop
from publishing import Publishing
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

clients: set[ServerConnection] = set()


async def echo(client: ServerConnection) -> None:
    """Send every message back; stay in the set while open."""
    clients.add(client)
    try:
        async for message in client:
            await client.send(message)
    except ConnectionClosed:
        pass
    finally:
        clients.discard(client)


def publish(body: bytes) -> None:
    """Send a text to every client."""
    broadcast(clients, body.decode())


async def main() -> None:
    """Listen."""
    ws, tls, http = map(int, sys.argv[1:4])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*sys.argv[4:6])
    await serve(echo, "127.0.0.1", ws, backlog=4096, compression=None)
    await serve(echo, "127.0.0.1", tls, backlog=4096, compression=None, ssl=context)
    await asyncio.get_running_loop().create_server(lambda: Publishing(publish), "127.0.0.1", http)
    await asyncio.Event().wait()


uvloop.run(main())
