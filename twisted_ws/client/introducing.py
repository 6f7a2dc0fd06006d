"""The first message of a connection whose client shows its token there, and the server's answer."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet import defer
from twisted.internet.defer import Deferred

from twisted_ws.client.errors import ConnectFailed, HandshakeRefused, HandshakeTimeout, seconds
from twisted_ws.client.session import Session
from twisted_ws.client.websocket.connection import ClientConnection
from twisted_ws.closecodes import REFUSED
from twisted_ws.errors import ConnectionClosed
from twisted_ws.logs import printable
from twisted_ws.message import TEXT
from twisted_ws.upgrade import Headers


async def introduce(session: Session, connection: ClientConnection, token: str, timeout: float, reactor: Any) -> None:
    """Send a token, and wait until the server has accepted it.

    Args:
        session: owns the connection.
        connection: it has just opened.
        token: the token.
        timeout: seconds.
        reactor: tells the time.

    Raises:
        HandshakeRefused: the server has refused it; the status is that which a handshake would have had.
        ConnectError: there was no answer, or another one.
    """
    answered: Deferred[str | bytes] = Deferred(lambda _: connection.abort())
    session.introducing = answered
    connection.writeMessage(TEXT, msgspec.json.encode({"type": "auth", "token": token}))
    try:
        answer = await answered.addTimeout(timeout, reactor)
    except defer.TimeoutError:
        raise HandshakeTimeout(f"the server did not answer the token in {seconds(timeout)}") from None
    except ConnectionClosed as closed:
        status = closed.statusCode - REFUSED
        if not 400 <= status <= 599:
            raise ConnectFailed(f"the connection ended before the token was accepted: {closed}") from closed
        raise HandshakeRefused(f"the server refused the token: {printable(closed.reason)}", status, Headers(())) from closed
    if not _accepts(answer):
        connection.abort()
        raise ConnectFailed("the server sent something other than an answer to the token: does it take one in the first message?")


def _accepts(answer: str | bytes) -> bool:
    try:
        found = msgspec.json.decode(answer)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("type") == "auth"
