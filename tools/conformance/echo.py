"""Both ends of an echo: the service for the suite's client, and the client for the suite's server."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from twisted_ws import ConnectionClosed, WebSocketService
from twisted_ws.client import connect
from twisted_ws.errors import WebSocketError

# Case 9 has messages of 16 MiB, and of 4 MiB in fragments of 64 bytes.
LARGEST = 32 << 20


class Echo(WebSocketService):
    """Send every message back."""

    def onTextMessage(self, caller: Any, text: str) -> str:
        """Echo text."""
        return text

    def onBinaryMessage(self, caller: Any, data: bytes) -> bytes:
        """Echo binary."""
        return data


async def _run(server: str, agent: str) -> None:
    async with connect(f"{server}/getCaseCount") as client:
        count = int(await client.readTextMessage())
    print(f"{count} cases")
    for case in range(1, count + 1):
        try:
            async with connect(
                f"{server}/runCase?case={case}&agent={agent}",
                compression=True,
                maxMessageSize=LARGEST,
                readBuffer=LARGEST,
                pingInterval=0,
            ) as client:
                while True:
                    await client.writeMessage(await client.readMessage())
        except (ConnectionClosed, WebSocketError):
            pass  # the suite's report has its verdict
    async with connect(f"{server}/updateReports?agent={agent}") as client:
        await client.whenClosed()


def _main(reactor: Any, server: str, agent: str) -> Deferred[None]:
    return Deferred.fromCoroutine(_run(server, agent))


if __name__ == "__main__":
    react(_main, sys.argv[1:])
