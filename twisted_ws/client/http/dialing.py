"""One attempt to connect: DNS, TCP, proxy, TLS and HTTP, all within one timeout."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from twisted_ws.client.errors import ConnectError, HandshakeTimeout, seconds, unreachable
from twisted_ws.client.http.address import Address
from twisted_ws.client.http.exchange import Exchange
from twisted_ws.client.http.proxies import proxyFor
from twisted_ws.client.http.tunnel import TunnelEndpoint
from twisted_ws.wire.tls.client import ClientTLS


def endpointFor(reactor: Any, address: Address, proxy: bool | str) -> IStreamClientEndpoint:
    """Return the endpoint for an address, through a proxy if `proxyFor` finds one.

    Raises:
        InvalidURL: the URL of the proxy cannot be used.
        TypeError: `proxy` is neither a str nor a bool.
    """
    found = proxyFor(address, proxy)
    if found is None:
        return HostnameEndpoint(reactor, address.host, address.port)
    return TunnelEndpoint(HostnameEndpoint(reactor, found.host, found.port), found, address)


def dial(
    reactor: Any, endpoint: IStreamClientEndpoint, tls: ClientTLS | None, exchange: Exchange, timeout: float
) -> Deferred[Any]:
    """Connect, and exchange a request for a response.

    Args:
        reactor: tells the time.
        endpoint: from `endpointFor`.
        tls: None without TLS.
        exchange: the request.
        timeout: seconds for all of it.

    Returns:
        A Deferred that fires with the result of `exchange` or fails with a `ConnectError`; it can be cancelled.
    """
    factory: Any = Factory.forProtocol(lambda: exchange)
    factory.noisy = False
    if tls is not None:
        factory = tls.wrap(factory, reactor)

    async def attempt() -> Any:
        try:
            await endpoint.connect(factory)
        except ConnectError:
            raise
        except Exception as error:
            raise unreachable(exchange.address.hostAndPort, error) from None
        return await exchange.result

    def late(result: object, timeout: float) -> Failure:
        how = "accepted the connection but did not answer" if exchange.connected else "could not be reached"
        where = exchange.address.hostAndPort
        text = f"{where} {how} in {seconds(timeout)}: check the address and the network, or allow more time with handshakeTimeout"
        return Failure(HandshakeTimeout(text))

    return Deferred.fromCoroutine(attempt()).addTimeout(timeout, reactor, late)
