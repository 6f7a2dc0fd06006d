"""`connect`: a URL in, an open client out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint

from twisted_ws.client.client import WebSocketClient
from twisted_ws.client.errors import ConnectFailed, HandshakeTimeout, seconds
from twisted_ws.client.handshake import checkSubProtocols
from twisted_ws.client.http.address import Address, parseURL
from twisted_ws.client.http.credentials import Bearer, Credentials, SubscriptionToken, TokenFunction
from twisted_ws.client.http.dialing import dial, endpointFor
from twisted_ws.client.http.request import TOKEN_HEADER, headerPairs
from twisted_ws.client.introducing import introduce
from twisted_ws.client.opening import Opening
from twisted_ws.client.options import HANDSHAKE_TIMEOUT, READ_BUFFER, WRITE_BUFFER, Options
from twisted_ws.client.retry import Retry
from twisted_ws.client.session import Session
from twisted_ws.limits import Limits
from twisted_ws.wire.tls.client import ClientTLS
from twisted_ws.wire.tls.stores import StorePath, loadClientKey, loadTrust

_DEFAULTS = Limits()


class Connecting(Deferred[WebSocketClient]):
    """What `connect` returns: ``await`` it, or use it in ``async with``, which closes the client at the end."""

    _client: WebSocketClient

    async def __aenter__(self) -> WebSocketClient:
        self._client = await self
        return self._client

    async def __aexit__(self, *exception: object) -> None:
        await self._client.close()


def connect(
    url: str,
    *,
    subProtocols: Iterable[str] = (),
    headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    cookies: Mapping[str, str] | None = None,
    credentials: Credentials | None = None,
    tokenFirst: bool = False,
    subscriptionToken: str | TokenFunction | None = None,
    compression: bool = False,
    retry: Retry | None = None,
    readTimeout: float | None = None,
    handshakeTimeout: float = HANDSHAKE_TIMEOUT,
    pingInterval: float = _DEFAULTS.pingInterval,
    pingTimeout: float = _DEFAULTS.pingTimeout,
    maxMessageSize: int = _DEFAULTS.maxMessageSize,
    readBuffer: int = READ_BUFFER,
    writeBuffer: int = WRITE_BUFFER,
    onPing: Callable[[WebSocketClient, bytes], Any] | None = None,
    onPong: Callable[[WebSocketClient, bytes], Any] | None = None,
    onReconnect: Callable[[WebSocketClient], Any] | None = None,
    trustStore: StorePath | None = None,
    clientCertificate: StorePath | None = None,
    verify: bool = True,
    proxy: bool | str = True,
    endpoint: IStreamClientEndpoint | None = None,
    reactor: Any = None,
) -> Connecting:
    """Open a WebSocket.

    ::

        async with connect("ws://localhost:8080/ws") as client:
            await client.writeTextMessage("hello")
            print(await client.readTextMessage())

    Args:
        url: ``ws://host:port/path`` or ``wss://...``.
        subProtocols: to offer, in order of preference; `WebSocketClient.negotiatedSubProtocol` is the server's choice.
        headers: more headers for the handshake, such as Origin or User-Agent.
        cookies: names and values.
        credentials: `Basic` or `Bearer`; a `Bearer` with a function is asked for a token before each attempt.
        tokenFirst: whether a `Bearer` token is sent in the first message, in place of the handshake, to a server that takes it
            there (`sources`); the connection is open when the server has accepted it.
        subscriptionToken: a token for the channels of the URL, or a function, plain or async, that is asked for one before each
            attempt: with a `Retry`, a client whose last channel has ended with its token comes back with another.
        compression: whether to offer permessage-deflate. It costs memory, and can leak secrets that are sent together with
            what others wrote (RFC 7692 section 8).
        retry: when to reconnect; None: never.
        readTimeout: seconds until a read fails with `ReadTimeout`; None: never.
        handshakeTimeout: seconds for one attempt: DNS, TCP, proxy, TLS and HTTP together.
        pingInterval: seconds between pings that check that the server is there; 0: no pings.
        pingTimeout: seconds for a pong, after which the connection counts as lost.
        maxMessageSize: bytes of an inflated message; the connection fails with `MessageTooBig` before more is kept.
        readBuffer: bytes of messages that may wait to be read before reading from the server pauses.
        writeBuffer: bytes of messages that may wait to be sent (also during an outage) before writes fail with
            `WriteBufferFull`.
        onPing: called with the client and the data of each ping, instead of the automatic pong; may be async.
        onPong: called with the client and the data of each pong that answers no `ping`; may be async.
        onReconnect: called with the client after each reconnection. What it writes before its first await goes out before
            everything that waits.
        trustStore: a file of the certificates to trust, instead of the system's: PEM, or PKCS #12 as ``Store(path, password)``.
        clientCertificate: a file with the client's certificate, its key and its chain; PEM, or PKCS #12.
        verify: False accepts any certificate of the server: for tests only, and with a warning in the log.
        proxy: the proxy's URL, ``http://user:password@host:port`` or ``socks5://...`` (which resolves names
            itself); True: HTTPS_PROXY for wss:, HTTP_PROXY for ws:, else ALL_PROXY, unless NO_PROXY lists the host; False: none.
        endpoint: connects instead of DNS, TCP and proxy, for example to a UNIX socket.
        reactor: the reactor; None for the global one.

    Returns:
        A Deferred that fires with a `WebSocketClient` or fails with a `ConnectError`; with `retry`, only
        once that gives up. Cancelling it stops the attempts. ``async with`` takes it too.

    Raises:
        InvalidURL: the URL is not a WebSocket's, or the proxy's cannot be used.
        ConfigurationError: a file cannot be used; the text names it.
        ValueError: another argument cannot be used; the text names it.
        TypeError: an argument has the wrong type.
        RuntimeError: an asyncio loop runs here but no reactor, so the Deferred would never fire.
    """
    if reactor is None:
        from twisted.internet import reactor  # installs the default reactor, so only when one is needed

        _checkLoop(reactor)
    if tokenFirst and not isinstance(credentials, Bearer):
        raise ValueError("tokenFirst needs credentials=Bearer(...)")
    forChannels = None if subscriptionToken is None else SubscriptionToken(subscriptionToken)
    options = Options(
        address=parseURL(url),
        subProtocols=checkSubProtocols(subProtocols),
        headers=headerPairs(headers, cookies, None if tokenFirst else credentials, forChannels),
        compression=compression,
        limits=Limits(maxMessageSize=maxMessageSize, pingInterval=pingInterval, pingTimeout=pingTimeout),
        readTimeout=readTimeout,
        handshakeTimeout=handshakeTimeout,
        readBuffer=readBuffer,
        writeBuffer=writeBuffer,
        retry=retry,
        onPing=onPing,
        onPong=onPong,
        onReconnect=onReconnect,
    )
    tls = tlsFor(options.address, trustStore, clientCertificate, verify)
    way = endpoint or endpointFor(reactor, options.address, proxy)

    def attempt(session: Session) -> Deferred[Any]:
        return dial(reactor, way, tls, Opening(reactor, options, session), handshakeTimeout)

    asked = [
        (name, each)
        for name, each in (("Authorization", credentials), (TOKEN_HEADER, forChannels))
        if isinstance(each, Bearer) and each.canRenew
    ]

    async def attemptAnew(session: Session) -> Any:
        found = []
        first = credentials.header() if tokenFirst and isinstance(credentials, Bearer) and not credentials.canRenew else ""
        for name, bearer in asked:
            if session.isRefused:
                bearer.forget()
            value = await _token(bearer, handshakeTimeout, reactor)
            if tokenFirst and bearer is credentials:
                first = value
            else:
                found.append((name, value))
        opening = Opening(reactor, replace(options, headers=(*options.headers, *found)), session)
        connection = await dial(reactor, way, tls, opening, handshakeTimeout)
        if tokenFirst:
            await introduce(session, connection, Bearer.tokenOf(first), handshakeTimeout, reactor)
        return connection

    if asked or tokenFirst:
        session = Session(reactor, options, lambda session: Deferred.fromCoroutine(attemptAnew(session)), bool(asked))
    else:
        session = Session(reactor, options, attempt)
    WebSocketClient(session)
    connecting = Connecting(session.cancel)
    session.start().chainDeferred(connecting)
    return connecting


async def _token(bearer: Bearer, timeout: float, reactor: Any) -> str:
    """Ask for a token.

    Raises:
        ConnectError: there is none, or not in time.
    """
    asked = Deferred.fromCoroutine(bearer.renewed())
    try:
        return await asked.addTimeout(timeout, reactor)
    except defer.TimeoutError:
        raise HandshakeTimeout(f"the function for tokens returned nothing in {seconds(timeout)}") from None
    except defer.CancelledError:
        raise
    except Exception as error:
        raise ConnectFailed(f"the function for tokens raised {type(error).__name__}: {error}") from error


def _checkLoop(reactor: Any) -> None:
    """Refuse to run under ``asyncio.run`` without a running reactor: the Deferred would never fire, and the program hang."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    from twisted.internet.asyncioreactor import AsyncioSelectorReactor

    if not reactor.running and not isinstance(reactor, AsyncioSelectorReactor):
        raise RuntimeError(
            "asyncio runs here, but Twisted's reactor does not: install asyncioreactor before any other reactor and start with "
            "react instead of asyncio.run, or call twisted_ws.client.sync in threads (asyncio.to_thread)"
        )


def tlsFor(address: Address, trust: StorePath | None, certificate: StorePath | None, verify: bool) -> ClientTLS | None:
    """Return the TLS for an address; None if it is not for a secure URL.

    Raises:
        ConfigurationError: a file cannot be used.
        ValueError: the URL is not for TLS, but something about TLS is given.
    """
    if not address.isSecure:
        if trust is not None or certificate is not None or not verify:
            raise ValueError("trustStore, clientCertificate and verify are for wss:// URLs: a ws:// connection has no TLS")
        return None
    return ClientTLS(
        address.name,
        None if trust is None else loadTrust(trust),
        None if certificate is None else loadClientKey(certificate),
        verify,
    )
