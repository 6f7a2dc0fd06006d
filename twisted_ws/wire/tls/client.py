"""TLS on a client's side: which certificates it trusts, and which name must be on the server's."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any, NamedTuple

from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import extract_patterns
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IProtocolFactory
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from twisted_ws.logs import printable
from twisted_ws.wire.tls.certificates import CertifiedKey
from twisted_ws.wire.tls.contexts import newContext, showKey, trust
from twisted_ws.wire.tls.transport import TLSTransport

# OpenSSL's X509_V_ERR_..., from x509_vfy.h.
_NOT_YET_VALID = 9
_EXPIRED = 10
_UNKNOWN_ISSUER = {2, 18, 19, 20, 21, 27}


class Refusal(NamedTuple):
    """Why a server's certificate was refused.

    Attributes:
        text: one line, with the remedy.
        isWrongName: whether the certificate is trusted, but for another name.
    """

    text: str
    isWrongName: bool = False


class _ClientTransport(TLSTransport):
    """The TLS of one connection.

    Attributes:
        refusal: why the server's certificate was refused; None unless it was.
    """

    refusal: Refusal | None = None


class _Factory(TLSMemoryBIOFactory):
    protocol = _ClientTransport


@implementer(IOpenSSLClientConnectionCreator)
class ClientTLS:
    """TLS to one server, for any number of connections.

    Args:
        host: the name or IP address that must be on the server's certificate.
        trusted: the certificates that are trusted; None: the system's authorities.
        key: the client's private key with its certificate; None for none.
        verify: False accepts any certificate, and says so in the log.

    Raises:
        ConfigurationError: OpenSSL refuses one of the certificates.
    """

    _log = Logger()

    def __init__(
        self, host: str, trusted: Sequence[x509.Certificate] | None = None, key: CertifiedKey | None = None, verify: bool = True
    ) -> None:
        self._host = host = host.removesuffix(".")
        self._wanted = _idOf(host)
        self._verify = verify
        if not verify:
            self._log.warn(
                "The certificate of {name} is NOT VERIFIED: anybody on the way can read and change everything.",
                name=host,
                event="tls.unverified",
            )
        self._context = _context(trusted, key)

    def wrap(self, factory: IProtocolFactory, reactor: Any) -> IProtocolFactory:
        """Return a factory for protocols that speak TLS below those of `factory`."""
        return _Factory(self, True, factory, reactor)

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """Return the OpenSSL side of one connection (`IOpenSSLClientConnectionCreator`)."""
        connection = SSL.Connection(self._context, None)
        if isinstance(self._wanted, DNS_ID):
            connection.set_tlsext_host_name(self._host.encode("ascii"))  # never an address: RFC 6066 section 3
        if not self._verify:
            connection.set_verify(SSL.VERIFY_NONE, None)
            return connection

        def judge(_: SSL.Connection, certificate: X509, code: int, depth: int, ok: int) -> bool:
            # Nothing must be raised into OpenSSL: it would be lost.
            try:
                refusal = self.judge(certificate, code, depth, bool(ok))
            except Exception as error:
                self._log.failure("a certificate could not be verified", event="tls.broken")
                refusal = Refusal(f"the certificate of {self._host} cannot be read ({type(error).__name__})")
            if refusal is not None and tlsProtocol.refusal is None:
                tlsProtocol.refusal = refusal
            return refusal is None

        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, judge)
        return connection

    def judge(self, certificate: X509, code: int, depth: int, ok: bool) -> Refusal | None:
        """Judge one certificate of the server's chain; the leaf, which must have the name, comes last.

        Args:
            certificate: the certificate.
            code: OpenSSL's verification error, 0 for none.
            depth: how many certificates stand between it and the leaf.
            ok: whether OpenSSL trusts it.

        Returns:
            Why the connection is refused; None if it is not, because of this certificate.
        """
        found = certificate.to_cryptography()
        if not ok:
            return Refusal(f"the certificate of {self._host} is not trusted: {_why(found, code)}")
        if depth:
            return None
        try:
            verify_service_identity(extract_patterns(found), [self._wanted], [])
        except (VerificationError, CertificateError):
            names = ", ".join(_names(found)) or "no name"
            text = f'the server\'s certificate is not for "{printable(self._host, 100)}" but for {printable(names, 200)}'
            return Refusal(f"{text}: connect by a name that is on it, or have one issued for this name", isWrongName=True)
        return None


def _idOf(host: str) -> DNS_ID | IPAddress_ID:
    try:
        ip_address(host)
    except ValueError:
        return DNS_ID(host)
    return IPAddress_ID(host)


def _context(trusted: Sequence[x509.Certificate] | None, key: CertifiedKey | None) -> SSL.Context:
    context = newContext(SSL.TLS_CLIENT_METHOD)
    context.set_alpn_protos([b"http/1.1"])
    if trusted is None:
        context.set_default_verify_paths()
    else:
        trust(context, trusted)
    if key is not None:
        showKey(context, key, "client certificate")
    return context


def _why(certificate: x509.Certificate, code: int) -> str:
    subject = printable(certificate.subject.rfc4514_string(), 100)
    if code == _EXPIRED:
        return f"that of {subject} expired on {certificate.not_valid_after_utc:%Y-%m-%d}; its owner has to renew it"
    if code == _NOT_YET_VALID:
        return f"that of {subject} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}; check this machine's clock"
    if code in _UNKNOWN_ISSUER:
        issuer = printable(certificate.issuer.rfc4514_string(), 100)
        return f"its authority {issuer} is unknown here; if you trust it, give its certificate as trustStore"
    return f"OpenSSL's verification error {code} for {subject}"


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
