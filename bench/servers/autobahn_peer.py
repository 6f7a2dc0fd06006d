"""Autobahn on Twisted as in the documentation of both: an echo server, and an HTTP site that broadcasts.

python autobahn_peer.py WSPORT TLSPORT HTTPPORT CERTIFICATE KEY
"""

from __future__ import annotations

import sys
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.web.resource import Resource
from twisted.web.server import Site

clients: set[Any] = set()


class Echo(WebSocketServerProtocol):
    """Send every message back; stay in the set while open."""

    def onOpen(self) -> None:
        """Join."""
        clients.add(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Echo."""
        self.sendMessage(payload, isBinary)

    def onClose(self, wasClean: bool, code: int, reason: str) -> None:
        """Leave."""
        clients.discard(self)


class Broadcast(Resource):
    """Send the body of a POST to every client."""

    isLeaf = True

    def render_POST(self, request: Any) -> bytes:
        """Broadcast, with Autobahn's prepared message."""
        message = factory.prepareMessage(request.content.read())
        for client in clients:
            client.sendPreparedMessage(message)
        return b"OK"


ws, tls, http, certificate, key = sys.argv[1:6]
factory = WebSocketServerFactory()
factory.protocol = Echo
for description, what in (
    (f"tcp:{ws}:interface=127.0.0.1:backlog=4096", factory),
    (f"ssl:{tls}:interface=127.0.0.1:backlog=4096:privateKey={key}:certKey={certificate}", factory),
    (f"tcp:{http}:interface=127.0.0.1", Site(Broadcast())),
):
    serverFromString(reactor, description).listen(what)
reactor.run()
