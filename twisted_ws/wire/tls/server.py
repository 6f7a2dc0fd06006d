"""TLS on the server's ports: one context for all connections, replaced while they stay open, on reload.

Certificate revocation lists and OCSP are not consulted: to refuse a client certificate, take its authority out of the client CA
file and reload, or refuse it in `onUpgrade`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IProtocolFactory
from twisted.logger import Logger
from zope.interface import implementer

from twisted_ws.errors import ConfigurationError
from twisted_ws.limits import Limits
from twisted_ws.logs import printable
from twisted_ws.telemetry.counts import Table
from twisted_ws.wire import speedups
from twisted_ws.wire.tls.certificates import CertifiedKey, loadAuthorities, loadKeyStore, loadPEM
from twisted_ws.wire.tls.contexts import newContext, showKey, trust
from twisted_ws.wire.tls.selfsigned import loadSelfSigned
from twisted_ws.wire.tls.transport import TLSFactory

_log = Logger()

_VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
# What ALPN may choose, best first.
_PROTOCOLS = (b"http/1.1", b"http/1.0")
# A resumed session shows the client certificate of its first handshake, not verified again, so sessions are kept only briefly.
_TICKET_SECONDS = 3600
# A certificate with fewer days left is worth a warning: when it is loaded, and every day.
WARN_DAYS = 14


def inWords(days: float) -> str:
    """Return the time that a certificate has left, for a warning: whole days, rounded down."""
    whole = int(days)
    return f"{whole} day{'' if whole == 1 else 's'}" if whole else "less than a day"


@dataclass(frozen=True, slots=True)
class TLSSettings:
    """Where the certificate comes from, and which clients may connect: paths of files. Without any, it is self-signed.

    Attributes:
        certificate: PEM; may hold the chain and the private key too.
        privateKey: PEM, not encrypted.
        chain: PEM, the issuers of `certificate`.
        keyStore: PKCS #12, instead of the three above.
        keyStorePassword: see `twisted_ws.wire.tls.certificates.readPassword`.
        clientCA: PEM; a client must show a certificate that one of these has issued. Each is trusted as it is, so an intermediate
            authority needs no root with it.
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
        now: returns the current time, with its zone.
        limits: `tlsMessages` applies to all contexts of the process: the last one set wins.

    Attributes:
        settings: those in use.
        limits: as given.
        handshakes: those that have ended, by version and result.

    Raises:
        ConfigurationError: something cannot be used; the text names the file and the remedy.
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
        self.handshakes = Table(2)
        self._load(settings)

    def reload(self, settings: TLSSettings | None = None) -> None:
        """Read every file again, and use the contents for new handshakes; open connections go on unchanged.

        Earlier sessions are not resumed, so that every client is judged by the new client CA file.

        Args:
            settings: the new settings; None: the same.

        Raises:
            ConfigurationError: something cannot be used; everything stays as it was.
        """
        self._load(self.settings if settings is None else settings)

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate in use."""
        return self._key.certificate

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the certificate in use, as ``AA:BB:...``."""
        return self._key.fingerprint

    def daysLeft(self) -> float:
        """Return the days until the certificate in use expires; negative when it has expired."""
        return self._key.daysLeft(self._now())

    @property
    def expires(self) -> float:
        """The Unix time at which the certificate in use expires."""
        return self._key.certificate.not_valid_after_utc.timestamp()

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        """Return the OpenSSL side of one new connection (`IOpenSSLServerConnectionCreator`)."""
        return SSL.Connection(self._context, None)

    def connection(self, descriptor: int) -> SSL.Connection:
        """Return the OpenSSL side of a connection on a socket, by its descriptor."""
        return SSL.Connection(self._context, descriptor)  # type: ignore[arg-type]  # it asks a socket for nothing else

    def wrap(self, factory: IProtocolFactory, reactor: Any) -> IProtocolFactory:
        """Return a factory for protocols that speak TLS below those of `factory`.

        What the protocols of `factory` can rely on:

        - `makeConnection` comes before the handshake, so that one deadline covers handshake and head; the handshake itself has
          none. `peerCertificate` works from the first `dataReceived` on.
        - Their transport writes to the TCP transport at once, in order. A producer registered with it is paused and resumed by
          the TCP transport's buffer, whose size is ``transport.transport.bufferSize``. `pauseProducing` stops reading from the
          socket; what was read already (at most one read, 64 KiB) is still delivered.
        - When the peer ends TLS, or breaks it, the producer is told to stop, and the connection closes once the TCP buffer is
          empty. `loseConnection` sends our close_notify and waits for the peer's. Neither wait has a limit here: the caller keeps
          a deadline and then calls `abortConnection`, which is safe at any time.
        - A failed handshake is a `connectionLost` with an `OpenSSL.SSL.Error`, for `reportFailure`.
        """
        return TLSFactory(self, False, factory, reactor)

    def _load(self, settings: TLSSettings) -> None:
        now = self._now()
        if settings.minimum not in _VERSIONS:
            raise ConfigurationError(f'--tls-minimum must be 1.2 or 1.3, not "{printable(settings.minimum)}".')
        key = _loadKey(settings, now)
        authorities = () if settings.clientCA is None else loadAuthorities(settings.clientCA)
        context = _makeContext(key, authorities, settings.minimum)
        speedups.tlsAllow(context, self.limits.tlsMessages)
        context.set_app_data(self.handshakes)
        # Nothing fails from here on: the old context is given up only for a complete new one.
        self.settings = settings
        self._key = key
        self._context = context
        _report(key, now)
        for each in authorities:
            if each.not_valid_after_utc < now:
                name = printable(each.subject.rfc4514_string())
                _log.warn(
                    "{file}: the client CA {name} has expired, and its clients are refused.",
                    file=settings.clientCA,
                    name=name,
                    event="certificate.expired",
                )


def _loadKey(settings: TLSSettings, now: datetime) -> CertifiedKey:
    parts = settings.privateKey is not None or settings.chain is not None
    if settings.keyStore is not None:
        if settings.certificate is not None or parts:
            raise ConfigurationError(
                "--key-store has certificate, key and chain: leave out --certificate, --private-key and --chain."
            )
        return loadKeyStore(settings.keyStore, settings.keyStorePassword)
    if settings.certificate is not None:
        return loadPEM(settings.certificate, settings.privateKey, settings.chain)
    if parts:
        raise ConfigurationError("--private-key and --chain belong to a certificate: give --certificate too.")
    return loadSelfSigned(settings.stateDirectory, now)


def _makeContext(key: CertifiedKey, authorities: Sequence[x509.Certificate], minimum: str) -> SSL.Context:
    context = newContext(SSL.TLS_SERVER_METHOD, _VERSIONS[minimum])
    # An idle connection gives its 32 KiB of record buffers back.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    # Sessions are kept in the clients' tickets, encrypted with a key of this context, and take no memory here. With mutual TLS,
    # OpenSSL resumes none without a session id context.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(b"twisted_ws")
    context.set_timeout(_TICKET_SECONDS)
    context.set_alpn_select_callback(_selectProtocol)
    showKey(context, key, "certificate")
    if authorities:
        trust(context, authorities)
        for each in authorities:
            context.add_client_ca(each)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    return context


def _selectProtocol(connection: SSL.Connection, offered: Sequence[bytes]) -> bytes:
    """Choose http/1.1, else http/1.0, or end the handshake with the alert no_application_protocol (RFC 7301 section 3.2).

    An exception makes pyOpenSSL send the alert; as an `SSL.Error`, it then ends this handshake as any other failure does. An
    empty answer would select a protocol with an empty name.
    """
    for protocol in _PROTOCOLS:
        if protocol in offered:
            return protocol
    raise SSL.Error([("SSL routines", "", "no application protocol")])


def _report(key: CertifiedKey, now: datetime) -> None:
    certificate, days = key.certificate, key.daysLeft(now)
    facts = {"file": key.source, "fingerprint": key.fingerprint, "until": f"{certificate.not_valid_after_utc:%Y-%m-%d}"}
    if key.selfSigned:
        _log.info(
            "No certificate is given: using the self-signed one for localhost in {file}, SHA-256 {fingerprint}.",
            event="certificate.ready",
            **facts,
        )
        return
    _log.info("TLS certificate {file}, SHA-256 {fingerprint}, valid until {until}.", **facts, event="certificate.ready")
    if days < 0:
        _log.warn(
            "The certificate {file} HAS EXPIRED on {until}, and clients refuse it: renew it, then reload.",
            **facts,
            event="certificate.expired",
        )
    elif certificate.not_valid_before_utc > now:
        _log.warn(
            "The certificate {file} is NOT VALID BEFORE {since}, and clients refuse it: check this machine's clock.",
            since=f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
            **facts,
            event="certificate.early",
        )
    elif days < WARN_DAYS:
        _log.warn(
            "The certificate {file} expires in {left}, on {until}: renew it, then reload.",
            left=inWords(days),
            **facts,
            event="certificate.expires",
        )
