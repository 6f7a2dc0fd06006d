"""One question over HTTP and its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast
from weakref import WeakSet

from cryptography import x509
from OpenSSL import SSL
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError, ConnectionLost, DNSLookupError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgentEndpointFactory, IBodyProducer
from zope.interface import implementer

from twisted_ws.wire.tls.client import ClientTLS
from twisted_ws.wire.tls.contexts import openSSLReason

# Bytes of an answer: an identity with a thousand grants has 30 KiB, a key set of twenty RSA keys 10 KiB.
LONGEST_ANSWER = 64 * 1024
# Seconds that a connection without work is kept: servers close it after 5 (uvicorn) to 75 (nginx).
IDLE = 30


class Question(NamedTuple):
    """A request; its values may be secrets, so that its repr has none.

    Attributes:
        method: GET or POST.
        url: the URL.
        headers: name and value of each.
        body: the body of a POST.
        isOnce: whether it must not be sent twice: it goes over a connection of its own, which no server has closed already.
    """

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    isOnce: bool = False

    def __repr__(self) -> str:
        return f"<Question {self.method}>"


class Answer(NamedTuple):
    """A response; its body may be a secret, so that its repr has none.

    Attributes:
        status: the status; redirects are answers like others.
        body: the body, at most `LONGEST_ANSWER` bytes.
        cacheControl: the value of Cache-Control.
        retryAfter: the seconds of Retry-After; 0 without it, and for a date.
    """

    status: int
    body: bytes = b""
    cacheControl: str = ""
    retryAfter: int = 0

    def __repr__(self) -> str:
        return f"<Answer {self.status}>"


class Unanswered(Exception):
    """There is no answer, or none that says anything.

    Attributes:
        detail: why, in words for the operator's log.
        seconds: when to ask again; 0 if nothing is known.
        isUnsent: whether the question certainly has not reached the server.
    """

    def __init__(self, detail: str, seconds: float = 0, isUnsent: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.seconds = seconds
        self.isUnsent = isUnsent

    def again(self) -> Unanswered:
        """Return the same for somebody else who waits: an exception that is raised twice keeps the frames of both."""
        return Unanswered(self.detail, self.seconds, self.isUnsent)


class Exchanges:
    """Sends questions to one server, each on a connection of its own, which is kept for the next one.

    Certificates are verified. Redirects are not followed: the credentials in a question are for one server. Proxies that the
    environment names are not used.

    Args:
        reactor: the reactor.
        connections: how many connections without work are kept.
        trusted: the authorities that are trusted; None: the system's.
    """

    def __init__(self, reactor: Any, connections: int, trusted: Sequence[x509.Certificate] | None = None) -> None:
        endpoints = _Endpoints(reactor, trusted)
        self._pool = _Pool(reactor)
        self._pool.retryAutomatically = False
        self._pool.maxPersistentPerHost = connections
        self._pool.cachedConnectionTimeout = IDLE
        # For the second try: no other connection that may be as old as the first.
        self._single = _Pool(reactor, persistent=False)
        self._agents = tuple(Agent.usingEndpointFactory(reactor, endpoints, each) for each in (self._pool, self._single))

    def send(self, question: Question) -> Deferred[Answer]:
        """Return the answer; if the Deferred is cancelled, the connection is closed at once.

        Raises:
            Unanswered: there is none; the Deferred fails with it, or with CancelledError.
        """
        return Deferred.fromCoroutine(self._send(question))

    def stop(self) -> Deferred[None]:
        """Close the connections that have nothing to do."""
        closed: Deferred[None] = self._pool.closeCachedConnections()  # type: ignore[no-untyped-call]
        return closed

    async def _send(self, question: Question) -> Answer:
        used: list[Any] = []
        if not question.isOnce:
            try:
                return await self._try(question, self._pool, self._agents[0], used)
            except Exception as error:
                if not self._mayTryAgain(error, used):
                    raise _blamed(error, used) from None
            # The server had closed a kept connection while the question was on its way.
            used.clear()
        try:
            return await self._try(question, self._single, self._agents[1], used)
        except Exception as error:
            raise _blamed(error, used) from None

    def _mayTryAgain(self, error: Exception, used: list[Any]) -> bool:
        return bool(used) and self._pool.isOld(used[0]) and not isinstance(error, Unanswered) and not _isCancelled(error)

    async def _try(self, question: Question, pool: _Pool, agent: Agent, used: list[Any]) -> Answer:
        headers = Headers()
        headers.addRawHeader("User-Agent", "twisted_ws")
        for name, value in question.headers:
            headers.addRawHeader(name, value.encode("utf-8", "replace"))
        producer = _Body(question.body) if question.method == "POST" else None
        pool.used = used
        response: Any = await agent.request(question.method.encode(), question.url.encode(), headers, producer)
        body = _Collector(used[0], response.length)
        if not body.tooLong:
            response.deliverBody(body)
        data = await body.whole
        values = response.headers.getRawHeaders("cache-control", [])
        again = response.headers.getRawHeaders("retry-after", [""])[0]
        seconds = int(again) if again.isascii() and again.isdigit() and len(again) <= 9 else 0
        return Answer(response.code, data, ", ".join(values), seconds)


class _Pool(HTTPConnectionPool):
    """Tells who asks which connection is theirs.

    Attributes:
        used: where the next connection is noted.
    """

    def __init__(self, reactor: Any, persistent: bool = True) -> None:
        super().__init__(reactor, persistent)  # type: ignore[no-untyped-call]
        self.used: list[Any] = []
        self._seen: WeakSet[Any] = WeakSet()
        self._old: WeakSet[Any] = WeakSet()

    def isOld(self, connection: Any) -> bool:
        """Return whether a connection was used before."""
        return connection in self._old

    def getConnection(self, key: Any, endpoint: Any) -> Deferred[Any]:
        """Return a connection (see `HTTPConnectionPool`), and note it."""
        used = self.used

        def note(connection: Any) -> Any:
            (self._old if connection in self._seen else self._seen).add(connection)
            used.append(connection)
            return connection

        return super().getConnection(key, endpoint).addCallback(note)


@implementer(IAgentEndpointFactory)
class _Endpoints:
    def __init__(self, reactor: Any, trusted: Sequence[x509.Certificate] | None) -> None:
        self._reactor = reactor
        self._trusted = trusted
        self._tls: dict[str, ClientTLS] = {}

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """Return where a URL's server listens; the deadline of the question is that of connecting, too."""
        host = uri.host.decode("ascii").strip("[]")
        tls = None
        if uri.scheme == b"https":
            tls = self._tls.get(host)
            if tls is None:
                tls = self._tls[host] = ClientTLS(host, self._trusted)
        inner: Any
        if isIPAddress(host):
            inner = TCP4ClientEndpoint(self._reactor, host, uri.port)
        elif isIPv6Address(host):
            inner = TCP6ClientEndpoint(self._reactor, host, uri.port)
        else:
            inner = HostnameEndpoint(self._reactor, host, uri.port)
        return _Endpoint(self._reactor, inner, tls)


@implementer(IStreamClientEndpoint)
class _Endpoint:
    def __init__(self, reactor: Any, inner: IStreamClientEndpoint, tls: ClientTLS | None) -> None:
        self._reactor = reactor
        self._inner = inner
        self._tls = tls

    def __repr__(self) -> str:
        return "<the back end>"

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect, with TLS if that is wanted."""
        cast(Any, factory).noisy = False  # the agent's own: it would be two lines of the log for each connection
        if self._tls is None:
            return self._inner.connect(factory)
        wrapped = self._tls.wrap(factory, self._reactor)
        connected: Deferred[Any] = self._inner.connect(wrapped)
        return connected.addCallback(lambda protocol: protocol.wrappedProtocol)


@implementer(IBodyProducer)
class _Body:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length = len(data)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        """Write all."""
        consumer.write(self._data)
        return succeed(None)

    def pauseProducing(self) -> None:
        """Do nothing: all is written."""

    def resumeProducing(self) -> None:
        """Do nothing."""

    def stopProducing(self) -> None:
        """Do nothing."""


class _Collector(Protocol):
    """Collects a body within the limit.

    Attributes:
        whole: the body.
        tooLong: whether the server has announced more than the limit.
    """

    def __init__(self, connection: Any, length: Any) -> None:
        self._connection = connection
        self._data = bytearray()
        self.whole: Deferred[bytes] = Deferred(lambda _: self._abort())
        self.tooLong = length is not UNKNOWN_LENGTH and length > LONGEST_ANSWER
        if self.tooLong:
            self._refuse()

    def _abort(self) -> None:
        # Not by the transport of the body: that can only ask the server to close, and waits for it.
        self._connection.abort()

    def _refuse(self) -> None:
        self.whole.errback(Unanswered(f"the answer has more than {LONGEST_ANSWER // 1024} KiB"))
        self._abort()

    def dataReceived(self, data: bytes) -> None:
        """Take a part of the body."""
        if self.whole.called:
            return
        self._data += data
        if len(self._data) > LONGEST_ANSWER:
            self._data.clear()
            self._refuse()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Note the end of the body; one whose length was not announced (HTTP/1.0) ends with the connection."""
        if self.whole.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.whole.callback(bytes(self._data))
        else:
            self.whole.errback(Unanswered("the answer was broken off"))


def _reasons(error: BaseException) -> list[BaseException]:
    """Return an error and those that it wraps."""
    return [error, *(inner for each in getattr(error, "reasons", ()) for inner in _reasons(each.value))]


def _isCancelled(error: BaseException) -> bool:
    """Return whether a request ended because it was cancelled: twisted.web says that with the error of a lost connection."""
    return any(isinstance(each, CancelledError) for each in _reasons(error))


def _blamed(error: Exception, used: list[Any]) -> Exception:
    """Return what the operator is told."""
    if isinstance(error, Unanswered):
        return error
    if _isCancelled(error):
        return CancelledError()
    reasons = _reasons(error)
    refusal = getattr(used[0].transport, "refusal", None) if used else None
    if refusal is not None:
        return Unanswered(refusal.text)
    for each in reasons:
        if isinstance(each, SSL.Error):
            return Unanswered(f"no TLS: {openSSLReason(each) or 'broken off'}")
        if isinstance(each, DNSLookupError):
            return Unanswered("its name is unknown", isUnsent=True)
        if isinstance(each, ConnectError):
            return Unanswered(f"no connection: {type(each).__name__}", isUnsent=True)
        if isinstance(each, ConnectionLost):
            return Unanswered("the connection was lost")
    return Unanswered(f"no answer: {type(reasons[-1]).__name__}")
