"""aiohttp on uvloop, with its own WebSockets and HTTP server.

python aiohttp_peer.py WSPORT TLSPORT HTTPPORT CERTIFICATE KEY
"""

from __future__ import annotations

import asyncio
import ssl
import sys

import uvloop
from aiohttp import WSMsgType, web

clients: set[web.WebSocketResponse] = set()


async def echo(request: web.Request) -> web.WebSocketResponse:
    """Send every message back; stay in the set while open."""
    client = web.WebSocketResponse(compress=False)
    await client.prepare(request)
    clients.add(client)
    try:
        async for message in client:
            if message.type is WSMsgType.TEXT:
                await client.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await client.send_bytes(message.data)
    except ConnectionError:
        pass
    finally:
        clients.discard(client)
    return client


async def publish(request: web.Request) -> web.Response:
    """Send a text to every client, encoded once, and without a task for each client."""
    body = await request.read()
    for client in list(clients):
        try:
            await client.send_frame(body, WSMsgType.TEXT)
        except ConnectionError:
            clients.discard(client)
    return web.Response(text="OK")


async def main() -> None:
    """Listen."""
    ws, tls, http = map(int, sys.argv[1:4])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*sys.argv[4:6])
    application = web.Application()
    application.router.add_get("/", echo)
    application.router.add_post("/", publish)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", ws, backlog=4096).start()
    await web.TCPSite(runner, "127.0.0.1", tls, backlog=4096, ssl_context=context).start()
    await web.TCPSite(runner, "127.0.0.1", http).start()
    await asyncio.Event().wait()


uvloop.run(main())
