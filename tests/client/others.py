"""Servers of other projects: each echoes, and closes with 4002 on the message "close"."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import websockets.sync.server

from tests.live import nursery
from tests.live.proxies import nginxCommand

# In the virtual environment that runs the tests, so that it goes with it.
NODE = Path(sys.prefix) / "node"
WS = "ws@8"

AIOHTTP = """
import asyncio
from aiohttp import WSMsgType, web

async def echo(request):
    ws = web.WebSocketResponse(protocols=("echo",), max_msg_size=0)
    await ws.prepare(request)
    async for message in ws:
        if message.type is WSMsgType.BINARY:
            await ws.send_bytes(message.data)
        elif message.data == "close":
            await ws.close(code=4002, message=b"enough")
        else:
            await ws.send_str(f"Echo: {message.data}")
    return ws

async def main():
    app = web.Application()
    app.add_routes([web.get("/ws", echo)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""

NODE_WS = """
const { WebSocketServer } = require("ws");
const options = { host: "127.0.0.1", port: 0, path: "/ws", perMessageDeflate: true, handleProtocols: () => "echo" };
const server = new WebSocketServer(options, () => console.log(server.address().port));
server.on("connection", (ws) => ws.on("message", (data, isBinary) => {
  if (isBinary) ws.send(data);
  else if (data.toString() === "close") ws.close(4002, "enough");
  else ws.send("Echo: " + data.toString());
}));
"""


def start(*command: str, **options: Any) -> tuple[subprocess.Popen[str], int]:
    """Start a program that prints the port it listens on, and return it with that."""
    child = nursery.start(command, stdout=subprocess.PIPE, text=True, **options)
    assert child.stdout is not None
    return child, int(child.stdout.readline())


def stop(child: subprocess.Popen[str]) -> None:
    """Kill a program."""
    child.kill()
    child.communicate()


def startAiohttp() -> tuple[subprocess.Popen[str], int]:
    """Start aiohttp's server."""
    return start(sys.executable, "-c", AIOHTTP)


def startNodeWs() -> tuple[subprocess.Popen[str], int]:
    """Start the server of npm's ws; it is fetched once."""
    if not (NODE / "node_modules" / "ws").is_dir():
        npm = ["npm", "install", "--prefix", str(NODE), "--prefer-offline", "--no-audit", "--no-fund", "--ignore-scripts", WS]
        subprocess.run(npm, check=True, stdout=subprocess.DEVNULL)
    return start("node", "-e", NODE_WS, cwd=NODE)


def startWebsockets() -> tuple[websockets.sync.server.Server, int]:
    """Start the server of websockets, in a thread; its `shutdown` ends it."""

    def echo(ws: Any) -> None:
        for message in ws:
            if message == "close":
                ws.close(4002, "enough")
            else:
                ws.send(message if isinstance(message, bytes) else f"Echo: {message}")

    server = websockets.sync.server.serve(echo, "127.0.0.1", 0, subprotocols=["echo"], max_size=None)  # type: ignore[list-item]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, server.socket.getsockname()[1]


def nginx(directory: Path, port: int, behind: int, certificate: str) -> subprocess.Popen[bytes]:
    """Start nginx as a TLS proxy on `port` for the server at port `behind`; it does not listen at once."""
    site = f"""
        server {{
            listen 127.0.0.1:{port} ssl;
            ssl_certificate {certificate};
            ssl_certificate_key {certificate};
            location / {{
                proxy_pass http://127.0.0.1:{behind};
                proxy_http_version 1.1;
                proxy_set_header Upgrade $http_upgrade;
                proxy_set_header Connection upgrade;
                proxy_set_header Host $http_host;
            }}
        }}
    """
    return subprocess.Popen(nginxCommand(directory, site))


def listens(port: int) -> bool:
    """Return whether somebody listens on a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True
