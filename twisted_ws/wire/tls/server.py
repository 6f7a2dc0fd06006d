"""TLS on the server's ports: one context for all connections, exchanged under them at a reload.

Certificate revocation lists and OCSP are not asked: a client certificate is refused by taking its authority out of the
client CA file and reloading, or by `onUpgrade`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509, X509StoreFlags
from twisted.internet.interfaces import (
    IAddress,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
    ITCPTransport,
    ITransport,
)
from twisted.internet.protocol import connectionDone
from twisted.internet.ssl import Certificate
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer, providedBy
from zope.interface.declarations import Provides

from twisted_ws.errors import ConfigurationError
from twisted_ws.limits import Limits
from twisted_ws.logs import Throttle, peerName, printable
from twisted_ws.wire import speedups
from twisted_ws.wire.loop.transports import hasTLS, peerOf
from twisted_ws.wire.tls.certificates import Identity, loadAuthorities, loadKeyStore, loadPEM, loadSelfSigned

__all__ = [
    "PLAIN_HTTP",
    "TOO_MANY_MESSAGES",
    "WARN_DAYS",
    "ServerTLS",
    "TLSFactory",
    "TLSSettings",
    "TLSTransport",
    "isPlainHTTP",
    "openSSLReason",
    "peerCertificate",
    "reportFailure",
]

_log = Logger()

_VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
# For TLS 1.2: forward secrecy and authenticated encryption only. TLS 1.3 has nothing else.
_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
# What ALPN may choose, the best first.
_PROTOCOLS = (b"http/1.1", b"http/1.0")
# What OpenSSL calls the end of a stream without a close_notify, as of a load balancer's check.
_PEER_LEFT = "unexpected eof while reading"
# A resumed session shows the client certificate of its first handshake without verifying it again, so not for long.
_TICKET_SECONDS = 3600
# A certificate that has fewer is worth a warning: at its load, and each day.
WARN_DAYS = 14
_READ = 2**15

_HINT = b"This port speaks TLS: use https:// or wss://\n"
PLAIN_HTTP = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (
    len(_HINT),
    _HINT,
)


# What breaks a connection that `twisted_ws.wire.speedups.pure.tlsAllow` has stopped.
TOO_MANY_MESSAGES = SSL.Error([("", "", "too many messages of TLS itself at once, as new keys")])


@dataclass(frozen=True, slots=True)
class TLSSettings:
    """Where the certificate comes from, and who may connect. All paths; nothing given means a self-signed certificate.

    Attributes:
        certificate: PEM; may hold the chain and the private key too.
        privateKey: PEM, not encrypted.
        chain: PEM, the issuers of `certificate`.
        keyStore: PKCS #12, instead of the three above.
        keyStorePassword: see `twisted_ws.wire.tls.certificates.readPassword`.
        clientCA: PEM; a client must show a certificate that one of these issued (and each of these is trusted as it is,
            so an intermediate authority needs no root beside it).
        minimum: "1.2" or "1.3".
        stateDirectory: where the self-signed certificate is kept; None: the user's state directory.
    """

    certificate: str | None = None
    privateKey: str | None = None
    chain: str | None = None
    keyStore: str | None = None
    keyStorePassword: bytes | None = field(default=None, repr=False)
    clientCA: str | None = None
    minimum: str = "1.2"
    stateDirectory: str | None = None


@implementer(IOpenSSLServerConnectionCreator)
class ServerTLS:
    """The TLS side of every port of one server.

    Also a connection creator as Twisted's own endpoints take it (`twisted.internet.endpoints.wrapServerTLS`), but only
    `wrap` gives the guarded transport.

    Args:
        settings: see `TLSSettings`.
        now: tells the present time, with its zone.
        limits: of which `tlsMessages` holds for all contexts of the process: the last decides.

    Attributes:
        settings: those in use.
        limits: as they were given.

    Raises:
        ConfigurationError: something cannot be used; the text names the file and the mend.
    """

    def __init__(
        self,
        settings: TLSSettings,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        limits: Limits = Limits(),  # noqa: B008 - nobody can change it
    ) -> None:
        self._now = now
        self.limits = limits
        self._load(settings)

    def reload(self, settings: TLSSettings | None = None) -> None:
        """Read every file anew, and use what they hold for new handshakes; open connections go on as they are.

        Sessions of before are not resumed, so that every client is judged by the new client CA file.

        Args:
            settings: new ones; None: the same.

        Raises:
            ConfigurationError: something cannot be used; then everything stays as it was.
        """
        self._load(self.settings if settings is None else settings)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the certificate in use, as ``AA:BB:...``."""
        return self._identity.fingerprint

    def daysLeft(self) -> float:
        """Return the days until the certificate in use expires; negative when it has expired."""
        return self._identity.daysLeft(self._now())

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        """Return the OpenSSL side of one new connection (`IOpenSSLServerConnectionCreator`)."""
        return SSL.Connection(self._context, None)

    def connection(self, descriptor: int) -> SSL.Connection:
        """Return the OpenSSL side of a connection on a socket, by its descriptor."""
        return SSL.Connection(self._context, descriptor)  # type: ignore[arg-type]  # all that it asks a socket for

    def wrap(self, factory: IProtocolFactory, reactor: Any) -> IProtocolFactory:
        """Return a factory for protocols that speak TLS below those of `factory`.

        What the protocols of `factory` can rely on:

        - `makeConnection` comes before the handshake, so that one deadline covers handshake and head; the handshake itself
          has none. `peerCertificate` answers from the first `dataReceived` on.
        - Their transport writes through to the TCP transport at once, in order. A producer registered with it is paused and
          resumed by the TCP transport's buffer, whose size is ``transport.transport.bufferSize``. `pauseProducing` stops the
          reading from the socket; what was read already (at most one read, 64 KiB) is still delivered.
        - When the peer ends TLS, or breaks it, the producer is told to stop and the connection closes once the TCP buffer
          is empty. `loseConnection` sends our close_notify and waits for the peer's. Neither wait has a limit here: who
          calls it keeps a deadline and then calls `abortConnection`, which is safe at any time.
        - A failed handshake is a `connectionLost` with an `OpenSSL.SSL.Error`, for `reportFailure`.
        """
        return TLSFactory(self, False, factory, reactor)

    def _load(self, settings: TLSSettings) -> None:
        now = self._now()
        if settings.minimum not in _VERSIONS:
            raise ConfigurationError(f'--tls-minimum must be 1.2 or 1.3, not "{printable(settings.minimum)}".')
        identity = _identity(settings, now)
        authorities = None if settings.clientCA is None else loadAuthorities(settings.clientCA)
        context = _makeContext(identity, authorities or [], settings.minimum)
        speedups.tlsAllow(context, self.limits.tlsMessages)
        # From here on nothing fails: the old is left only for a new that is whole.
        self.settings = settings
        self._identity = identity
        self._context = context
        _report(identity, now)
        for each in authorities or []:
            if each.not_valid_after_utc < now:
                name = printable(each.subject.rfc4514_string())
                _log.warn(
                    "{path}: the client CA {name} has expired, and its clients are refused.", path=settings.clientCA, name=name
                )


def peerCertificate(transport: Any) -> Certificate | None:
    """Return the client's certificate, verified; None without TLS, without mutual TLS, or when the connection is lost.

    Only from the first byte of the application on: before that the handshake is not finished.
    """
    connection = transport.getHandle() if hasTLS(transport) else None
    found = None if connection is None else connection.get_peer_certificate()
    return None if found is None else Certificate(found)


def _identity(settings: TLSSettings, now: datetime) -> Identity:
    parts = settings.privateKey is not None or settings.chain is not None
    if settings.keyStore is not None:
        if settings.certificate is not None or parts:
            raise ConfigurationError(
                "--key-store brings certificate, key and chain: leave out --certificate, --private-key and --chain."
            )
        return loadKeyStore(settings.keyStore, settings.keyStorePassword)
    if settings.certificate is not None:
        return loadPEM(settings.certificate, settings.privateKey, settings.chain)
    if parts:
        raise ConfigurationError("--private-key and --chain belong to a certificate: give --certificate too.")
    return loadSelfSigned(settings.stateDirectory, now)


def _makeContext(identity: Identity, authorities: Sequence[x509.Certificate], minimum: str) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(_VERSIONS[minimum])
    context.set_cipher_list(_CIPHERS)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    # An idle connection gives its 32 KiB of record buffers back.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    # Sessions live in the clients' tickets, encrypted by a key of this context, and take no memory here. With mutual TLS
    # OpenSSL resumes none without a session id context.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(b"twisted_ws")
    context.set_timeout(_TICKET_SECONDS)
    context.set_alpn_select_callback(_selectProtocol)
    try:
        context.use_certificate(identity.certificate)
        context.use_privatekey(identity.key)
        context.check_privatekey()
        for each in identity.chain:
            context.add_extra_chain_cert(each)
    except SSL.Error as error:
        raise ConfigurationError(
            f"OpenSSL refuses the certificate {identity.source} ({openSSLReason(error)}): have a new one issued."
        ) from None
    if authorities:
        store = context.get_cert_store()
        assert store is not None  # which a context of OpenSSL always has
        store.set_flags(X509StoreFlags.PARTIAL_CHAIN)
        for each in authorities:
            store.add_cert(X509.from_cryptography(each))
            context.add_client_ca(each)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    return context


def openSSLReason(error: BaseException | None) -> str:
    """Return the reason of an error of pyOpenSSL: the last of the three words of its first entry; "" where it has none."""
    entries = error.args[0] if error is not None and error.args else ()
    return str(entries[0][2]) if isinstance(entries, list) and entries else ""


def isPlainHTTP(error: BaseException | None) -> bool:
    """Say whether a handshake failed because the client spoke HTTP without TLS; it can be told by `PLAIN_HTTP`."""
    return openSSLReason(error) == "http request"


def reportFailure(reason: Failure, throttle: Throttle, transport: Any) -> None:
    """Write into the log that TLS ended a connection that awaited a request; nothing where the peer has just left.

    Args:
        reason: of the protocol's `connectionLost`.
        throttle: keeps peers from filling the log.
        transport: the connection.
    """
    error = reason.value
    what = openSSLReason(error) if isinstance(error, SSL.Error) else ""
    if not what or what == _PEER_LEFT:
        return
    if isPlainHTTP(error):
        what = "plain HTTP came to it: use https:// or wss:// there"
    elif "alert" in what and ("certificate" in what or "unknown ca" in what):  # an alert is what the client says
        what += ": the client does not accept the certificate of this server"
    peer = peerName(peerOf(transport.getPeer())[0])
    throttle.info(_log, "TLS failed", "{peer}: TLS failed: {what}", peer=peer, what=printable(what))


def _selectProtocol(connection: SSL.Connection, offered: Sequence[bytes]) -> bytes:
    """Choose http/1.1, else http/1.0, or end the handshake with the alert no_application_protocol (RFC 7301 section 3.2).

    An exception is how pyOpenSSL is told to send the alert; as an `SSL.Error` it then ends this handshake as any other
    failure does. An empty answer would select a protocol with an empty name.
    """
    for protocol in _PROTOCOLS:
        if protocol in offered:
            return protocol
    raise SSL.Error([("SSL routines", "", "no application protocol")])


def _report(identity: Identity, now: datetime) -> None:
    certificate, days = identity.certificate, identity.daysLeft(now)
    facts = {"path": identity.source, "fingerprint": identity.fingerprint, "until": f"{certificate.not_valid_after_utc:%Y-%m-%d}"}
    if identity.selfSigned:
        _log.info("No certificate is given: using the self-signed one for localhost in {path}, SHA-256 {fingerprint}.", **facts)
        return
    _log.info("TLS certificate {path}, SHA-256 {fingerprint}, valid until {until}.", **facts)
    if days < 0:
        _log.warn("The certificate {path} HAS EXPIRED on {until}, and clients refuse it: renew it, then reload.", **facts)
    elif certificate.not_valid_before_utc > now:
        facts["since"] = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        _log.warn(
            "The certificate {path} is NOT VALID BEFORE {since}, and clients refuse it: check this machine's clock.", **facts
        )
    elif days < WARN_DAYS:
        _log.warn("The certificate {path} expires in {days} days, on {until}: renew it, then reload.", days=int(days), **facts)


# What zope.interface says of our transports, by the kind of transport below them. Twisted declares each interface by itself; with
# none of it kept, each connection makes it anew, and all of it is cycles.
_declarations: dict[type, list[object]] = {}


class TLSTransport(TLSMemoryBIOProtocol):
    """Twisted's TLS transport, without the turn of delay that its buffering kind adds, and with what stock lacks."""

    transport: Any

    def makeConnection(self, transport: ITransport) -> None:
        """Begin, with small packets sent at once."""
        if ITCPTransport.providedBy(transport):
            try:
                transport.setTcpNoDelay(True)
            except OSError:
                pass  # the peer has gone already, and connectionLost will tell
        super().makeConnection(transport)  # type: ignore[no-untyped-call]
        if transport.__class__ not in _declarations:
            each = [Provides(self.__class__, interface) for interface in providedBy(transport)]
            _declarations[transport.__class__] = [*each, providedBy(self)]

    def abortConnection(self) -> None:
        """Drop the connection now."""
        if self.connected:  # stock raises AttributeError once the connection is lost
            super().abortConnection()  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End."""
        # The TCP transport has stopped it already. Stock keeps it: a cycle through the producer, and AttributeError when
        # it is unregistered later.
        self._producer = None
        super().connectionLost(reason)  # type: ignore[no-untyped-call]

    def _flushReceiveBIO(self) -> None:
        """Deliver what has come."""
        speedups.tlsCount(True)
        try:
            super()._flushReceiveBIO()  # type: ignore[no-untyped-call]
        finally:
            speedups.tlsCount(False)

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        """End the connection, because the peer ended TLS or broke it."""
        if speedups.tlsCount(False):
            reason = Failure(TOO_MANY_MESSAGES)
        elif reason is not None:
            reason.cleanFailure()  # stock keeps it in a frame that its traceback has: a cycle for each connection
        if reason is not None and isPlainHTTP(reason.value):
            self.transport.write(PLAIN_HTTP)
        super()._tlsShutdownFinished(reason)  # type: ignore[no-untyped-call]
        # Whatever the producer writes from here on is dropped; left registered with a full TCP transport it would be
        # asked to resume, write nothing that arrives, and so hold the connection open for ever.
        producer, self._producer = self._producer, None
        if producer is not None:
            self.transport.unregisterProducer()
            producer.stopProducing()

    def _flushSendBIO(self) -> None:
        """Write all that OpenSSL has for the peer: stock writes 32 KiB of it, and a longer flight waits for ever."""
        try:
            data = self._tlsConnection.bio_read(_READ)
            self.transport.write(data)
            while len(data) == _READ:
                data = self._tlsConnection.bio_read(_READ)
                self.transport.write(data)
        except SSL.WantReadError:
            pass


class TLSFactory(TLSMemoryBIOFactory):
    """Makes connections with TLS in memory, on any transport (see `ServerTLS.wrap`).

    Attributes:
        tls: whose context.
    """

    protocol = TLSTransport

    def __init__(self, tls: ServerTLS, isClient: bool, wrappedFactory: IProtocolFactory, reactor: Any) -> None:
        super().__init__(tls, isClient, wrappedFactory, reactor)
        self.tls = tls

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return the transport; None, which closes the connection, where the wrapped factory wants none."""
        wrapped = self.wrappedFactory.buildProtocol(addr)
        return None if wrapped is None else self.protocol(self, wrapped)  # type: ignore[no-untyped-call]
