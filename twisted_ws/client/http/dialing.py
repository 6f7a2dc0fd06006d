"""One attempt to connect: DNS, TCP, proxy, TLS and HTTP, in one time."""

from __future__ import annotations

from typing import Any

from twisted.internet import error as neterror
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from twisted_ws.client.websocket.connection import ClientConnection
from twisted_ws.client.errors import ConnectError, ConnectFailed, HandshakeTimeout, seconds
from twisted_ws.client.opening import Opening
from twisted_ws.client.options import Options
from twisted_ws.client.websocket.owner import ConnectionOwner
from twisted_ws.logs import printable
from twisted_ws.wire.tls.client import ClientTLS

__all__ = ["dial", "unreachable"]


class _Factory(Factory):
    """Gives the one protocol of an attempt to whatever makes the transport."""

    noisy = False

    def __init__(self, opening: Opening) -> None:
        self._opening = opening

    def buildProtocol(self, addr: IAddress | None) -> Opening:
        """Return it."""
        return self._opening


def dial(
    reactor: Any, options: Options, endpoint: IStreamClientEndpoint, tls: ClientTLS | None, owner: ConnectionOwner
) -> Deferred[ClientConnection]:
    """Make one attempt.

    Args:
        reactor: tells the time.
        options: what to ask for.
        endpoint: the way there, through a proxy where there is one.
        tls: for a ``wss:`` URL.
        owner: of the connection.

    Returns:
        A Deferred that fires with an open connection or fails with a `ConnectError`; it can be cancelled.
    """
    opening = Opening(reactor, options, owner)
    factory: Any = _Factory(opening)
    if tls is not None:
        factory = tls.wrap(factory, reactor)

    async def attempt() -> ClientConnection:
        try:
            await endpoint.connect(factory)
        except ConnectError:
            raise
        except Exception as error:
            raise unreachable(options.address.hostAndPort, error) from None
        return await opening.opened

    def late(result: object, timeout: float) -> Failure:
        how = "connected, but got no answer to the handshake" if opening.connected else "could not be reached"
        where = options.address.hostAndPort
        text = f"{where} {how} in {seconds(timeout)}: check address and network, or allow more with handshakeTimeout"
        return Failure(HandshakeTimeout(text))

    return Deferred.fromCoroutine(attempt()).addTimeout(options.handshakeTimeout, reactor, late)


def unreachable(where: str, error: Exception) -> ConnectFailed:
    """Return the error for what Twisted's endpoints say.

    Args:
        where: host and port.
        error: what they say.
    """
    if isinstance(error, neterror.DNSLookupError):
        return ConnectFailed(f"there is no address for {where}: check the name, and this machine's DNS")
    if isinstance(error, neterror.ConnectionRefusedError):
        return ConnectFailed(f"nothing listens at {where}: check the port, and that the server runs")
    if isinstance(error, neterror.NoRouteError):
        return ConnectFailed(f"there is no way to {where}: check this machine's network")
    if isinstance(error, (neterror.TimeoutError, neterror.TCPTimedOutError)):
        return ConnectFailed(f"{where} did not answer: check the address, and firewalls on the way")
    return ConnectFailed(f"{where} could not be reached: {printable(error)}")
